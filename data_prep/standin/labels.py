"""Exact masks made as imprecise as a detector's: ragged, at times missing or mistaken, as the competition's are.

Nobody published how imprecise those are; students' U-Nets reached a Jaccard of .955 to .969 on them, and exact masks
reach .975 and .979 on these (twice 200 videos).
"""

import cv2
import numpy as np

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES, class_id, class_parts

GRID, FINER = 28, 4
"""Cells along a side of the box a mask is predicted in (Mask R-CNN; He et al., ICCV 2017), and samples of each."""
BLUR = 0.9
"""Of a mask in its box, cells."""
UNEVEN, LUMPS = 0.06, 7
"""Standard deviation of the errors of a mask in its box, and how many of them stand along a side."""
BOX_ERROR = 0.2
"""Standard deviation of each side of a box, pixels."""
SMALL, MISSED = 60, 0.3
"""Pixels under which an object is missed, and how often then."""
MISTAKEN = 0.005
"""Share of the objects in a frame that get another shape, material or colour."""
STRAY = 0.005
"""Share of the frames with a spot of some class where nothing is, and of those with a pixel that is no class at all."""
SPOT = 4
"""Pixels along a side of such a spot."""


def imprecise(masks: np.ndarray, seed: int) -> np.ndarray:
    """Return (T, 160, 240) uint8 labels of the exact masks of a video, (T, 160, 240) uint8; 255 is no class."""
    random = np.random.default_rng((seed, 1))
    return np.stack([_imprecise(mask, random) for mask in masks])


def _imprecise(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    labels = np.zeros_like(mask)
    objects = np.setdiff1d(mask, (BACKGROUND, IGNORE))
    for number in random.permutation(objects):
        visible = mask == number
        if visible.sum() < SMALL and random.random() < MISSED:
            continue
        labels[_detected(visible, random)] = _mistaken(number, random) if random.random() < MISTAKEN else number
    height, width = mask.shape
    if random.random() < STRAY:
        row, column = random.integers(height - SPOT), random.integers(width - SPOT)
        labels[row : row + SPOT, column : column + SPOT] = random.integers(1, NUM_CLASSES)
    if random.random() < STRAY:
        labels[random.integers(height), random.integers(width)] = IGNORE
    return labels


def _detected(visible: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the (H, W) bool mask that a detector gives of an object whose visible pixels are (H, W) bool."""
    rows, columns = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
    sides = np.array([[rows[0], rows[-1] + 1], [columns[0], columns[-1] + 1]])
    crop = visible[slice(*sides[0]), slice(*sides[1])].astype(np.float32)
    finer = cv2.resize(crop, (FINER * GRID, FINER * GRID), interpolation=cv2.INTER_LINEAR)
    cells = cv2.resize(finer, (GRID, GRID), interpolation=cv2.INTER_AREA)
    cells = cv2.GaussianBlur(np.pad(cells, 1), (0, 0), BLUR, borderType=cv2.BORDER_CONSTANT)
    lumps = random.normal(0, UNEVEN, (LUMPS, LUMPS)).astype(np.float32)
    cells += cv2.resize(lumps, cells.shape, interpolation=cv2.INTER_CUBIC)
    first, last = (sides + random.normal(0, BOX_ERROR, sides.shape)).T
    row, column = (
        ((np.arange(size) + 0.5 - start) / max(stop - start, 1.0) * GRID + 0.5).astype(np.float32)
        for size, start, stop in zip(visible.shape, first, last, strict=True)
    )
    return cv2.remap(cells, *np.meshgrid(column, row), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT) > 0.5


def _mistaken(number: int, random: np.random.Generator) -> int:
    """Return a class that shares two of shape, material and colour with another."""
    parts, kinds = list(class_parts(int(number))), (3, 2, 8)
    which = random.integers(len(kinds))
    parts[which] = (parts[which] + random.integers(1, kinds[which])) % kinds[which]
    return class_id(*parts)
