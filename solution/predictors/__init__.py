"""The one protocol of the kit: a clip of 11 frames in, class probabilities of frame 22 out.

Baselines, the reports' systems and our own all implement it; views, ensembling, decoding, validation and submission
are written once against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """What a predictor may look at.

    Attributes:
        frames: (B, 11, 160, 240, 3) uint8 RGB, frames 1–11; None in a stand-in of masks only.
        masks: (B, 11, 160, 240) uint8, the segmenter's classes 0–48 on those frames.
        copies: the same frames with the masks of other copies' segmenters, where the ensemble has copies.
    """

    frames: Tensor | None
    masks: Tensor
    copies: tuple[Clip, ...] = ()

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, clips: slice) -> Clip:
        frames = None if self.frames is None else self.frames[clips]
        return Clip(frames, self.masks[clips], tuple(copy[clips] for copy in self.copies))

    def flipped(self) -> Clip:
        """Return the clip mirrored left to right."""
        frames = None if self.frames is None else self.frames.flip(-2)
        return Clip(frames, self.masks.flip(-1), tuple(copy.flipped() for copy in self.copies))


class Predictor(Protocol):
    """Anything that maps a clip to probabilities of frame 22.

    Attributes:
        symmetries: which of ``VIEWS`` it was trained to be invariant to.
    """

    symmetries: frozenset[str]

    def predict(self, clip: Clip) -> Tensor:
        """Return (B, 49, 160, 240) float32 probabilities that sum to 1 over the classes, on the clip's device."""
        ...


@dataclass(frozen=True)
class View:
    """A test-time view: how to look at a clip, and how to bring back the (B, 49, 160, 240) probabilities of that."""

    see: Callable[[Clip], Clip]
    back: Callable[[Tensor], Tensor]


VIEWS = {"flip": View(Clip.flipped, lambda probabilities: probabilities.flip(-1))}
"""A member averages the plain clip and those of these that it learned; training mirrors clips as well."""
