"""Settled labels against synthetic silhouettes whose labels were spoilt."""

import pytest
import torch

from data_prep.scene import RADIUS, floor_depth, unproject
from solution.settling import Hypotheses, absorb_ghosts, settle, settle_shapes
from solution.tracks import COARSE
from tests.solution.test_tracks import CLASSES, film, one

CUBE, BALL, GHOST = CLASSES["cube"], CLASSES["sphere"], 45


@pytest.mark.parametrize("name", list(CLASSES))
def test_outlines_outvote_a_segmenter_that_mistakes_the_shape(name):
    true, wrong = CLASSES[name], {CLASSES[name] % 16 + 16 * kind for kind in range(3)} - {CLASSES[name]}
    position = torch.tensor([[[[0.3 * t, 0.2 * t]] for t in range(3)]])
    masks = film(torch.tensor([[true]]), position, torch.full((1, 3, 1), 0.5))
    mistaken = masks.clone()
    mistaken[:, :2][masks[:, :2] > 0] = min(wrong)
    mistaken[:, 2, ::2][masks[:, 2, ::2] > 0] = max(wrong)
    assert torch.equal(settle_shapes(mistaken), masks)


def test_two_objects_of_one_material_and_colour_keep_their_labels():
    position = torch.tensor([[[[0.0, -1.0], [0.5, 1.0]]] * 3])
    masks = film(torch.tensor([[3, 19]]), position.view(1, 3, 2, 2), torch.full((1, 3, 2), 0.5))
    assert torch.equal(settle_shapes(masks), masks)


def test_two_bodies_of_one_material_and_colour_that_are_called_alike_get_their_own_shapes():
    """They start apart, come near each other, and one leaves the view before the end."""
    ball = torch.stack((torch.zeros(8), torch.linspace(-0.8, -0.3, 8)), -1)
    cube = torch.stack((torch.linspace(0.0, 4.2, 8), torch.full((8,), 0.3)), -1)
    masks = film(torch.tensor([[19, 3]]), torch.stack((ball, cube), 1)[None], torch.full((1, 8, 2), 0.5))
    assert (masks[0, 0] == 3).any() and not (masks[0, -1] == 3).any()
    mistaken = masks.clone()
    mistaken[masks == 19] = 3
    mistaken[:, ::2][masks[:, ::2] > 0] = 35
    assert torch.equal(settle_shapes(mistaken), masks)


@pytest.mark.parametrize("side", [(-60.0, -60.0), (60.0, -60.0), (-60.0, 60.0), (60.0, 60.0)])
def test_a_body_keeps_its_label_when_another_of_its_material_and_colour_comes_in(side):
    """The first body moves a little in the very frame in which the other shows for the first time."""
    middle = torch.tensor([120.0, 85.0])
    places = [unproject(point, RADIUS) for point in (middle - torch.tensor(side) / 2, middle + torch.tensor(side) / 2)]
    position = torch.stack(places)[None, None].repeat(1, 7, 1, 1)
    position[:, :4, 0] += torch.tensor([0.0, 0.02])
    masks = film(torch.tensor([[3, 35]]), position, torch.full((1, 7, 2), 0.5))
    masks[:, :4][masks[:, :4] == 35] = 0
    assert (masks == 35).any()
    mistaken = masks.clone()
    mistaken[masks == 35] = 3
    assert torch.equal(settle_shapes(mistaken), masks)


def test_a_body_that_falls_apart_in_one_frame_and_goes_on_as_the_other_part_is_one_object():
    position = torch.tensor([0.3, -0.3]).repeat(8, 1)
    position[3:] = torch.tensor([0.3, 0.6])
    masks = film(torch.tensor([[3]]), position[None, :, None], torch.full((1, 8, 1), 0.5))
    masks[:, 3] = torch.where(masks[:, 2] > 0, masks[:, 2], masks[:, 3])
    assert torch.equal(settle_shapes(masks), masks)


def test_a_few_pixels_far_off_are_not_where_a_body_went():
    """In one frame the body is called another material, and of what comes in then only a corner shows."""
    position = torch.tensor([[-0.5, -1.0], [0.7, 0.9]]).repeat(1, 8, 1, 1)
    masks = film(torch.tensor([[3, 35]]), position, torch.full((1, 8, 2), 0.5))
    masks[:, :5][masks[:, :5] == 35] = 0
    corner = torch.zeros_like(masks[0, 5], dtype=torch.bool)
    row, column = (masks[0, 5] == 35).nonzero()[0]
    corner[row : row + 4, column : column + 4] = True
    masks[0, 5] = torch.where((masks[0, 5] == 35) & ~corner, 0, masks[0, 5])
    assert 8 < (masks[0, 5] == 35).sum() < 17
    mistaken = masks.clone()
    mistaken[masks == 35] = 3
    mistaken[0, 5][masks[0, 5] == 3] = 11
    others = [0, 1, 2, 3, 4, 6, 7]
    assert torch.equal(settle_shapes(mistaken)[:, others], masks[:, others])


def test_the_shape_of_what_is_long_seen_is_not_given_to_what_is_called_so_for_two_frames():
    position = torch.tensor([[-0.5, -1.0], [0.7, 0.9]]).repeat(1, 11, 1, 1)
    masks = film(torch.tensor([[47, 39]]), position, torch.zeros(1, 11, 2))
    mistaken = masks.clone()
    mistaken[:, 9:][masks[:, 9:] == 39] = 47
    assert torch.equal(settle_shapes(mistaken) == 47, masks == 47)


