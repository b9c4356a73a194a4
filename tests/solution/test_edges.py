"""Places read off frames: sampling, what is learnt from, and that frames beat coarse masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.scene import paint_solids
from data_prep.standin import labels as standin_labels
from data_prep.standin.physics import video_seed
from data_prep.standin.renderer import film
from data_prep.standin.writer import paint_videos
from solution import edges
from solution.checkpoints import WEIGHTS
from solution.config import EdgesConfig
from solution.edges import (
    FEATURES,
    PROFILES,
    RAYS,
    colours,
    edge_batches,
    load_edges,
    read_profiles,
    refine,
    track,
    train_edges,
)
from solution.models.edges import EdgeNetwork
from solution.tracks import Outlines, find_tracks
from solution.train import main as train
from tests.conftest import TINY_OPTIONS, assert_one_sentence, call, simulate_many

CONFIG = EdgesConfig(width=32, steps=200, batch=32)
VIDEOS, TIMES = 8, 6


@pytest.fixture(scope="module")
def filmed():
    """(8, 6, 160, 240, 3) frames of the stand-in, (8, 6, 160, 240) true masks, and the same with coarse edges."""
    videos = simulate_many(3, VIDEOS)
    frames = film(videos, [video_seed(3, number) for number in range(VIDEOS)], range(TIMES), "cpu")
    masks = paint_videos(videos)[:, :TIMES]
    row, column = np.arange(160) // 4 * 4 + 2, np.arange(240) // 4 * 4 + 2
    return frames, masks, masks[:, :, row[:, None], column]


def test_colours_between_pixels():
    frames = torch.randint(256, (2, 160, 240, 3), dtype=torch.uint8)
    image = torch.tensor([1, 0])
    middle = torch.tensor([[[7.5, 3.5]], [[0.5, 159.5]]])
    exact = 4 * (frames / 255 - 0.45)
    found = colours(frames, image, middle)
    assert torch.allclose(found[:, 0], torch.stack((exact[1, 3, 7], exact[0, 159, 0])), atol=1e-5)
    between = colours(frames, image[:1], torch.tensor([[[8.0, 4.25]]]))
    expected = 0.125 * (exact[1, 3, 7] + exact[1, 3, 8]) + 0.375 * (exact[1, 4, 7] + exact[1, 4, 8])
    assert torch.allclose(between[0, 0], expected, atol=1e-5)
    outside = colours(frames, image[:1], torch.tensor([[[-9.0, -9.0]]]))
    assert torch.allclose(outside[0, 0], exact[1, 0, 0], atol=1e-5)


def test_true_offsets_lead_back_to_the_truth():
    torch.manual_seed(0)
    place, yaw = torch.tensor([[0.3, -0.6]]), torch.tensor([0.25])
    for kind in range(3):
        shape = torch.tensor([kind])
        outlines = Outlines(torch.full((160 * 240,), kind + 1), torch.zeros(1).long(), shape + 1, shape, 1, *RAYS)
        frames = torch.zeros(1, 160, 240, 3, dtype=torch.uint8)
        near, turned = place + torch.tensor([0.02, -0.015]), yaw + 0.08 * (kind == 0)
        for _ in range(4):
            read = read_profiles(outlines, frames, kind, near, turned, torch.tensor([0]))
            offset = -outlines.outside(kind, place, yaw, read.points)[0]
            slope = outlines.slopes(kind, near, turned, read.points, read.met, torch.zeros_like(offset))
            step = torch.linalg.lstsq(slope[0], offset[0][:, None], driver="gelsd").solution[:, 0]
            near, turned = near + step[:2], turned + step[2]
        assert (near - place).norm() < 2e-4 and (turned - yaw).abs() < 2e-3
    assert read.features.shape == (1, PROFILES, FEATURES)


def test_batches_depend_on_the_step_alone_and_know_where_the_edge_is(filmed):
    frames, masks, coarse = filmed
    truth = find_tracks(torch.from_numpy(masks))
    rows = np.arange(VIDEOS)
    batch = edge_batches(CONFIG, truth, frames, coarse, rows, 5)
    one, again, other = batch(2), batch(2), batch(3)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["offset"], other["offset"])
    assert one["features"].shape == (32, PROFILES, FEATURES) and one["known"].float().mean() > 0.5
    assert 0.2 < one["offset"][one["known"]].abs().mean() < 2  # errors of .01 units are half a pixel
    # In clean masks the labels change from the object's to others where the edge is.
    clean, errors = edge_batches(CONFIG, truth, frames, masks, rows, 5), []
    for step in range(4):
        one = clean(step)
        own = one["features"][..., 44:55]
        known = one["known"] & (one["features"][..., 33:44].min(-1).values > 0)
        errors.append((own.sum(-1) - 5.5 - one["offset"])[known])
    error = torch.cat(errors)
    # Labels say where it is up to half a pixel, which is more across a pixel's corner.
    assert error.mean().abs() < 0.05 and error.abs().median() < 0.4 and error.abs().quantile(0.9) < 0.8


@pytest.mark.slow
def test_frames_tell_places_better_than_coarse_masks(filmed, tmp_path):
    frames, masks, coarse = filmed
    learnt, kept = np.arange(5), np.arange(5, VIDEOS)
    truth = find_tracks(torch.from_numpy(masks))
    trained = train_edges(CONFIG, truth[learnt], frames, coarse, learnt, tmp_path, torch.device("cpu"), 0)
    seen, shown = torch.from_numpy(coarse[kept]), torch.from_numpy(frames[kept])
    found = find_tracks(seen)
    sharp = track(trained, seen, shown)
    true = truth[kept]
    both = found.visible & true.visible & (found.classes == true.classes)[:, None] & ~true.border
    assert both.sum() > 20 and torch.equal(sharp.visible, found.visible)
    before, after = ((each.position - true.position)[both].norm(dim=-1).median() for each in (found, sharp))
    assert after < 0.5 * before
    assert (torch.linalg.eigvalsh(sharp.covariance[sharp.visible]) > 0).all()

    again = refine(load_edges(tmp_path / WEIGHTS, torch.device("cpu")), found, seen, shown)
    assert torch.allclose(again.position, sharp.position, atol=1e-5)
    assert torch.equal(track(trained, seen, None).position, found.position)
    assert torch.equal(track(None, seen, shown).position, found.position)


@pytest.mark.slow
def test_what_a_network_learned_from_imprecise_labels_is_nearer_to_the_truth_than_they_are(
    filmed, tmp_path, monkeypatch
):
    frames, masks, _ = filmed
    monkeypatch.setattr(standin_labels, "BOX_ERROR", 0.6)
    labels = np.stack([standin_labels.imprecise(each, number) for number, each in enumerate(masks)])
    true, found = (find_tracks(torch.from_numpy(each)) for each in (masks, labels))
    rows, device = np.arange(VIDEOS), torch.device("cpu")
    few = replace(CONFIG, steps=50)  # more would learn the errors of so few labels by heart
    network = train_edges(few, found, frames, labels, rows, tmp_path, device, 0)
    seen = refine(network, found, torch.from_numpy(labels), torch.from_numpy(frames))
    truth = {(video, int(c)): slot for video, slots in enumerate(true.classes) for slot, c in enumerate(slots) if c}
    errors = []
    for video, frame, slot in (found.visible & ~found.border).nonzero().tolist():
        where = truth.get((video, int(found.classes[video, slot])))
        if where is not None and true.visible[video, frame, where]:
            place = true.position[video, frame, where]
            errors.append([(each.position[video, frame, slot] - place).norm() for each in (found, seen)])
    before, after = torch.tensor(errors).median(0).values
    assert len(errors) > 60 and after < 0.8 * before


def test_clips_without_objects_of_some_shape_or_of_any():
    network = EdgeNetwork(FEATURES, 8).eval()
    masks, frames = torch.zeros(2, 3, 160, 240, dtype=torch.uint8), torch.zeros(2, 3, 160, 240, 3, dtype=torch.uint8)
    assert not track(network, masks, frames).visible.any()
    masks[1, :, 50:70, 60:75] = 20
    found = track(network, masks, frames)
    assert found.visible.sum() == 3 and found.position.isfinite().all()


def test_edges_that_are_all_off_do_not_move_what_the_border_cuts(monkeypatch):
    """A cylinder comes in over the image's upper edge, and a network sees all its edges too far outside.

    It says the same wherever the outline is, so that what the first of two rounds moved stays.
    """
    position = torch.tensor([[-5.4, 0.3], [-5.0, 0.3], [-3.6, 0.3], [-3.2, 0.3]])
    label, image = torch.full((4,), 40), torch.arange(4)
    masks = paint_solids((label - 1) // 16, position, torch.zeros(4), label, image, 4)[None]
    tracks, frames = find_tracks(masks), torch.zeros(1, 4, 160, 240, 3, dtype=torch.uint8)
    assert tracks.border[0, :, 0].tolist() == [True, True, False, False]

    def outside(features):
        return features.new_full(features.shape[:2], 0.4), features.new_full(features.shape[:2], -3.0)

    def moved(spread: float) -> torch.Tensor:
        monkeypatch.setattr(edges, "IN_COMMON", spread)
        return (refine(outside, tracks, masks, frames).position - tracks.position)[0, :, 0, 0].abs()

    alone, together = moved(1e-3), moved(0.3)
    assert (alone[:2] > 0.1).all() and (together[:2] < 0.6 * alone[:2]).all()


def test_without_steps_there_is_no_such_stage(trained):
    asked = call(train, "edges", "--data", trained.data, *TINY_OPTIONS, "--set=edges.steps=0")
    assert_one_sentence(asked, "edges.steps")
