"""Augmentation of labelled frames for the segmenter, reproducible for every sample.

Hue is never touched: colour is part of the class.
"""

from __future__ import annotations

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A  # noqa: E402  the variable must be set before the import

from data_prep.classes import BACKGROUND, IGNORE  # noqa: E402


class FrameAugmentation:
    """Crop around something, mirror, bend a little, and vary light and noise.

    Args:
        crop: (height, width) of the crop in pixels.
    """

    def __init__(self, crop: tuple[int, int]):
        self.compose = A.Compose(
            [
                A.CropNonEmptyMaskIfExists(*crop),
                A.HorizontalFlip(p=0.5),
                A.Affine(scale=(0.8, 1.25), rotate=(-8, 8), shear=(-5, 5), fill_mask=IGNORE, p=0.5),
                A.RandomBrightnessContrast(0.08, 0.08, p=0.5),
                A.GaussNoise((0.004, 0.012), p=0.3),
                A.GaussianBlur((3, 3), p=0.1),
            ]
        )

    def __call__(self, frame: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a crop of (H, W, 3) uint8 ``frame`` and (H, W) uint8 ``mask``; the same seed gives the same crop."""
        self.compose.set_random_seed(seed)
        out = self.compose(image=frame, mask=mask)
        return out["image"], out["mask"]


def pasted(
    frame: np.ndarray, mask: np.ndarray, other: np.ndarray, other_mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put all objects of another frame where they stand there (copy-paste; Ghiasi et al., CVPR 2021).

    The camera never moves, so only their shadows are missing. What reaches lower in the image is nearer and hides the
    other; unknown pixels stay unknown.

    Args:
        frame, other: (H, W, 3) uint8.
        mask, other_mask: (H, W) uint8.

    Returns:
        A new frame and its mask.
    """
    seen = (other_mask != BACKGROUND) & (other_mask != IGNORE) & (mask != IGNORE)
    rows, columns = np.divmod(np.flatnonzero(seen), mask.shape[1])
    nearer = last_pixels(other_mask)[other_mask[rows, columns]] > last_pixels(mask)[mask[rows, columns]]
    put = rows[nearer], columns[nearer]
    frame, mask = frame.copy(), mask.copy()
    frame[put], mask[put] = other[put], other_mask[put]
    return frame, mask


def pasted_video(
    frames: np.ndarray, masks: np.ndarray, others: np.ndarray, other_masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the objects of another video into every frame; see :func:`pasted`.

    Class is identity: objects whose class the video has itself stay out.

    Args:
        frames, others: (T, H, W, 3) uint8.
        masks, other_masks: (T, H, W) uint8.
    """
    label = np.arange(256, dtype=np.uint8)
    label[np.unique(masks)] = BACKGROUND
    both = [pasted(*each) for each in zip(frames, masks, others, label[other_masks], strict=True)]
    frames, masks = (np.stack(parts) for parts in zip(*both, strict=True))
    return frames, masks


def last_pixels(mask: np.ndarray) -> np.ndarray:
    """Return (256,) the last pixel of each label, row after row; -1 for the floor and what is not there."""
    labels, last = mask.ravel(), np.full(256, -1)
    pixels = np.flatnonzero(labels != BACKGROUND)
    last[labels[pixels]] = pixels  # where a label comes again, the last one stays
    return last
