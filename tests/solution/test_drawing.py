"""Drawing against painted silhouettes."""

import pytest
import torch

from data_prep.scene import paint_solids
from solution import drawing
from solution.drawing import average_silhouette, draw, fit_margin
from solution.tracks import find_tracks

CLASSES = torch.tensor([[3, 20, 40]])


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_spans_equal_cast_silhouettes(shape):
    position = torch.tensor([[0.0, 0.0], [1.5, 1.0], [-3.0, -2.0], [0.5, 2.1]])
    yaw = torch.tensor([0.3, 0.0, 0.7, -0.2])
    kinds = torch.full((4,), shape)
    drawn = average_silhouette(kinds, position[:, None], yaw[:, None])
    painted = paint_solids(kinds, position, yaw, torch.ones(4, dtype=torch.long), torch.arange(4), 4) > 0
    overlap = (painted & (drawn > 0.5)).sum((1, 2)) / (painted | (drawn > 0.5)).sum((1, 2))
    assert overlap.min() > 0.98
    assert abs((drawn > 0.5).sum() / painted.sum() - 1) < 0.003


@pytest.fixture(autouse=True)
def exact_places(monkeypatch):
    monkeypatch.setattr(drawing, "SCATTER", 1e-6)


def certain(position, places=1):
    """Return places and yaws of objects that may be nowhere else."""
    return position[None, :, None].expand(1, -1, places, -1), torch.zeros(1, len(position), places)


def test_drawing_puts_the_nearer_in_front_and_sums_to_one():
    position = torch.tensor([[0.0, 0.0], [0.35, 0.05], [9.0, 9.0]])
    shape, present = (CLASSES - 1) // 16, torch.tensor([[True, True, True]])
    drawn = draw(*certain(position), CLASSES, shape, present, 4)
    image = torch.zeros(2, dtype=torch.long)
    painted = paint_solids(shape[0, :2], position[:2], torch.zeros(2), CLASSES[0, :2], image, 1)
    assert (drawn.argmax(1) == painted).float().mean() > 0.998
    assert torch.allclose(drawn.sum(1), torch.ones(1, 160, 240), atol=1e-5)
    assert drawn[:, 40].max() == 0  # out of view
    many = draw(*certain(position, places=5), CLASSES, shape, present, 16)
    assert torch.allclose(many, drawn, atol=1e-4)  # equal places are one


@pytest.fixture(scope="module")
def labels():
    """(30, 160, 240) uint8 masks of three solids each, by how many pixels they were drawn larger."""
    torch.manual_seed(0)
    place = torch.tensor([[-1.5, -1.4], [0.2, 0.0], [-0.5, 1.6]]) + 0.3 * (torch.rand(30, 3, 2) - 0.5)
    alike = (CLASSES, (CLASSES - 1) // 16, torch.ones(1, 3) > 0, 1)
    margins = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, -0.4, 0.2))
    return {m: torch.cat([draw(*certain(each), *alike, m).argmax(1).byte() for each in place]) for m in margins}


def test_a_margin_moves_every_edge_outwards(labels):
    exact, wider, _ = (masks > 0 for masks in labels.values())
    around = torch.nn.functional.max_pool2d(exact.float()[:, None], 3, 1, 1)[:, 0] > 0
    assert not (exact & ~wider).any() and (wider & ~around).sum() < 0.01 * wider.sum()
    assert 0.7 < (wider & ~exact).sum() / (around & ~exact).sum() < 1  # eight neighbours reach farther at slanted edges


def test_the_margin_that_is_found_makes_silhouettes_as_large_as_labels(labels):
    exact, _, other = labels
    assert fit_margin(find_tracks(labels[exact][:, None])) == pytest.approx(exact, abs=0.06)
    tracks = find_tracks(labels[other][:, None])
    margin = fit_margin(tracks)
    # Part of a margin is taken for a place nearer to the camera.
    assert all(0.3 < found / true < 1.1 for found, true in zip(margin, other, strict=True))
    shape, place, yaw = (part.flatten(0, 2) for part in (tracks.shape[:, None], tracks.position, tracks.yaw))
    real = (shape >= 0).nonzero()[:, 0]
    pixels = tracks.pixels.flatten()[real]
    for kind in range(3):
        some = shape[real] == kind
        plain, fitted = (
            average_silhouette(shape[real][some], place[real][some, None], yaw[real][some, None], each).sum((1, 2))
            for each in (exact, margin)
        )
        off = [abs((drawn / pixels[some]).median() - 1) for drawn in (plain, fitted)]
        assert off[1] < 0.01 and off[1] < off[0] / 2


def test_a_margin_is_told_by_whole_objects_only():
    shape, place = torch.tensor([0, 2]), torch.tensor([[0.0, 0.0], [0.3, 0.25]])
    touching = paint_solids(shape, place, torch.zeros(2), 1 + 16 * shape, torch.zeros(2).long(), 1)
    cut = paint_solids(
        shape[:1], torch.tensor([[0.0, 2.15]]), torch.zeros(1), torch.ones(1).long(), torch.zeros(1).long(), 1
    )
    for masks in (touching, cut, torch.zeros_like(cut)):
        assert fit_margin(find_tracks(masks[:, None])) == (0.0, 0.0, 0.0)
