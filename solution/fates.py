"""Groups objects by what happened to them between frames 11 and 22, read off the true masks, for scores by group.

Each object of frame 22 has one fate, the first of ``FATES`` that fits.
"""

import numpy as np
import torch
from torch import Tensor

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES, SHAPE_OF_CLASS
from data_prep.scene import CLIP_FRAMES, RADIUS
from solution.motion import NEAR
from solution.tracks import COARSE, MIN_PIXELS, Outlines, boxes, profiles, scattered

FATES = ("late", "collided", "occluded", "moved", "still")
MEANING = {
    "late": "in none of frames 1–11",
    "collided": "its course broke near another object in frames 11–22",
    "occluded": "others hide over a quarter of its outline in frame 11 or 22",
    "moved": "more than a tenth of its width between frames 11 and 22",
    "still": "everything else",
}

BROKEN_COURSE = 0.04
"""Acceleration in world units per frame² that only a hit explains; friction slows by at most 0.017."""
HIDDEN = 0.75
"""Share of an outline below which what shows of it counts as occluded."""
MOVED = 0.2 * RADIUS
FIRST = CLIP_FRAMES - 2
"""Index of the first frame that counts: two before the first unseen one, for second differences."""
WIDTHS = (10, 6, 4, 3)
"""Pixels on either side of an outline in which its edge is searched, by step of the fit."""
VIDEOS_AT_ONCE = 16


def fates(masks: np.ndarray) -> np.ndarray:
    """Return (N, 49) int8 indices into ``FATES`` of the objects in frame 22 of (N, 22, 160, 240) uint8 true masks.

    -1 where frame 22 has no such object, and for the background.
    """
    parts = [_fates(masks[i : i + VIDEOS_AT_ONCE]) for i in range(0, len(masks), VIDEOS_AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty((0, NUM_CLASSES), np.int8)


def fate_groups(fate: np.ndarray) -> dict[str, np.ndarray]:
    """Return (N, 49) bool by name of the fate, for ``solution.metrics.score``, from what :func:`fates` returned."""
    return {name: fate == index for index, name in enumerate(FATES)}


def _fates(masks: np.ndarray) -> np.ndarray:
    labels = np.where(masks == IGNORE, BACKGROUND, masks)
    position, visible, hidden, border = (part.numpy() for part in coarse_places(torch.from_numpy(labels[:, FIRST:])))
    hidden &= visible & ~border  # what the image's edge cuts is not hidden by another object
    collided = _broken(position, visible & ~border & ~hidden)
    present = profiles(torch.from_numpy(labels))[0].any(-1).numpy()  # (V, 22, 49)
    start, end = CLIP_FRAMES - 1 - FIRST, -1
    late = ~present[:, :CLIP_FRAMES].any(1)
    occluded = hidden[:, start] | hidden[:, end] | ~visible[:, end]
    moved = ~visible[:, start] | (np.linalg.norm(position[:, start] - position[:, end], axis=-1) > MOVED)
    fate = np.select([late, collided, occluded, moved], range(4), 4)
    fate[~present[:, -1]] = -1
    fate[:, BACKGROUND] = -1
    return fate.astype(np.int8)


def coarse_places(masks: Tensor) -> tuple[Tensor, ...]:
    """Return where the objects of (V, T, 160, 240) uint8 masks stand, to a pixel; much faster than ``find_tracks``.

    Returns:
        (V, T, 49, 2) places on the floor, and (V, T, 49) bool: visible, over a quarter hidden, cut by the image's edge.
    """
    videos, frames = masks.shape[:2]
    rows, columns = profiles(masks)
    video, frame, label = (rows.sum(-1) >= MIN_PIXELS).nonzero(as_tuple=True)
    video, frame, label = (part[label > 0] for part in (video, frame, label))
    box, cut = boxes(rows[video, frame, label], columns[video, frame, label])
    shape = torch.from_numpy(SHAPE_OF_CLASS)[label]
    fit = Outlines(masks.reshape(-1), video * frames + frame, label, shape, videos * frames, *COARSE)
    position, yaw = fit.locate(box, cut, WIDTHS, tries_yaws=False)
    support, shown, _ = fit.judge(position, yaw)
    values = position, (support > 0.5) & (shown > 0.04), shown < HIDDEN, cut.any(-1)
    return tuple(scattered(part, (video, frame, label), rows.shape[:3]) for part in values)


def _broken(position: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return (V, K) bool: the step changes abruptly after frame 11, with another object near.

    Args:
        position: (V, T, K, 2) on the floor, from frame ``FIRST`` on.
        clear: (V, T, K) bool, where a position is exact enough to be differentiated twice.
    """
    step = np.diff(position, axis=1)
    change = np.linalg.norm(np.diff(step, axis=1), axis=-1)  # (V, T - 2, K)
    exact = clear[:, :-2] & clear[:, 1:-1] & clear[:, 2:]
    gap = np.linalg.norm(position[:, :, :, None] - position[:, :, None], axis=-1)  # (V, T, K, K)
    both = clear[:, :, :, None] & clear[:, :, None]
    gap = np.where(both & ~np.eye(gap.shape[-1], dtype=bool), gap, np.inf).min(-1)
    near = np.minimum(np.minimum(gap[:, :-2], gap[:, 1:-1]), gap[:, 2:]) < NEAR
    return (exact & near & (change > BROKEN_COURSE)).any(1)
