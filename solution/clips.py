"""What there is to learn from, and which videos a training step sees: arrays drawn from as if they were one.

Reading and shaping what was drawn is the business of each predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.errors import UserError
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES


@dataclass(frozen=True)
class MaskVideos:
    """Videos to learn from.

    Attributes:
        inputs: (N, 22, 160, 240) uint8, what the segmenter sees.
        targets: (N, 22, 160, 240) uint8, the truth or, where nobody knows it, the same as ``inputs``; 255 = ignore.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows) -> MaskVideos:
        return MaskVideos(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class FrameVideos:
    """Videos to learn from: some rows of memory-mapped arrays, which nobody copies.

    Attributes:
        frames: (N, 22, 160, 240, 3) uint8 RGB.
        masks: (N, 22, 160, 240) uint8, true or the segmenter's; 255 = ignore. None where no masks are learned.
        rows: (n,) which of the N videos.
        seen: like ``masks``, what the segmenter sees; None where ``masks`` are that or nobody looks at frames 1–11.
    """

    frames: np.ndarray
    masks: np.ndarray | None
    rows: np.ndarray
    seen: np.ndarray | None = None

    def video(self, index: int) -> list[np.ndarray]:
        """Return the (22, 160, 240, 3) frames of a row and, where there are, its (22, 160, 240) masks.

        Those of frames 1–11 are what the segmenter sees.
        """
        row = self.rows[index]
        if self.masks is None:
            return [self.frames[row]]
        if self.seen is None:
            return [self.frames[row], self.masks[row]]
        return [self.frames[row], np.concatenate((self.seen[row, :CLIP_FRAMES], self.masks[row, CLIP_FRAMES:]))]


@dataclass(frozen=True)
class TrainingVideos:
    """All that a member may learn from; nothing of it is in val or hidden.

    Attributes:
        masks: labelled videos, and unlabeled ones with what the segmenter sees as their truth.
        frames: the same videos as frames with those masks; empty in a stand-in of masks only.
        held_out: labelled videos to be looked at in training and never learned from.
        held_out_frames: the same as frames; None in a stand-in of masks only.
    """

    masks: list[MaskVideos]
    frames: list[FrameVideos]
    held_out: MaskVideos
    held_out_frames: FrameVideos | None


def draw_videos(lengths: Sequence[int], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return ``count`` pairs (part, row), every row of parts with these many rows equally likely."""
    ends = np.cumsum(lengths)
    drawn = rng.integers(ends[-1], size=count)
    parts = np.searchsorted(ends, drawn, side="right")
    return [(int(part), int(row - ends[part] + lengths[part])) for part, row in zip(parts, drawn, strict=True)]


def with_frames(split: PackedSplit) -> PackedSplit:
    """Return the split.

    Raises:
        UserError: it holds masks only.
    """
    if split.frames is None:
        folder = Path(split.masks.filename).parent
        raise UserError(f"{folder} has no frames to learn from; train members that look at masks: objects, masks.")
    return split
