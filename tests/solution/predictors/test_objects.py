"""The objects predictor: its symmetries, and a run from masks to probabilities."""

import math

import pytest
import torch

from data_prep.scene import FRAME_SECONDS, paint, silhouettes
from solution.physics import Constants
from solution.predictors import Clip, View
from solution.predictors.objects import (
    Objects,
    ObjectsConfig,
    build,
    load_objects,
    train_objects,
)
from solution.tracks import find_tracks

TINY = ObjectsConfig("corrected", width=32, layers=1, modes=3, steps=3, batch_size=4, samples=8)
CLASSES = torch.tensor([[3, 20, 40]])


@pytest.fixture(scope="module")
def masks():
    """(4, 22, 160, 240): in every video one solid slides to the right, two stand."""
    videos, frames = 4, 22
    torch.manual_seed(0)
    start = torch.tensor([[-1.0, -1.8], [0.5, 0.3], [1.4, -0.9]]) + 0.1 * torch.randn(videos, 3, 2)
    position = start[:, None].repeat(1, frames, 1, 1)
    seconds = (torch.arange(frames) * FRAME_SECONDS).clamp_max(0.9 / Constants().cube_deceleration)  # then it stands
    position[:, :, 0, 1] += 0.9 * seconds - Constants().cube_deceleration / 2 * seconds**2
    label = CLASSES.expand(videos * frames, -1).flatten()
    depth, corner = silhouettes((label - 1) // 16, position.reshape(-1, 2), torch.full((len(label),), 0.2))
    image = torch.arange(videos * frames).repeat_interleave(3)
    return paint(depth, corner, label, image, videos * frames).view(videos, frames, 160, 240)


@pytest.mark.parametrize("dynamics", ["simulated", "corrected", "direct", "interactions"])
def test_from_masks_to_probabilities(tmp_path, masks, dynamics):
    config = ObjectsConfig(dynamics, width=32, layers=1, modes=3, steps=3, batch_size=4, samples=8)
    trained = train_objects(config, find_tracks(masks), tmp_path, torch.device("cpu"))
    clip = Clip(None, masks[:, :11])
    drawn = trained.predict(clip, View())
    assert trained.symmetries == ({"flip"} if dynamics == "simulated" else {"flip", "turn"})
    assert drawn.shape == (4, 49, 160, 240) and drawn.dtype == torch.float32
    assert torch.allclose(drawn.sum(1), torch.ones(()), atol=1e-4) and drawn.min() >= 0
    assert drawn[:, [0, 3, 20, 40]].sum() == pytest.approx(4 * 160 * 240, rel=1e-4)
    again = load_objects(tmp_path, torch.device("cpu")).predict(clip, View())
    assert torch.allclose(drawn, again, atol=1e-5)
    if dynamics == "simulated":
        found = drawn.argmax(1)
        union = ((found > 0) | (masks[:, -1] > 0)).sum()
        assert ((found == masks[:, -1]) & (found > 0)).sum() / union > 0.8


def test_turning_the_floor_and_back_changes_nothing_that_is_simulated(masks):
    predictor = Objects(None, Constants(), ObjectsConfig("simulated", modes=2), torch.device("cpu"))
    history = find_tracks(masks[:, :11])
    straight, turned = (predictor.forecast(history, View(turn=t)) for t in (0.0, 2.0))
    assert torch.allclose(straight.mean, turned.mean, atol=1e-3)


def test_a_turned_view_of_the_network_is_turned_back(masks):
    torch.manual_seed(0)
    predictor = Objects(build(TINY).eval(), Constants(), TINY, torch.device("cpu"))
    history = find_tracks(masks[:, :11])
    straight, turned = (predictor.forecast(history, View(turn=t)) for t in (0.0, math.pi))
    # An untrained network hardly corrects the simulator: what is left is the turn and its inverse.
    known = history.visible.any(1)
    assert (straight.mean - turned.mean)[known].abs().max() < 0.2
    assert (straight.turn - turned.turn)[known].abs().max() < 1.0


def test_clips_do_not_influence_each_other(masks):
    torch.manual_seed(0)
    predictor = Objects(build(TINY).eval(), Constants(), TINY, torch.device("cpu"))
    history = find_tracks(masks[:, :11])
    together = predictor.predict_tracks(history, View())
    alone = torch.cat([predictor.predict_tracks(history[i : i + 1], View()) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)
