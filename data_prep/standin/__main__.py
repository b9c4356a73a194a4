"""The commands of the stand-in competition: make one, compare its statistics and its look with the real one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from data_prep.errors import exits_cleanly
from data_prep.standin.writer import Settings, make_standin


@click.group(invoke_without_command=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new competition.")
@click.option("--train", default=400, show_default=True, help="Videos with 22 frames and masks.")
@click.option("--val", default=100, show_default=True, help="The same, for scoring.")
@click.option("--unlabeled", default=0, show_default=True, help="Videos with 22 frames.")
@click.option("--hidden", default=100, show_default=True, help="Videos with 11 frames; the truth goes to a file.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same videos.")
@click.option("--packed", is_flag=True, help="Memory-mapped arrays at once instead of PNG folders.")
@click.option("--masks-only", is_flag=True, help="Masks and tracks as arrays, no frames.")
@click.option("--device", default="cpu", show_default=True, help="Where frames are rendered, such as cuda.")
@click.pass_context
@exits_cleanly
def main(
    context: click.Context,
    out: Path | None,
    train: int,
    val: int,
    unlabeled: int,
    hidden: int,
    seed: int,
    packed: bool,
    masks_only: bool,
    device: str,
) -> None:
    """Make a stand-in competition: invented videos in the layout of the real one."""
    if context.invoked_subcommand:
        return
    if out is None:
        raise click.UsageError("--out is missing: name the folder of the new competition.")
    if packed and masks_only:
        raise click.UsageError("--packed and --masks-only exclude each other.")
    kind = "masks" if masks_only else "packed" if packed else "raw"
    start = time.perf_counter()
    made = make_standin(out, Settings(train, val, unlabeled, hidden, seed, kind), device)
    seconds = time.perf_counter() - start
    what = "masks" if masks_only else "frames"
    click.echo(f"{out} is complete: {made} {what} made in {seconds:.1f} s, {made / seconds:.0f} {what}/s.")


if __name__ == "__main__":
    main()
