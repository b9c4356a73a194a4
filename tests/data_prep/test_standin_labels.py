"""Imprecise labels: how far they are from the exact masks, and how often what kind of mistake is made."""

import numpy as np
import pytest

from data_prep.classes import IGNORE, class_parts
from data_prep.standin.labels import MISSED, MISTAKEN, STRAY, imprecise
from data_prep.standin.physics import video_seed
from data_prep.standin.writer import paint_videos
from tests.conftest import simulate_many


@pytest.fixture(scope="module")
def exact():
    """(12, 22, 160, 240) uint8."""
    return paint_videos(simulate_many(3, 12))


@pytest.fixture(scope="module")
def rough(exact):
    return np.stack([imprecise(masks, video_seed(3, number)) for number, masks in enumerate(exact)])


def test_they_are_a_function_of_masks_and_seed(exact, rough):
    assert rough.dtype == np.uint8 and rough.shape == exact.shape
    np.testing.assert_array_equal(imprecise(exact[4], video_seed(3, 4)), rough[4])
    assert (imprecise(exact[4], 0) != rough[4]).any()
    assert not imprecise(np.zeros((1, 160, 240), np.uint8), 0).any()


def test_they_are_ragged_but_neither_larger_nor_aside(exact, rough):
    overlaps, shifts, sizes = [], [], []
    for video, frame in np.ndindex(exact.shape[:2]):
        mask, labels = exact[video, frame], rough[video, frame]
        for number in np.unique(mask[mask > 0]):
            true, seen = mask == number, labels == number
            if true.sum() < 300 or not seen.any():
                continue
            overlaps.append((true & seen).sum() / (true | seen).sum())
            shifts.append(np.mean(np.nonzero(true), 1) - np.mean(np.nonzero(seen), 1))
            sizes.append(seen.sum() / true.sum())
    assert len(overlaps) > 300
    assert 0.95 < np.median(overlaps) < 0.988
    assert np.abs(np.median(shifts, 0)).max() < 0.05 and np.median(np.abs(shifts)) > 0.03
    assert abs(np.median(sizes) - 1) < 0.01


def test_objects_are_at_times_missed_or_mistaken_for_one_that_is_like_them():
    large, small = np.zeros((600, 160, 240), np.uint8), np.zeros((600, 160, 240), np.uint8)
    large[:, 60:90, 100:130] = 20
    small[:, 60:65, 100:105] = 20
    labels = imprecise(large, 1)
    shares = [(labels[:, 70, 110] == number).mean() for number in (0, 20)]
    assert shares[0] < 0.005 and abs(1 - shares[1] - MISTAKEN) < 0.01
    others = {int(number) for number in np.unique(labels[:, 70, 110])} - {0, 20}
    assert others and all(sum(np.not_equal(class_parts(n), class_parts(20))) == 1 for n in others)
    assert abs((imprecise(small, 0)[:, 62, 102] == 0).mean() - MISSED) < 0.06
    assert 0 < (labels == IGNORE).any((1, 2)).mean() < 3 * STRAY
