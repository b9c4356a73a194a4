"""Whole objects named: what crops show, what is learnt from, the best classes for a clip, spoilt labels restored."""

import numpy as np
import pytest
import torch

from data_prep.classes import class_parts
from data_prep.scene import RADIUS, project
from solution.classifier import (
    LOOK,
    ClassifierConfig,
    crops,
    likeliest_classes,
    load_classifier,
    look_batches,
    name_objects,
    train_classifier,
)
from solution.models.classifier import CROP, ObjectClassifier
from solution.tracks import find_tracks, side
from tests.conftest import film_many

CONFIG = ClassifierConfig(width=16, steps=500, batch=64)
VIDEOS, TIMES = 5, 11


@pytest.fixture(scope="module")
def filmed():
    """(5, 11, 160, 240, 3) frames of the stand-in and (5, 11, 160, 240) true masks."""
    return film_many(3, VIDEOS, TIMES)


def test_crops_are_as_large_as_the_objects_they_show():
    row, column = np.mgrid[:160, :240]
    frames = torch.from_numpy(np.stack((column, row, 0 * row), -1).astype(np.uint8))[None]
    place = torch.tensor([[0.2, 0.4], [-1.0, -0.7]])
    centre = project(torch.cat((place, torch.full((2, 1), RADIUS)), 1))
    found = crops(frames, torch.zeros(2).long(), place, 8, LOOK)
    x, y, _ = (255 * (found / 4 + 0.45)).unbind(1)
    width = side(centre[:, 1])
    for each, of in ((x, 0), (y, 1)):
        assert torch.allclose(each.mean((1, 2)) + 0.5, centre[:, of], atol=0.01)
    assert torch.allclose(x[:, 0, -1] - x[:, 0, 0], 2 * LOOK * 7 / 8 * width, atol=0.01)
    assert torch.allclose(y[:, -1, 0] - y[:, 0, 0], 2 * LOOK * 7 / 8 * width, atol=0.01)


def test_batches_depend_on_the_step_alone_and_name_what_they_show(filmed):
    frames, masks = filmed
    truth, rows = find_tracks(torch.from_numpy(masks)), np.arange(VIDEOS)
    batch = look_batches(CONFIG, truth, frames, rows, 5)
    one, again, other = batch(2), batch(2), batch(3)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["crops"], other["crops"])
    assert one["crops"].shape == (64, 3, CROP, CROP) and 0.2 < one["coloured"].float().mean() < 0.8
    shown = {class_parts(int(c)) for c in truth.classes[truth.visible.any(1)]}
    assert set(map(tuple, one["parts"].tolist())) <= shown
    # What is as filmed has its own colour in the middle: red is red.
    red = one["coloured"] & (one["parts"][:, 2] == 1)
    middle = one["crops"][:, :, 20:28, 20:28].mean((2, 3))
    assert red.any() and (middle[red, 0] > middle[red, 1:].amax(1)).all()


def merit(**likely: dict[int, float]) -> np.ndarray:
    """Return rows of (48,) log-likelihoods that are -50 where nothing is said."""
    rows = np.full((len(likely), 48), -50.0)
    for row, said in enumerate(likely.values()):
        for column, value in said.items():
            rows[row, column] = value
    return rows


def test_every_object_gets_another_class_and_the_surer_one_the_better():
    apart = ~np.eye(2, dtype=bool)
    assert likeliest_classes(merit(a={3: -1, 7: -5}, b={3: -1, 7: -9}), apart).tolist() == [7, 3]
    assert likeliest_classes(merit(a={3: -1}, b={9: -1}), apart).tolist() == [3, 9]


def test_what_never_shows_far_apart_and_looks_alike_is_one_object():
    both = merit(a={3: -1, 7: -20}, b={3: -1, 7: -20}, c={5: -1})
    none_apart = np.zeros((3, 3), bool)
    assert likeliest_classes(both, none_apart).tolist() == [3, 3, 5]
    apart = np.zeros((3, 3), bool)
    apart[0, 1] = apart[1, 0] = True
    assert sorted(likeliest_classes(both, apart)[:2]) == [3, 7]
    # A third piece that may be one with either joins neither group that holds what it is apart from.
    alike = merit(a={3: -1, 7: -20}, b={3: -1, 7: -20}, c={3: -1, 9: -20})
    found = likeliest_classes(alike, apart)
    assert found[0] != found[1] and found[2] in found[:2]
    assert likeliest_classes(np.empty((0, 48)), np.empty((0, 0), bool)).tolist() == []


def test_spoilt_classes_are_restored(filmed, tmp_path):
    frames, masks = filmed
    truth, rows = find_tracks(torch.from_numpy(masks)), np.arange(VIDEOS)
    trained = train_classifier(CONFIG, truth, frames, rows, tmp_path, torch.device("cpu"), 0)
    true = torch.from_numpy(masks)
    spoilt = true.clone()
    for video in range(VIDEOS):
        labels = true[video].unique()[1:]
        others = ((labels - 1 + shift) % 48 + 1 for shift in (8, 16, 24, 32, 40))  # another material, shape, or both
        free = next(other for other in others if not torch.isin(other, labels).any())
        for label, other in zip(labels, free, strict=True):
            spoilt[video][true[video] == label] = other
    half = spoilt.clone()
    half[:, ::2] = true[:, ::2]  # two labels for one object, never both in one frame
    seen = torch.from_numpy(frames)
    object_pixels = true > 0
    for wrong in (spoilt, half):
        named = name_objects(trained, wrong, seen)
        assert named.dtype == torch.uint8 and torch.equal(named > 0, object_pixels)
        assert (named == true)[object_pixels].float().mean() > 0.97
    assert torch.equal(name_objects(load_classifier(CONFIG, tmp_path, torch.device("cpu")), half, seen), named)

    # Frames after the clip follow and do not decide.
    longer = torch.cat((half, spoilt[:, -1:]), 1)
    found = name_objects(trained, longer, seen)
    assert torch.equal(found[:, :TIMES], named)
    assert (found[:, -1] == true[:, -1])[object_pixels[:, -1]].float().mean() > 0.95


def test_videos_do_not_influence_each_other_and_none_may_be_empty(filmed):
    frames, masks = filmed
    torch.manual_seed(1)
    network = ObjectClassifier(4).eval()
    shown, seen = torch.from_numpy(masks[:2]), torch.from_numpy(frames[:2])
    with_empty = torch.cat((torch.zeros_like(shown[:1]), shown))
    found = name_objects(network, with_empty, torch.cat((seen[:1], seen)))
    alone = [name_objects(network, shown[i : i + 1], seen[i : i + 1]) for i in range(2)]
    assert not found[0].any() and torch.equal(found[1:], torch.cat(alone))
