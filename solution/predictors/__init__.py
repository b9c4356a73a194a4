"""The one protocol of the kit: a clip of 11 frames in, class probabilities of frame 22 out.

The reports' systems and our own all implement it; views, ensembling, decoding, validation and submission are written
once against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from solution.clips import TrainingVideos
from solution.config import Config


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
class Member:
    """A predictor that an ensemble can have as a member: the ``MEMBER`` of its file; its last stage has its name.

    Attributes:
        load: returns the predictor that the last stage left in its folder.
        networks: builds untrained networks of a config, which shows whether it can be done.
        train: leaves in a folder what ``load`` finds there, given config, videos, folder, device and seed; None where
            ``solution.pipeline`` has methods for its stages.
        used: what of a config decides the result of ``train``, as JSON.
        reads_unlabeled: whether unlabeled videos teach it anything in a config.
        at_once: clips that it is shown at a time, at most; the largest tensors of 32 in any preset stay below the
            2**31 elements that convolutions on a GPU can be relied on to index.
        readers: by name, loads from the last stage's folder what it reads masks off frames with, where that is not the
            segmenter.
    """

    load: Callable[[Path, torch.device], Predictor]
    networks: Callable[[Config], object] = lambda config: None
    train: Callable[[Config, TrainingVideos, Path, torch.device, int], object] | None = None
    used: Callable[[Config], dict] = lambda config: {}
    reads_unlabeled: Callable[[Config], bool] = lambda config: True
    at_once: int = 32
    readers: dict[str, Callable[[Path, torch.device], nn.Module]] | None = None


@dataclass(frozen=True)
class View:
    """A test-time view: how to look at a clip, and how to bring back the (B, 49, 160, 240) probabilities of that."""

    see: Callable[[Clip], Clip]
    back: Callable[[Tensor], Tensor]


VIEWS = {"flip": View(Clip.flipped, lambda probabilities: probabilities.flip(-1))}
"""A member averages the plain clip and those of these that it learned; training mirrors clips as well."""
