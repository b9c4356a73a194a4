"""What happened to every object between the last seen frame and the predicted one, read off the true masks.

Each object of frame 22 has one fate, the first of ``FATES`` that fits.
"""

from __future__ import annotations

import numpy as np
import torch

from data_prep.classes import IGNORE, NUM_CLASSES
from data_prep.scene import CLIP_FRAMES, RADIUS
from solution.tracks import find_tracks

FATES = ("late", "collided", "occluded", "moved", "still")
MEANING = {
    "late": "in none of frames 1–11",
    "collided": "its course broke near another object in frames 11–22",
    "occluded": "others hide over a quarter of its outline in frame 11 or 22",
    "moved": "more than a tenth of its width between frames 11 and 22",
    "still": "everything else",
}

BROKEN_COURSE = 0.04
"""World units per frame²; friction slows by at most 0.017 (0.29 units/s² and frames of 0.24 s)."""
NEAR = 3.2 * RADIUS
"""Between centres; two cubes touch at up to 2.83 radii, and contact falls between two frames."""
HIDDEN = 0.75
MOVED = 0.2 * RADIUS
VIDEOS_AT_ONCE = 16


def fates(masks: np.ndarray) -> np.ndarray:
    """Return (N, 49) int8 indices into ``FATES`` of the objects in frame 22 of (N, 22, 160, 240) uint8 true masks.

    -1 where frame 22 has no such object, and for the background.
    """
    parts = [_fates(masks[i : i + VIDEOS_AT_ONCE]) for i in range(0, len(masks), VIDEOS_AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty((0, NUM_CLASSES), np.int8)


def fate_groups(found: np.ndarray) -> dict[str, np.ndarray]:
    """Return (N, 49) bool by name of the fate, for ``solution.metrics.score``, from what :func:`fates` returned."""
    return {name: found == index for index, name in enumerate(FATES)}


def _fates(masks: np.ndarray) -> np.ndarray:
    known = np.where(masks == IGNORE, 0, masks)
    tracks = find_tracks(torch.from_numpy(np.ascontiguousarray(known)))
    position, visible = tracks.position.numpy(), tracks.visible.numpy()
    # What the image's edge cuts is not hidden by another object.
    hidden = visible & (tracks.shown.numpy() < HIDDEN) & ~tracks.border.numpy()
    collided = _broken(position, visible & ~tracks.border.numpy() & ~hidden)
    found = np.full((len(masks), NUM_CLASSES), -1, np.int8)
    for video in range(len(masks)):
        counts = [np.bincount(frame.reshape(-1), minlength=NUM_CLASSES) for frame in known[video]]
        seen = np.sum(counts[:CLIP_FRAMES], 0) > 0
        slots = {int(c): slot for slot, c in enumerate(tracks.classes[video]) if c}
        for label in np.flatnonzero(counts[-1][1:]) + 1:
            if not seen[label]:
                found[video, label] = FATES.index("late")
                continue
            slot = slots.get(int(label))
            if slot is None:
                found[video, label] = FATES.index("occluded")  # too little of it was ever to be seen for a track
                continue
            ends = [CLIP_FRAMES - 1, masks.shape[1] - 1]
            start, end = position[video, ends, slot]
            if collided[video, slot]:
                fate = "collided"
            elif hidden[video, ends, slot].any() or not visible[video, -1, slot]:
                fate = "occluded"
            elif not visible[video, ends[0], slot] or np.linalg.norm(end - start) > MOVED:
                fate = "moved"
            else:
                fate = "still"
            found[video, label] = FATES.index(fate)
    return found


def _broken(position: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return (V, K) bool: the step changes abruptly after frame 11, with another object near.

    Args:
        position: (V, 22, K, 2) on the floor.
        clear: (V, 22, K) bool, where a position is exact enough to be differentiated twice.
    """
    step = np.diff(position, axis=1)
    change = np.linalg.norm(np.diff(step, axis=1), axis=-1)  # (V, 20, K), around frames 2 to 21
    exact = clear[:, :-2] & clear[:, 1:-1] & clear[:, 2:]
    gap = np.linalg.norm(position[:, :, :, None] - position[:, :, None], axis=-1)  # (V, 22, K, K)
    both = clear[:, :, :, None] & clear[:, :, None]
    gap = np.where(both & ~np.eye(gap.shape[-1], dtype=bool), gap, np.inf).min(-1)
    near = np.minimum(np.minimum(gap[:, :-2], gap[:, 1:-1]), gap[:, 2:]) < NEAR
    return (exact & near & (change > BROKEN_COURSE))[:, CLIP_FRAMES - 2 :].any(1)
