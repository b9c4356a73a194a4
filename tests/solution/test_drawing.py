"""Drawing against painted silhouettes."""

import pytest
import torch

from data_prep.scene import paint_solids
from solution.drawing import average_silhouette, draw
from solution.models.dynamics import Forecast

CLASSES = torch.tensor([[3, 20, 40]])


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_spans_equal_cast_silhouettes(shape):
    position = torch.tensor([[0.0, 0.0], [1.5, 1.0], [-3.0, -2.0], [0.5, 2.1]])
    yaw = torch.tensor([0.3, 0.0, 0.7, -0.2])
    kinds = torch.full((4,), shape)
    drawn, in_view = average_silhouette(kinds, position[:, None], yaw[:, None])
    painted = paint_solids(kinds, position, yaw, torch.ones(4, dtype=torch.long), torch.arange(4), 4) > 0
    overlap = (painted & (drawn > 0.5)).sum((1, 2)) / (painted | (drawn > 0.5)).sum((1, 2))
    assert overlap.min() > 0.985 and in_view.tolist() == [1.0] * 4
    assert abs((drawn > 0.5).sum() / painted.sum() - 1) < 0.003


def certain(position, modes=1):
    objects = len(position)
    mean = position[None, :, None, None].expand(1, objects, modes, 1, 2)
    zeros = torch.zeros(1, objects, modes)
    turn = torch.tensor([1.0, 0.0]).expand(1, objects, modes, 2)
    return Forecast(zeros, mean, torch.full((1, objects, modes, 1), 1e-6), turn, torch.full((1, objects), 20.0))


def test_drawing_puts_the_nearer_in_front_and_sums_to_one():
    position = torch.tensor([[0.0, 0.0], [0.35, 0.05], [9.0, 9.0]])
    shape, present = (CLASSES - 1) // 16, torch.tensor([[True, True, True]])
    drawn = draw(certain(position), CLASSES, shape, present, 4)
    image = torch.zeros(2, dtype=torch.long)
    painted = paint_solids(shape[0, :2], position[:2], torch.zeros(2), CLASSES[0, :2], image, 1)
    assert (drawn.argmax(1) == painted).float().mean() > 0.998
    assert torch.allclose(drawn.sum(1), torch.ones(1, 160, 240), atol=1e-5)
    assert drawn[:, 40].max() == 0  # out of view
    many = draw(certain(position, modes=5), CLASSES, shape, present, 16)
    assert torch.allclose(many, drawn, atol=1e-4)  # equal modes are one
