"""One object, one class: a vote over a clip's frames settles which shape an object has.

The segmenter decides every frame by itself and sometimes calls a cube a cylinder; material and colour it hardly ever
mistakes. Nothing here looks at a frame or runs a network.
"""

from __future__ import annotations

import numpy as np

from data_prep.classes import COLOURS, MATERIALS, NUM_CLASSES, SHAPES
from data_prep.scene import CLIP_FRAMES

KINDS = len(MATERIALS) * len(COLOURS)
MIN_PIXELS = 8
APART = 0.5
"""Two regions are two objects if their centres are further apart than this share of an object's height."""
SEEN_APART = 0.25
"""Two shapes of one material and colour are two objects if they are apart in this share of the frames with either."""


def settle_shapes(masks: np.ndarray) -> np.ndarray:
    """Give all regions of one object the shape that most of its pixels have.

    Objects of frames 1–11 are settled by these frames alone, so that what a predictor is given never depends on the
    frames after them; later frames follow, and objects that are new there are settled by them.

    Args:
        masks: (T, 160, 240) uint8 classes 0–48 of one video.

    Returns:
        The same with classes renamed.
    """
    area, centre = _regions(masks)
    rename = np.arange(256, dtype=np.uint8)
    for kind in range(KINDS):
        members = 1 + kind + KINDS * np.arange(len(SHAPES))
        clip = area[:CLIP_FRAMES, members] >= MIN_PIXELS
        frames = slice(CLIP_FRAMES) if clip.any() else slice(None)
        for loser, winner in _same_object(area[frames, members], centre[frames, members]):
            rename[members[loser]] = members[winner]
    if (rename == np.arange(256)).all():
        return masks
    rename = rename[rename]  # a loser's winner may have lost to the third shape
    return rename[masks]


def _regions(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (T, 49) pixels of every class and (T, 49, 2) mean (row, column) of them."""
    t, row, column = masks.nonzero()
    key = t * NUM_CLASSES + masks[t, row, column]
    size = len(masks) * NUM_CLASSES
    area = np.bincount(key, minlength=size)
    sums = [np.bincount(key, weights, size) for weights in (row, column)]
    centre = np.stack(sums, -1) / np.maximum(area, 1)[:, None]
    return area.reshape(-1, NUM_CLASSES), centre.reshape(-1, NUM_CLASSES, 2)


def _same_object(area: np.ndarray, centre: np.ndarray) -> list[tuple[int, int]]:
    """Return (loser, winner) among the three shapes of one material and colour; the most pixels win.

    ``area``: (T, 3) pixels; ``centre``: (T, 3, 2) mean (row, column).
    """
    seen = area >= MIN_PIXELS
    renamed = []
    order = np.argsort(area.sum(0), kind="stable")
    for place, loser in enumerate(order[:-1]):
        if not area[:, loser].any():
            continue
        for winner in order[:place:-1]:
            both, either = seen[:, loser] & seen[:, winner], seen[:, loser] | seen[:, winner]
            distance = np.linalg.norm(centre[both, loser] - centre[both, winner], axis=-1)
            height = 13 + 0.23 * centre[both, winner, 0]
            if (distance > APART * height).sum() <= SEEN_APART * either.sum() and seen[:, winner].any():
                renamed.append((int(loser), int(winner)))
                break
    return renamed
