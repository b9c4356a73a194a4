"""Baselines without training: all background, the mask of frame 11 again, and damped constant velocity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.classes import NUM_CLASSES
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.predictors import Clip

DAMPING = 0.3
"""Mean step of the coming eleven frames as a share of the last one: the best of .3, .5, .7 on stand-in videos."""


def one_hot(mask: Tensor) -> Tensor:
    """Return (B, 49, H, W) float32 certainties of a (B, H, W) uint8 mask."""
    return F.one_hot(mask.long(), NUM_CLASSES).movedim(-1, 1).float()


class Background:
    """Predicts the empty floor."""

    symmetries: frozenset[str] = frozenset()

    def predict(self, clip: Clip) -> Tensor:
        return one_hot(torch.zeros_like(clip.masks[:, 0]))


class Copy:
    """Predicts the segmenter's mask of frame 11."""

    symmetries: frozenset[str] = frozenset()

    def predict(self, clip: Clip) -> Tensor:
        return one_hot(clip.masks[:, -1])


class DampedVelocity:
    """Moves every object of frame 11 on by a share of its last step in the image, eleven times."""

    symmetries: frozenset[str] = frozenset()

    def predict(self, clip: Clip) -> Tensor:
        before, last = one_hot(clip.masks[:, -2]), one_hot(clip.masks[:, -1])
        step = (_centre(last) - _centre(before)) * _whole(last) * _whole(before)
        shift = torch.round(DAMPING * (NUM_FRAMES - CLIP_FRAMES) * step).long()  # (B, 49, 2) rows, columns
        row_after = (_centre(last) + shift)[..., 0].tolist()
        masks, shift = clip.masks[:, -1].cpu(), shift.cpu()  # many small steps, which a GPU would be waited for in
        moved = torch.zeros_like(masks)
        for video, mask in enumerate(masks):
            labels = mask[mask > 0].unique().tolist()
            for label in sorted(labels, key=row_after[video].__getitem__):  # the lower in the image, the nearer
                row, column = ((mask == label).nonzero() + shift[video, label]).unbind(1)
                inside = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
                moved[video, row[inside], column[inside]] = label
        return one_hot(moved.to(clip.masks.device))


def _centre(masks: Tensor) -> Tensor:
    """Return (B, 49, 2) mean (row, column) of (B, 49, H, W) certainties; 0 where a class is absent."""
    rows = torch.arange(HEIGHT, device=masks.device, dtype=masks.dtype)
    columns = torch.arange(WIDTH, device=masks.device, dtype=masks.dtype)
    area = masks.sum((2, 3)).clamp_min(1)
    return torch.stack((masks.sum(3) @ rows, masks.sum(2) @ columns), -1) / area[..., None]


def _whole(masks: Tensor) -> Tensor:
    """Return (B, 49, 1) bool: the class is present and has no pixel on the image's edge."""
    edge = masks[:, :, 0].sum(-1) + masks[:, :, -1].sum(-1) + masks[:, :, :, 0].sum(-1) + masks[:, :, :, -1].sum(-1)
    return ((masks.sum((2, 3)) > 0) & (edge == 0))[..., None]


BASELINES = {"all background": Background(), "copy frame 11": Copy(), "damped velocity": DampedVelocity()}
