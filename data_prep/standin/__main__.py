"""The command that makes a stand-in competition."""

import time
from pathlib import Path

import click

from data_prep.device import usable_device
from data_prep.errors import exits_cleanly
from data_prep.standin.writer import Settings, make_standin

COUNT = click.IntRange(0)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new competition.")
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
@exits_cleanly
def main(
    out: Path, packed: bool, masks_only: bool, imprecise: bool, tracks: tuple[Path, ...], device: str, **sizes: int
) -> None:
    """Make a stand-in competition: invented videos in the layout of the real one."""
    if packed and masks_only:
        raise click.UsageError("--packed and --masks-only exclude each other.")
    if masks_only and imprecise:
        raise click.UsageError("--masks-only makes the masks that a flawless segmenter would; leave out --imprecise.")
    usable_device(device)
    kind = "masks" if masks_only else "packed" if packed else "raw"
    settings = Settings(**sizes, kind=kind, labels="imprecise" if imprecise else "exact")
    start = time.perf_counter()
    made = make_standin(out, settings, device, tracks)
    seconds = time.perf_counter() - start
    what = "masks" if masks_only else "frames"
    click.echo(f"{out} is complete: {made} {what} made in {seconds:.1f} s, {made / seconds:.0f} {what}/s.")


if __name__ == "__main__":
    main()
