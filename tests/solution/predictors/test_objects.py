"""The objects predictor: its symmetries, and a run from masks to probabilities."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from data_prep.errors import UserError
from data_prep.scene import FRAME_SECONDS, paint_solids
from solution.config import ObjectsConfig
from solution.physics import Constants
from solution.predictors import Clip
from solution.predictors.objects import Objects, load_objects, train_objects
from solution.tracks import find_tracks

CPU = torch.device("cpu")
TINY = ObjectsConfig(modes=3, samples=8)
CLASSES = torch.tensor([[3, 20, 40]])


@pytest.fixture(scope="module")
def masks():
    """(4, 22, 160, 240): in every video one solid slides to the right, two stand."""
    videos, frames = 4, 22
    torch.manual_seed(0)
    start = torch.tensor([[-1.0, -1.8], [0.5, 0.3], [1.4, -0.9]]) + 0.1 * torch.randn(videos, 3, 2)
    position = start[:, None].repeat(1, frames, 1, 1)
    seconds = (torch.arange(frames) * FRAME_SECONDS).clamp_max(0.9 / Constants().deceleration[0])  # then it stands
    position[:, :, 0, 1] += 0.9 * seconds - Constants().deceleration[0] / 2 * seconds**2
    label = CLASSES.expand(videos * frames, -1).flatten()
    solids = (label - 1) // 16, position.reshape(-1, 2), torch.full((len(label),), 0.2)
    image = torch.arange(videos * frames).repeat_interleave(3)
    return paint_solids(*solids, label, image, videos * frames).view(videos, frames, 160, 240)


def test_from_masks_to_probabilities(tmp_path, masks):
    train_objects(TINY, find_tracks(masks), tmp_path)
    drawn = load_objects(tmp_path, CPU).predict(Clip(None, masks[:, :11]))
    assert drawn.shape == (4, 49, 160, 240) and drawn.dtype == torch.float32
    assert torch.allclose(drawn.sum(1), torch.ones(()), atol=1e-4) and drawn.min() >= 0
    assert drawn[:, [0, 3, 20, 40]].sum() == pytest.approx(4 * 160 * 240, rel=1e-4)
    mask = drawn.argmax(1)
    union = ((mask > 0) | (masks[:, -1] > 0)).sum()
    assert ((mask == masks[:, -1]) & (mask > 0)).sum() / union > 0.8


def test_constants_of_another_version_are_refused_by_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "physics.json").write_text(json.dumps(asdict(Constants()) | {"drift": 0.005}))
    with pytest.raises(UserError, match="physics.json was made by another version"):
        load_objects(tmp_path, CPU)


@pytest.mark.slow
def test_objects_are_drawn_as_large_as_labels_draw_them(tmp_path, masks):
    tracks = find_tracks(masks)
    drawn, margins = [], []
    for name, larger in (("exact", 1.0), ("wide", 1.3)):
        train_objects(TINY, replace(tracks, pixels=larger * tracks.pixels), tmp_path / name)
        predictor = load_objects(tmp_path / name, CPU)
        margins.append(predictor.constants.margin)
        drawn.append(1 - predictor.predict_tracks(tracks.frames(slice(11)))[:, 0])
    assert min(margins[1]) > 0.5 and max(map(abs, margins[0])) < 0.2
    assert drawn[1].sum() > 1.15 * drawn[0].sum()


def test_clips_do_not_influence_each_other(masks):
    predictor = Objects(Constants(), TINY, CPU)
    history = find_tracks(masks[:, :11])
    together = predictor.predict_tracks(history)
    alone = torch.cat([predictor.predict_tracks(history[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)