def test_three_bodies_of_one_material_and_colour_keep_their_labels():
    position = torch.tensor([[-0.5, -1.0], [0.5, 0.0], [-0.5, 1.2]]).expand(1, 6, 3, 2)
    masks = film(torch.tensor([[3, 19, 35]]), position, torch.full((1, 6, 3), 0.5))
    masks[:, :3][masks[:, :3] == 35] = 0
    assert torch.equal(settle(masks), masks)


@pytest.mark.parametrize("cylinder", [(0.7, -0.05), (0.6, 0.0)])
def test_a_large_body_that_touches_a_small_one_of_its_material_and_colour_keeps_its_pixels(cylinder):
    meeting = torch.linspace(1, 0, 5)[:, None, None] * torch.tensor([[1.0, 1.2], [0.0, -1.2]])
    position = torch.tensor([(1.2, 0.0), cylinder]) + meeting
    masks = film(torch.tensor([[3, 35]]), position[None], torch.full((1, 5, 2), 0.5))
    cube, other = ((masks[0, -1] == label).sum() for label in (3, 35))
    assert cube > 2.5 * other > 500
    assert torch.equal(settle_shapes(masks), masks)


def test_what_comes_after_the_clip_keeps_its_label():
    masks = one("cylinder", 0.3, 0.2).repeat(1, 12, 1, 1)
    masks[:, :11] = 0
    assert torch.equal(settle(masks), masks)


def two_objects() -> torch.Tensor:
    """Return (1, 6, 160, 240) masks: a ball comes from the left and covers part of a resting cube."""
    ball = torch.stack((torch.full((6,), 0.6), torch.linspace(-1.2, 0.05, 6)), -1)
    cube = torch.tensor([0.0, 0.1]).expand(6, 2)
    return film(torch.tensor([[BALL, CUBE]]), torch.stack((ball, cube), 1)[None], torch.full((1, 6, 2), 0.4))


def test_objects_that_are_only_near_each_other_keep_their_labels():
    masks = two_objects()
    counts = [(masks[0, t] == CUBE).sum() for t in (0, 5)]
    assert 0.2 < counts[1] / counts[0] < 0.8, "the ball should hide a part of the cube"
    assert torch.equal(absorb_ghosts(masks), masks)
    assert torch.equal(settle(masks), masks)


@pytest.mark.parametrize("owner", [BALL, CUBE])
def test_pixels_of_another_class_inside_an_object_are_given_to_it(owner):
    masks = two_objects()
    spoilt = masks.clone()
    spoilt[:, 1:4, :, ::3][masks[:, 1:4, :, ::3] == owner] = GHOST
    assert (spoilt == GHOST).sum() > 200
    assert torch.equal(absorb_ghosts(spoilt), masks)


@pytest.mark.parametrize("frames", [slice(0, 1), slice(2, 4), slice(5, 6)])
def test_frames_in_which_an_object_is_called_something_else_are_given_to_it(frames):
    masks = two_objects()
    spoilt = masks.clone()
    spoilt[:, frames][masks[:, frames] == BALL] = GHOST
    assert torch.equal(absorb_ghosts(spoilt), masks)


def test_the_first_sliver_of_what_comes_in_is_given_to_it():
    place = torch.stack((torch.full((5,), 0.4), torch.linspace(-2.2, -0.2, 5)), -1)
    masks = film(torch.tensor([[BALL]]), place[None, :, None], torch.zeros(1, 5, 1))
    assert 10 < (masks[0, 0] == BALL).sum() < 0.4 * (masks[0, -1] == BALL).sum()
    spoilt = masks.clone()
    spoilt[:, 0][masks[:, 0] == BALL] = GHOST
    assert torch.equal(absorb_ghosts(spoilt), masks)


def test_frames_after_the_clip_follow_but_do_not_decide():
    masks = two_objects()
    masks = torch.cat((masks, masks), 1)  # frame 12 is the last
    spoilt = masks.clone()
    spoilt[:, 11][masks[:, 11] == BALL] = GHOST
    assert torch.equal(absorb_ghosts(spoilt), spoilt), "nothing in the clip says whose this is"
    spoilt[:, 2][masks[:, 2] == BALL] = GHOST
    assert torch.equal(absorb_ghosts(spoilt), masks)


def test_videos_do_not_influence_each_other_and_none_may_be_empty():
    masks = two_objects()
    spoilt = masks.clone()
    spoilt[:, 2][masks[:, 2] == BALL] = GHOST
    both = settle(torch.cat((torch.zeros_like(masks), spoilt)))
    assert torch.equal(both, torch.cat((torch.zeros_like(masks), masks)))


def test_of_several_outlines_fitted_to_one_body_the_nearest_decides_what_is_in_front():
    place = torch.tensor([[0.1, 0.0], [0.4, 0.0], [-0.2, 0.1], [1.0, 0.5]])
    image, label, shape = torch.tensor([0, 0, 0, 1]), torch.tensor([5, 5, 5, 7]), torch.tensor([0, 1, 2, 1])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]):
        fit = Hypotheses(torch.zeros(2 * 160 * 240), image[order], label[order], shape[order], 2, *COARSE)
        fit.remember(place[order])
        assert fit.depth[0, 5] == floor_depth(place[:3]).min() and fit.depth[1, 7] == floor_depth(place[3])
        assert (fit.depth[:, 0] == torch.inf).all() and fit.depth[0, 7] == fit.depth[1, 5] == -torch.inf
