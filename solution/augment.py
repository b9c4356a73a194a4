"""Label-preserving augmentation of labelled frames for the segmenter, reproducible for every sample.

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
                A.CropNonEmptyMaskIfExists(*crop, ignore_values=[BACKGROUND, IGNORE]),
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
