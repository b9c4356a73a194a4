"""The commands of the stand-in competition: make one, compare its statistics and its look with the real one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from data_prep.device import usable_device
from data_prep.errors import exits_cleanly
from data_prep.standin.stats import measure, picture, table
from data_prep.standin.writer import Settings, make_standin

COUNT = click.IntRange(0)


@click.group(invoke_without_command=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new competition.")
@click.option("--train", type=COUNT, default=400, show_default=True, help="Videos with 22 frames and masks.")
@click.option("--val", type=COUNT, default=100, show_default=True, help="The same, for scoring.")
@click.option("--unlabeled", type=COUNT, default=0, show_default=True, help="Videos with 22 frames.")
@click.option("--hidden", type=COUNT, default=100, show_default=True, help="Videos with 11 frames; truth in a file.")
@click.option("--seed", type=COUNT, default=0, show_default=True, help="Same seed, same videos.")
@click.option("--packed", is_flag=True, help="Memory-mapped arrays at once instead of PNG folders.")
@click.option("--masks-only", is_flag=True, help="Masks and tracks as arrays, no frames.")
@click.option("--imprecise", is_flag=True, help="Masks as a detector gives them, not exact ones.")
@click.option(
    "--tracks", type=click.Path(path_type=Path), multiple=True, help="Film these tracks: one file, or one a split."
)
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
    imprecise: bool,
    tracks: tuple[Path, ...],
    device: str,
) -> None:
    """Make a stand-in competition: invented videos in the layout of the real one."""
    if context.invoked_subcommand:
        return
    if out is None:
        raise click.UsageError("--out is missing: name the folder of the new competition.")
    if packed and masks_only:
        raise click.UsageError("--packed and --masks-only exclude each other.")
    if masks_only and imprecise:
        raise click.UsageError("--masks-only makes the masks that a flawless segmenter would; leave out --imprecise.")
    usable_device(device)
    kind = "masks" if masks_only else "packed" if packed else "raw"
    start = time.perf_counter()
    labels = "imprecise" if imprecise else "exact"
    made = make_standin(out, Settings(train, val, unlabeled, hidden, seed, kind, labels), device, tracks)
    seconds = time.perf_counter() - start
    what = "masks" if masks_only else "frames"
    click.echo(f"{out} is complete: {made} {what} made in {seconds:.1f} s, {made / seconds:.0f} {what}/s.")


@main.command("stats")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--videos", type=click.IntRange(1), default=500, show_default=True, help="Count in at most so many.")
@exits_cleanly
def stats_command(folder: Path, videos: int) -> None:
    """Print statistics of the competition in FOLDER (raw, packed or masks only) beside the real one's."""
    click.echo(table(measure(folder, videos)))


@main.command("picture")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--real", required=True, type=click.Path(path_type=Path), help="The competition to compare with.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG to write.")
@exits_cleanly
def picture_command(folder: Path, real: Path, out: Path) -> None:
    """Put frames of FOLDER beside those of another competition."""
    picture(folder, real, out)
    click.echo(f"{out}: left {folder}, right {real}; frames 0, 10 and 21.")


if __name__ == "__main__":
    main()
