"""Tracks against the positions that synthetic silhouettes were painted at."""

import math

import pytest
import torch

from data_prep.classes import SHAPE_OF_CLASS
from data_prep.scene import paint_solids
from solution.tracks import FINE, MAX_OBJECTS, QUARTER, Outlines, find_tracks

CLASSES = {"cube": 3, "sphere": 20, "cylinder": 40}


def film(classes, position, yaw):
    """Return (V, T, 160, 240) masks of K objects per video: classes (V, K), position (V, T, K, 2), yaw (V, T, K)."""
    videos, frames, objects = yaw.shape
    label = classes[:, None].expand(-1, frames, -1).flatten()
    image = torch.arange(videos * frames).repeat_interleave(objects)
    solids = torch.from_numpy(SHAPE_OF_CLASS)[label], position.reshape(-1, 2), yaw.flatten()
    return paint_solids(*solids, label, image, videos * frames).view(videos, frames, 160, 240)


def one(name, x, y, yaw=0.3):
    return film(torch.tensor([[CLASSES[name]]]), torch.tensor([[[[x, y]]]]), torch.tensor([[[yaw]]]))


@pytest.mark.parametrize("name", list(CLASSES))
@pytest.mark.parametrize("place", [(0.0, 0.0), (1.5, -1.0), (-2.0, 1.5)])
def test_a_whole_object_is_found_within_a_fifth_of_a_pixel(name, place):
    found = find_tracks(one(name, *place))
    assert found.classes[0, 0] == CLASSES[name] and found.visible.sum() == 1
    assert (found.position[0, 0, 0] - torch.tensor(place)).norm() < 0.005
    turn = (found.yaw[0, 0, 0] - 0.3 + QUARTER / 2) % QUARTER - QUARTER / 2
    assert abs(turn) < 0.03 if name == "cube" else found.yaw[0, 0, 0] == 0
    assert not found.border.any() and found.shown[0, 0, 0] > 0.9


@pytest.mark.parametrize("name", list(CLASSES))
@pytest.mark.parametrize("place", [(0.0, -2.25), (0.5, 2.02), (2.0, 0.5), (-5.0, 0.3)])
def test_an_object_cut_by_the_border_is_found_by_what_is_left(name, place):
    masks = one(name, *place)
    assert 40 < (masks > 0).sum() < 1500
    found = find_tracks(masks)
    assert found.visible[0, 0, 0] and found.border[0, 0, 0]
    assert (found.position[0, 0, 0] - torch.tensor(place)).norm() < 0.06


@pytest.mark.parametrize("name", list(CLASSES))
def test_outlines_are_read_to_hundredths_of_a_pixel_and_know_it(name):
    torch.manual_seed(0)
    count = 60
    place = torch.stack((torch.empty(count).uniform_(-1.5, 1.5), torch.empty(count).uniform_(-0.9, 0.9)), -1)
    turn = torch.rand(count) * QUARTER
    masks = film(torch.full((count, 1), CLASSES[name]), place[:, None, None], turn[:, None, None])
    found = find_tracks(masks)
    error = found.position[:, 0, 0] - place
    # A unit is 52 pixels wide at the middle of the floor.
    assert error.norm(dim=-1).median() < 0.0015
    covariance = found.covariance[:, 0, 0]
    assert torch.allclose(covariance, covariance.transpose(1, 2)) and (torch.linalg.eigvalsh(covariance) > 0).all()
    assert (covariance[:, 0, 0] > 1.5 * covariance[:, 1, 1]).all()  # depth is foreshortened
    far, near = place[:, 0] < -0.5, place[:, 0] > 0.5
    assert covariance[far, 1, 1].median() > 1.5 * covariance[near, 1, 1].median()
    turned = (found.yaw[:, 0, 0] - turn + QUARTER / 2) % QUARTER - QUARTER / 2
    assert name != "cube" or turned.abs().median() < 0.004
    surprise = (error[:, None] @ torch.linalg.inv(covariance[:, :2, :2]) @ error[..., None])[:, 0, 0]
    assert 1 < surprise.median().sqrt() < 8  # what Constants.edge_noise multiplies


