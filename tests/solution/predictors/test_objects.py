"""The objects predictor: its symmetries, and a run from masks to probabilities."""

from dataclasses import replace

import pytest
import torch

from data_prep.scene import FRAME_SECONDS, paint_solids
from solution.config import ObjectsConfig
from solution.physics import Constants
from solution.predictors import Clip
from solution.predictors.objects import (
    Objects,
    build,
    dynamics_loss,
    foreseen,
    load_objects,
    train_objects,
    training_batches,
    without_bystanders,
)
from solution.tracks import Tracks, find_tracks

TINY = ObjectsConfig("corrected", width=32, modes=3, steps=3, samples=8)
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


@pytest.mark.parametrize("dynamics", ["simulated", "corrected"])
def test_from_masks_to_probabilities(tmp_path, masks, dynamics):
    config = replace(TINY, dynamics=dynamics)
    trained = train_objects(config, find_tracks(masks), len(masks), tmp_path, torch.device("cpu"))
    clip = Clip(None, masks[:, :11])
    drawn = trained.predict(clip)
    assert drawn.shape == (4, 49, 160, 240) and drawn.dtype == torch.float32
    assert torch.allclose(drawn.sum(1), torch.ones(()), atol=1e-4) and drawn.min() >= 0
    assert drawn[:, [0, 3, 20, 40]].sum() == pytest.approx(4 * 160 * 240, rel=1e-4)
    again = load_objects(tmp_path, torch.device("cpu")).predict(clip)
    assert torch.allclose(drawn, again, atol=1e-5)
    if dynamics == "simulated":
        found = drawn.argmax(1)
        union = ((found > 0) | (masks[:, -1] > 0)).sum()
        assert ((found == masks[:, -1]) & (found > 0)).sum() / union > 0.8


@pytest.mark.slow
def test_objects_are_drawn_as_large_as_labels_draw_them(tmp_path, masks):
    config, tracks = ObjectsConfig("simulated", modes=3, samples=8), find_tracks(masks)
    labels = replace(tracks, pixels=1.3 * tracks.pixels)
    labels.pixels[2:] = 1  # of an unlabeled video it is the segmenter's masks that say how large an object is
    exact, wide = (
        train_objects(config, some, 2, tmp_path / name, torch.device("cpu"))
        for name, some in (("exact", tracks), ("wide", labels))
    )
    assert min(wide.constants.margin) > 0.5 and max(map(abs, exact.constants.margin)) < 0.2
    drawn = [1 - each.predict_tracks(tracks.frames(slice(11)))[:, 0] for each in (exact, wide)]
    assert drawn[1].sum() > 1.15 * drawn[0].sum()


def test_clips_do_not_influence_each_other(masks):
    torch.manual_seed(0)
    predictor = Objects(build(TINY).eval(), Constants(), TINY, torch.device("cpu"))
    history = find_tracks(masks[:, :11])
    together = predictor.predict_tracks(history)
    alone = torch.cat([predictor.predict_tracks(history[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def three(frames: int = 22) -> Tracks:
    """Return two videos: a disc passes another at a distance of 0.5, a third is far from both."""
    position = torch.zeros(2, frames, 3, 2)
    position[:, :, 0, 1] = torch.linspace(-2, 2, frames)
    position[:, :, 1] = torch.tensor([0.5, 0.0])
    position[:, :, 2] = torch.tensor([-2.0, 0.0])
    shown = torch.ones(2, frames, 3)
    return Tracks(
        classes=torch.tensor([[33, 34, 35]] * 2),
        visible=shown > 0,
        position=position,
        yaw=torch.zeros(2, frames, 3),
        border=shown < 0,
        shown=shown,
        pixels=500 * shown,
        covariance=torch.zeros(2, frames, 3, 3, 3),
    )


def test_only_bystanders_are_left_out():
    tracks = three()
    tracks.visible[1, :, 1] = False  # nobody knows where it is, so nobody is near it
    random = torch.Generator().manual_seed(0)
    left = torch.stack([(without_bystanders(tracks, random).classes > 0).float() for _ in range(200)]).mean(0)
    assert (left[0, :2] == 1).all()
    assert ((left[[0, 1, 1, 1], [2, 0, 1, 2]] - 0.5).abs() < 0.15).all()
    some = without_bystanders(tracks, random)
    assert torch.equal(some.visible, tracks.visible & (some.classes > 0)[:, None])
    rollout = foreseen(three(), Constants(), TINY, torch.device("cpu"))
    present = training_batches(three(), rollout, TINY, 0)(0)["present"].float().mean(0)
    assert (present[:2] == 1).all() and 0.3 < present[2] < 0.7


def test_training_clips_lie_on_a_floor_that_is_turned_and_shifted(masks):
    tracks = find_tracks(masks)
    rollout = foreseen(tracks, Constants(), TINY, torch.device("cpu"))
    batch = training_batches(tracks, rollout, TINY, 0)(0)
    assert torch.equal(batch["judged"], batch["present"])
    place, expected = batch["position"][..., -1, :], batch["anchor"][:, :, 0, -1]
    known = batch["seen"][..., -1]
    truth = tracks.position[:, -1].flatten(0, 1)
    assert torch.cdist(place[known], truth).amin(1).min() > 1e-3
    assert (place - expected)[known].norm(dim=-1).median() < 0.1, "the rollout is moved with the floor"
    model = build(TINY)
    assert dynamics_loss(model, batch)["leaves"] > 0
    assert dynamics_loss(model, batch | {"judged": torch.zeros_like(batch["judged"])})["leaves"] == 0
