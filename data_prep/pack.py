"""PNG folders → memory-mapped uint8 arrays, and the way every other module opens them.

``DIR/SPLIT/frames.npy`` is (N, T, 160, 240, 3), ``masks.npy`` (N, T, 160, 240) for train and val, and ``index.json``,
written last, says that the split is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.competition import SPLITS, Problem
from data_prep.errors import UserError


@dataclass(frozen=True)
class PackedSplit:
    """One split as read-only arrays.

    Attributes:
        name: ``train``, ``val``, ``unlabeled`` or ``hidden``.
        videos: the number of the video in every row.
        frames: (N, T, 160, 240, 3) uint8 RGB; T is 22, of ``hidden`` 11.
        masks: (N, T, 160, 240) uint8, 255 = ignore; None where the split has no masks.
        problems: what was wrong with the raw files.
    """

    name: str
    videos: list[int]
    frames: np.memmap
    masks: np.memmap | None
    problems: list[Problem]

    def __len__(self) -> int:
        return len(self.videos)


def is_packed(folder: Path) -> bool:
    """Return whether at least one split of a packed competition is complete in ``folder``."""
    return any((folder / split / "index.json").is_file() for split in SPLITS)


def open_packed(folder: Path) -> dict[str, PackedSplit]:
    """Open every split of a packed competition without reading its arrays.

    Raises:
        UserError: ``folder`` holds no packed split, or one whose packing was interrupted or whose files disagree.
    """
    packed = {split: open_split(folder / split) for split in SPLITS if (folder / split).is_dir()}
    if not packed:
        raise UserError(
            f"{folder} holds no packed competition; make one with `python -m data_prep.pack DATA {folder}`."
        )
    return packed


def open_split(folder: Path) -> PackedSplit:
    """Open one packed split, such as ``DIR/val``; see :func:`open_packed`."""
    try:
        index = json.loads((folder / "index.json").read_text())
        frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
        has_masks = (folder / "masks.npy").is_file()
        masks = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False) if has_masks else None
        videos = [int(number) for number in index["videos"]]
        problems = [Problem(**problem) for problem in index["problems"]]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: packing {folder} was not finished; pack it again.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a readable packed split ({error}); delete it and pack again.") from None
    for array in (frames, masks):
        if array is not None and (len(array) != len(videos) or array.dtype != np.uint8):
            found = f"{array.dtype} of shape {array.shape}"
            raise UserError(f"{array.filename} should be uint8 with {len(videos)} rows, found {found}; pack it again.")
    return PackedSplit(folder.name, videos, frames, masks, problems)


def write_index(folder: Path, videos: Sequence[int], problems: Sequence[Problem], source: dict) -> None:
    """Declare a packed split complete: write its ``index.json`` atomically.

    Args:
        folder: the split's folder, which already holds its arrays.
        videos: the number of the video in every row.
        problems: what was wrong with the raw files.
        source: JSON values that say where the arrays come from.
    """
    index = {
        "split": folder.name,
        "videos": [int(number) for number in videos],
        "problems": [asdict(problem) for problem in problems],
        "source": source,
    }
    unfinished = folder / "index.json.tmp"
    try:
        unfinished.write_text(json.dumps(index, indent=1))
        os.replace(unfinished, folder / "index.json")
    finally:
        unfinished.unlink(missing_ok=True)