@pytest.mark.parametrize("kind", range(3))
def test_slopes_foretell_distances_from_a_moved_outline(kind):
    shape = torch.tensor([kind])
    outlines = Outlines(torch.zeros(160 * 240), torch.zeros(1, dtype=torch.long), shape + 1, shape, 1, *FINE)
    place, yaw = torch.tensor([[0.4, -0.7]]), torch.tensor([0.2])
    points = outlines.centre(place)[:, None] + 11.0 * outlines.ray.T
    before, met, normal = outlines.outside(kind, place, yaw, points)
    slope = outlines.slopes(kind, place, yaw, points, met, before)
    step = torch.tensor([0.004, -0.006, 0.02 * (kind == 0)])
    after, *_ = outlines.outside(kind, place + step[:2], yaw + step[2], points)
    error = (before - slope @ step - after).abs()
    assert (before - after).abs().max() > 0.2 and error.median() < 0.01 and error.quantile(0.9) < 0.03
    outward, *_ = outlines.outside(kind, place, yaw, points + 0.1 * normal)
    assert torch.allclose(outward, before + 0.1, atol=0.02)


def test_ragged_edges_are_known_as_such():
    clean = one("sphere", 0.0, 0.0)
    padded = torch.nn.functional.pad(clean.float(), (1, 1, 1, 1), value=0)
    torch.manual_seed(0)
    down, right = torch.randint(0, 3, (2, 160, 240))
    rows, columns = torch.meshgrid(torch.arange(160), torch.arange(240), indexing="ij")
    ragged = padded[:, :, rows + down, columns + right].byte()
    a, b = find_tracks(clean), find_tracks(ragged)
    assert b.covariance[0, 0, 0, 0, 0] > 4 * a.covariance[0, 0, 0, 0, 0]
    assert (b.position[0, 0, 0]).norm() < 0.02


def test_an_object_half_hidden_is_found_and_called_so():
    position = torch.tensor([[[[0.0, 0.0], [0.5, 0.12]]]])
    masks = film(torch.tensor([[CLASSES["sphere"], CLASSES["cylinder"]]]), position, torch.zeros(1, 1, 2))
    found = find_tracks(masks)
    hidden = int((found.classes[0] == CLASSES["sphere"]).nonzero())
    assert found.shown[0, 0, hidden] < 0.8
    assert found.covariance[0, 0, hidden, 1, 1] > 1.2 * found.covariance[0, 0, 1 - hidden, 1, 1]
    assert (found.position[0, 0, hidden] - position[0, 0, 0]).norm() < 0.03


def test_flicker_is_not_an_object():
    masks = one("sphere", 0.5, 0.5)
    masks[0, 0, 10:13, 10:14] = 7  # a few stray pixels
    inside = (masks[0, 0] == CLASSES["sphere"]).nonzero()
    for row, column in inside[:: len(inside) // 20].tolist():
        masks[0, 0, row, column] = 9  # salt on the object
    masks[0, 0, 100, 100] = 255
    found = find_tracks(masks)
    assert found.visible.sum() == 1 and found.classes[0, found.visible[0, 0]] == CLASSES["sphere"]
    assert (found.position[0, 0][found.visible[0, 0]] - 0.5).norm() < 0.02


def test_empty_masks_and_nine_classes():
    empty = find_tracks(torch.zeros(2, 3, 160, 240, dtype=torch.uint8))
    assert empty.classes.sum() == 0 and not empty.visible.any() and empty.shape.max() == -1
    angle = torch.arange(9) * (2 * math.pi / 9)
    position = torch.stack((1.5 * angle.cos(), 1.5 * angle.sin()), -1)[None, None]
    many = find_tracks(film(torch.arange(20, 29)[None], position, torch.zeros(1, 1, 9)))
    assert many.visible.sum() == MAX_OBJECTS and len(set(many.classes[0].tolist())) == MAX_OBJECTS


def test_relabelling_classes_of_one_shape_changes_nothing_else():
    position = torch.tensor([[[[0.0, 0.8], [0.5, -0.9]]]])
    a = find_tracks(film(torch.tensor([[17, 20]]), position, torch.zeros(1, 1, 2)))
    b = find_tracks(film(torch.tensor([[31, 25]]), position, torch.zeros(1, 1, 2)))
    assert torch.equal(a.position, b.position) and torch.equal(a.visible, b.visible)
