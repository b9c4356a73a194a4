"""Votes over frames against masks whose objects are known."""

import numpy as np
import pytest

from data_prep.classes import class_id
from solution.identity import settle_shapes

CUBE, CYLINDER = class_id(0, 1, 3), class_id(2, 1, 3)
OTHER = class_id(2, 1, 4)


def sliding(labels: list[int], row: int = 60, column: int = 20, frames: int = 22) -> np.ndarray:
    masks = np.zeros((frames, 160, 240), np.uint8)
    for t, label in enumerate(labels):
        masks[t, row : row + 24, column + 4 * t : column + 4 * t + 22] = label
    return masks


def test_the_majority_settles_the_shape():
    masks = sliding([CUBE] * 4 + [CYLINDER] * 2 + [CUBE] * 16)
    assert np.array_equal(settle_shapes(masks), np.where(masks > 0, CUBE, 0))


def test_a_region_of_two_shapes_becomes_one():
    masks = sliding([CUBE] * 22)
    masks[3:9, 60:66][masks[3:9, 60:66] > 0] = CYLINDER
    assert set(np.unique(settle_shapes(masks))) == {0, CUBE}


def test_two_objects_of_one_material_and_colour_stay_two():
    masks = np.maximum(sliding([CUBE] * 22), sliding([CYLINDER] * 22, row=110, column=100))
    assert np.array_equal(settle_shapes(masks), masks)


def test_another_colour_is_another_object():
    masks = sliding([CUBE] * 10 + [OTHER] * 12)
    assert np.array_equal(settle_shapes(masks), masks)


@pytest.mark.parametrize("seed", range(3))
def test_frames_after_the_clip_never_change_the_clip(seed):
    random = np.random.default_rng(seed)
    labels = list(random.choice([CUBE, CYLINDER], 22))
    whole = sliding(labels)
    assert np.array_equal(settle_shapes(whole)[:11], settle_shapes(whole[:11]))


def test_later_frames_keep_the_name_of_the_clip():
    masks = sliding([CUBE] * 7 + [CYLINDER] * 15)
    assert np.array_equal(settle_shapes(masks), np.where(masks > 0, CUBE, 0))


def test_an_object_that_is_new_after_the_clip_is_settled_by_its_own_frames():
    masks = sliding([0] * 14 + [CUBE] * 2 + [CYLINDER] * 6)
    assert np.array_equal(settle_shapes(masks), np.where(masks > 0, CYLINDER, 0))
