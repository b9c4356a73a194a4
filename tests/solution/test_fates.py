"""Fates of objects whose videos are painted from hand-made courses."""

import numpy as np
import torch

from data_prep.scene import NUM_FRAMES, paint_solids
from data_prep.standin.writer import paint_videos
from solution.fates import FATES, coarse_places, fate_groups, fates
from solution.metrics import score
from solution.tracks import find_tracks
from tests.conftest import simulate_many


def paint(courses: dict[int, np.ndarray]) -> np.ndarray:
    """Return (1, 22, 160, 240) masks of objects with these classes on (22, 2) courses; nan where there is none."""
    shape, position, label, image = [], [], [], []
    for class_id, course in courses.items():
        for frame in np.flatnonzero(np.isfinite(course[:, 0])):
            shape.append((class_id - 1) // 16)
            position.append(course[frame])
            label.append(class_id)
            image.append(frame)
    position = torch.tensor(np.array(position), dtype=torch.float32)
    ids = (torch.tensor(each) for each in (shape, label, image))
    shape, label, image = ids
    yaw = torch.zeros(len(position))
    return paint_solids(shape, position, yaw, label, image, NUM_FRAMES).numpy()[None]


def straight(start, step, frames=NUM_FRAMES) -> np.ndarray:
    return np.array(start) + np.arange(frames)[:, None] * np.array(step)


def test_every_fate():
    late = straight((-1.0, 1.0), (0.0, 0.0))
    late[:15] = np.nan
    runner = straight((1.2, -1.0), (0.0, 0.05))
    runner[16:] = runner[15] - np.arange(1, 7)[:, None] * np.array((0.04, 0.03))  # bounces off the wall beside it
    courses = {
        2: straight((-1.5, -1.0), (0.0, 0.0)),
        17: straight((-0.8, -0.2), (0.02, -0.01)),
        18: late,
        33: runner,
        34: straight((1.2, runner[15, 1] + 0.42), (0.0, 0.0)),
        35: straight((-2.4, -1.0 * 7.27 / 6.3), (0.0, 0.0)),  # behind class 2, on the same line of sight
    }
    found = fates(paint(courses))[0]
    names = {int(c): FATES[found[c]] for c in np.flatnonzero(found >= 0)}
    assert names == {2: "still", 17: "moved", 18: "late", 33: "collided", 34: "still", 35: "occluded"}


def test_scores_by_fate():
    masks = paint({2: straight((-1.5, -1.0), (0.0, 0.0)), 17: straight((-0.8, 0.6), (0.02, -0.01))})
    groups = fate_groups(fates(masks))
    only_still = np.where(masks[:, -1] == 2, 2, 0).astype(np.uint8)
    found = score(only_still, masks[:, -1], groups)
    assert found.by_group["still"] == 1 and found.by_group["moved"] == 0 and found.object_iou == 0.5
    assert found.as_json()["by_group"] == {"late": None, "collided": None, "occluded": None, "moved": 0, "still": 1}


def test_ignored_pixels_are_no_object():
    masks = np.full((2, NUM_FRAMES, 160, 240), 255, np.uint8)
    assert (fates(masks) == -1).all()


def test_coarse_places_are_those_of_the_tracks():
    masks = torch.from_numpy(paint_videos(simulate_many(4, 2)))[:, 9:]
    tracks, (position, visible, hidden, border) = find_tracks(masks), coarse_places(masks)
    off, agree = [], []
    for video in range(2):
        for slot, label in enumerate(tracks.classes[video].tolist()):
            both = tracks.visible[video, :, slot] & visible[video, :, label]
            clear = both & ~tracks.border[video, :, slot] & (tracks.shown[video, :, slot] > 0.9)
            gap = (tracks.position[video, :, slot] - position[video, :, label]).norm(dim=-1)
            off.append(gap[clear])
            agree.append((hidden[video, :, label] == (tracks.shown[video, :, slot] < 0.75))[both])
            agree.append((border[video, :, label] == tracks.border[video, :, slot])[both])
    off, agree = torch.cat(off), torch.cat(agree)
    assert len(off) > 50 and off.median() < 0.01 and (off < 0.04).float().mean() > 0.95
    assert agree.float().mean() > 0.95
