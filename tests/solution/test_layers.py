"""Objects are found as fast as they are, and slide where they should, the near ones before the far ones."""

import cv2
import numpy as np
import pytest
import torch

from solution.layers import STEPS, coverage, painted, slide, velocities, visible_objects

SIZE = (48, 72)


def scene(*objects: tuple[int, int, int, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a (1, 3, H, W) frame and its (1, H, W) mask of squares of 12 pixels: class, top, left, grey."""
    frame, mask = torch.full((1, 3, *SIZE), 0.5), torch.zeros(1, *SIZE, dtype=torch.uint8)
    for label, top, left, grey in objects:
        frame[..., top : top + 12, left : left + 12], mask[0, top : top + 12, left : left + 12] = grey, label
    return frame, mask


def slid(frame, mask, shifts: dict[int, tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    classes = visible_objects(mask)
    shift = torch.tensor([[[shifts.get(label, (0.0, 0.0)) for label in classes[0].tolist()]]])
    moves = shift[:, 0].norm(dim=-1) > 0
    drawn, moved = slide(frame, coverage(mask, classes, 1), moves, shift, torch.full((1, 1, 3, *SIZE), 0.4))
    return drawn[:, 0], moved[0, 0, 0]


def test_velocities_are_those_of_what_moved():
    rng = np.random.default_rng(0)
    texture = cv2.blur(rng.integers(0, 256, (160, 240, 3), np.uint8), (5, 5))
    square = cv2.blur(rng.integers(0, 256, (40, 40, 3), np.uint8), (5, 5))
    frames, masks = texture[None, None].repeat(6, 1), np.zeros((1, 6, 160, 240), np.uint8)
    for t in range(6):
        place = np.s_[0, t, 60 + 2 * t : 100 + 2 * t, 80 - 4 * t : 120 - 4 * t]
        frames[place], masks[place] = square, 7
    masks[0, :, 10:30, 10:30], masks[0, :, 150, 200:210] = 5, 3  # one stands still, one is too small
    found = velocities(*map(torch.from_numpy, (frames, masks)))
    assert found.shape == (1, 6, 49, 2) and found.dtype == torch.float32
    torch.testing.assert_close(found[0, -STEPS:, 7], torch.tensor([[-4.0, 2.0]] * STEPS), atol=0.25, rtol=0)
    assert found[0, :, 5].abs().max() < 0.05 and not found[0, :, [0, 3]].any() and not found[0, :-STEPS].any()
    maps = painted(found, torch.from_numpy(masks))
    assert torch.equal(maps[0, -1, :, 75, 65], found[0, -1, 7]) and not maps[0, -1, :, 150, 10].any()


def test_an_object_leaves_the_floor_and_covers_what_is_behind_it():
    frame, mask = scene((7, 20, 10, 0.9), (9, 10, 30, 0.1))  # 7 is nearer: it reaches lower
    drawn, moved = slid(frame, mask, {7: (20.0, -4.0)})
    assert (drawn[0, :, 20:32, 10:22] == 0.4).all() and (moved[20:32, 10:22] == 1).all()
    torch.testing.assert_close(drawn[0, :, 16:28, 30:42], torch.full((3, 12, 12), 0.9), atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[0, :, 10:16, 30:42], torch.full((3, 6, 12), 0.1), atol=1e-4, rtol=0)
    assert moved[10:16, 30:42].max() < 1e-4 and moved[16:28, 30:42].min() > 1 - 1e-4
    drawn, moved = slid(frame, mask, {9: (-20.0, 6.0)})  # behind the other one, half hidden
    torch.testing.assert_close(drawn[0, :, 20:32, 10:22], torch.full((3, 12, 12), 0.9), atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[0, :, 16:20, 10:22], torch.full((3, 4, 12), 0.1), atol=1e-4, rtol=0)


def test_without_motion_a_frame_is_itself():
    frame, mask = scene((7, 20, 10, 0.9), (9, 25, 15, 0.1))
    drawn, moved = slid(frame, mask, {})
    torch.testing.assert_close(drawn, frame, atol=1e-5, rtol=0)
    assert not moved.any()


def test_a_shift_by_parts_of_a_pixel_has_a_gradient():
    frame, mask = scene((7, 20, 10, 0.9))
    classes = visible_objects(mask)
    shift = torch.zeros(1, 1, classes.shape[1], 2).index_fill(2, torch.tensor([0]), 3.5).requires_grad_()
    moves, floor = torch.ones_like(classes, dtype=torch.bool), torch.full((1, 1, 3, *SIZE), 0.4)
    drawn, _ = slide(frame, coverage(mask, classes, 1), moves, shift, floor)
    target, _ = slid(frame, mask, {7: (5.0, 2.0)})
    (drawn[:, 0] - target).square().sum().backward()
    right, down = shift.grad[0, 0, 0].tolist()
    assert right < 0 < down and not shift.grad[0, 0, 1:].any()  # further right, less far down


@pytest.mark.parametrize("downscale", [1, 4])
def test_coverage_is_a_share(downscale):
    _, mask = scene((7, 20, 10, 0.9))
    classes = visible_objects(mask)
    share = coverage(mask, classes, downscale)
    assert classes[0, 0] == 7 and share.shape[-2:] == (SIZE[0] // downscale, SIZE[1] // downscale)
    assert share[0, 0].sum() * downscale**2 == 144 and not share[0, 1:].any()
