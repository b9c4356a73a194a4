"""What masks of nothing but noise may cost: as many outlines and passes of the filter as are allowed, and no more."""

import numpy as np
import pytest
import torch

from data_prep.scene import CLIP_FRAMES
from solution import kalman
from solution.physics import Constants
from solution.rollout import roll_out
from solution.settling import CANDIDATES, LOOKS, settle
from solution.tracks import MAX_OBJECTS, Outlines, find_tracks

VIDEOS, FRAMES, BLOBS, SIDE = 2, 14, 300, 16


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    """(2, 14, 160, 240) uint8: blobs of all 48 classes anywhere in every frame."""
    random = np.random.default_rng(0)
    masks = np.zeros((VIDEOS, FRAMES, 160, 240), np.uint8)
    for frame in masks.reshape(-1, 160, 240):
        for label in np.concatenate((np.arange(1, 49), random.integers(1, 49, BLOBS))):
            row, column = random.integers(0, 160 - SIDE), random.integers(0, 240 - SIDE)
            frame[row : row + SIDE, column : column + SIDE] = label
    assert all(len(np.unique(frames)) == 49 for frames in masks[:, :CLIP_FRAMES])
    return torch.from_numpy(masks)


@pytest.fixture
def fitted(monkeypatch) -> list[torch.Tensor]:
    """Frame and label of the outlines that are fitted together, each time (n, 2)."""
    counts, made = [], Outlines.__init__

    def counting(self, labels, image, label, *rest, **options):
        counts.append(torch.stack((image, label), 1))
        made(self, labels, image, label, *rest, **options)

    monkeypatch.setattr(Outlines, "__init__", counting)
    return counts


def test_no_more_bodies_and_classes_are_settled_than_are_allowed(noise, fitted):
    settle(noise)
    of_shapes, again, of_ghosts = fitted
    assert torch.equal(of_shapes, again) and len(of_shapes) <= VIDEOS * 3 * LOOKS * CANDIDATES
    for looked_at in (of_shapes, of_ghosts):
        for video in range(VIDEOS):
            labels = looked_at[looked_at[:, 0] // CLIP_FRAMES == video, 1]
            assert len(labels.unique()) == CANDIDATES


def test_no_more_objects_are_followed_than_are_allowed(noise, fitted, monkeypatch):
    tracks = find_tracks(noise)
    assert len(fitted) == 2 and 0 < len(fitted[0]) == len(fitted[1]) <= VIDEOS * FRAMES * MAX_OBJECTS
    assert tracks.classes.shape == (VIDEOS, MAX_OBJECTS) and tracks.visible.sum() > VIDEOS * FRAMES
    looks, look = [], kalman._look
    monkeypatch.setattr(kalman, "_look", lambda *args, **options: looks.append(0) or look(*args, **options))
    position, _ = roll_out(kalman.observe(tracks.frames(slice(CLIP_FRAMES)), Constants()), Constants(), 2, 2)
    assert position.isfinite().all()
    assert CLIP_FRAMES < len(looks) <= (CLIP_FRAMES - 1) * (kalman.PASSES + 1)
