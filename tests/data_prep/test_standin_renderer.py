"""The stand-in's pictures against exact masks, brute-force rays and the real competition's levels."""

import cv2
import numpy as np
import pytest
import torch

from data_prep import scene
from data_prep.classes import COLOURS, NUM_CLASSES, class_parts
from data_prep.standin import renderer
from data_prep.standin.writer import paint_videos
from tests.conftest import simulate_many

REAL_MEDIANS = {
    "red": (114, 52, 51),
    "brown": (96, 72, 40),
    "yellow": (130, 125, 58),
    "cyan": (55, 120, 119),
    "green": (47, 86, 36),
    "blue": (57, 74, 122),
    "purple": (93, 49, 112),
}
"""Of the pixels of all objects of a colour in the competition's public frames."""


@pytest.fixture(scope="module")
def videos():
    return simulate_many(1, 3)


@pytest.fixture(scope="module")
def masks(videos):
    solids = renderer.solids_of(videos)
    return scene.paint_solids(*solids, len(videos) * 22).numpy().reshape(-1, 22, 160, 240)


def film(videos, length=22):
    return renderer.film(videos, list(range(len(videos))), range(length), "cpu")


def test_colour_lies_where_the_mask_is(videos, masks):
    solids = renderer.solids_of(videos[:1])
    colour, pixel = renderer.shade_solids(*solids, 22)
    assert colour.shape == (len(pixel), 3) and colour.min() >= 0 and colour.max() <= 255
    rays = torch.bincount(pixel, minlength=22 * 160 * 240).view(22, 160, 240).numpy()
    for frame in range(22):
        solid = (masks[0, frame] > 0).astype(np.uint8)
        inner, outer = (change(solid, np.ones((3, 3), np.uint8)) > 0 for change in (cv2.erode, cv2.dilate))
        assert (rays[frame][inner] == 4).mean() > 0.995  # slivers of floor between two solids may show
        assert not rays[frame][~outer].any()


def test_a_video_s_pixels_do_not_depend_on_its_neighbours_or_length(videos):
    together = film(videos[:2], 3)
    assert together.shape == (2, 3, 160, 240, 3) and together.dtype == np.uint8
    np.testing.assert_array_equal(film(videos[:1], 3)[0], together[0])
    np.testing.assert_array_equal(film(videos[:2], 3), together)


def test_the_empty_floor_has_the_real_levels():
    floor = renderer.background(torch.device("cpu"))
    assert floor.min() > 100 and floor.max() < 146
    top_left, middle = floor[12:22, 10:40].mean((0, 1)), floor[75:85, 110:130].mean((0, 1))
    assert top_left[2] > top_left[0] + 4 and floor[:2].mean() < middle.mean() - 15


def test_grain_is_slight():
    grain = renderer.grain(0, 8, "cpu")
    assert grain.shape == (8, 160, 240, 3)
    assert 0.6 < grain.std() < 1.4 and abs(grain.mean()) < 0.1


def test_colours_are_the_real_medians():
    many = simulate_many(2, 24)
    painted = scene.paint_solids(*renderer.solids_of(many), len(many) * 22).numpy().reshape(-1, 22, 160, 240)[:, :2]
    frames, colour = film(many, 2), np.array([-1] + [class_parts(label)[2] for label in range(1, NUM_CLASSES)])[painted]
    for name, real in REAL_MEDIANS.items():
        median = np.median(frames[colour == COLOURS.index(name)], 0)
        assert np.abs(median / real - 1).max() < 0.2, name


def test_videos_have_the_real_statistics():
    """Within a quarter of those of the competition's public frames; foreground IoUs pool all pixels."""
    many = simulate_many(2, 60)
    masks = np.concatenate([paint_videos([video]) for video in many])
    visible = np.array([[(np.bincount(mask.ravel(), minlength=49)[1:] >= 8).sum() for mask in v] for v in masks])
    solid = masks > 0

    def overlap(first: int, second: int) -> float:
        return (solid[:, first] & solid[:, second]).sum() / (solid[:, first] | solid[:, second]).sum()

    assert visible.max() <= 6
    statistics = {
        "visible objects, frame 1": (visible[:, 0].mean(), 2.6),
        "visible objects, frames 6-22": (visible[:, 5:].mean(), 4.1),
        "foreground, frame 1": (solid[:, 0].mean(), 0.036),
        "foreground, frames 6-22": (solid[:, 5:].mean(), 0.06),
        "foreground IoU, one frame apart": (np.mean([overlap(t, t + 1) for t in range(21)]), 0.69),
        "foreground IoU, frames 11 and 22": (overlap(10, 21), 0.23),
    }
    for name, (here, real) in statistics.items():
        assert here == pytest.approx(real, rel=0.25), name


def lamp_is_hidden(shape: int, yaw: float, points: np.ndarray, lamp: tuple) -> np.ndarray:
    """March from (P, 2) floor points to a lamp and return whether the solid at the origin is in the way."""
    ends = np.c_[points, np.zeros(len(points))]
    way = np.linspace(0, 0.25, 1200)[:, None, None]  # a quarter of the way is far above every solid
    x, y, z = np.moveaxis(ends + way * (np.array(lamp) - ends), -1, 0)
    if shape == 0:
        x, y = x * np.cos(yaw) + y * np.sin(yaw), y * np.cos(yaw) - x * np.sin(yaw)
        inside = (np.abs(x) < 0.2) & (np.abs(y) < 0.2) & (z < 0.4)
    elif shape == 1:
        inside = x**2 + y**2 + (z - 0.2) ** 2 < 0.04
    else:
        inside = (x**2 + y**2 < 0.04) & (z < 0.4)
    return inside.any(0)


def under_the_solid(shape: int, yaw: float, points: np.ndarray) -> np.ndarray:
    """Return which (P, 2) floor points a solid at the origin stands on or, a sphere, darkens by being so near."""
    if shape == 0:
        x, y = points.T
        return np.maximum(*np.abs([x * np.cos(yaw) + y * np.sin(yaw), y * np.cos(yaw) - x * np.sin(yaw)])) < 0.2
    return np.hypot(*points.T) < (0.15 if shape == 1 else 0.2)


@pytest.mark.parametrize("shape", [0, 1, 2])
@pytest.mark.parametrize("lamp", [0, 1, 2])
def test_half_shadows_run_along_the_hard_shadow_s_edge(shape, lamp):
    random = np.random.default_rng(shape)
    points = random.uniform(-1.2, 1.2, (1200, 2))
    points = points[~under_the_solid(shape, 0.4, points)]
    state = torch.tensor([[0.0, 0.0, 0.4]])
    floor = torch.tensor(points, dtype=torch.float32)
    towards, _ = renderer.lamp_light(torch.nn.functional.pad(floor, (0, 1)), lamp)
    slant = towards[:, :2] / towards[:, 2:]
    share = renderer.blocked_share(shape, state, floor, slant)[0].numpy()
    hidden = lamp_is_hidden(shape, 0.4, points, renderer.LAMPS[lamp])
    assert 10 < hidden.sum() < 600
    assert ((share > 0.5) == hidden).mean() > 0.985
    assert share[hidden].mean() > 0.8 and share[~hidden].mean() < 0.05


@pytest.mark.parametrize("shape, least, most", [(0, 0.88, 0.98), (1, 0.5, 0.78), (2, 0.94, 1.03)])
def test_the_floor_in_front_of_a_solid_is_as_light_as_the_real_one(shape, least, most):
    """One and two pixels below the outline, against the empty floor: dark below spheres alone."""
    kind = torch.tensor([shape])
    place = torch.tensor([[-1.0, 0.0]]), torch.tensor([np.pi / 4])
    mask = scene.paint_solids(kind, *place, torch.tensor([1]), torch.tensor([0]), 1)[0]
    factor = renderer.shadows(kind, *place, torch.tensor([0]), 1)[0, ..., 0]
    columns = (mask > 0).any(0).nonzero()[:, 0]
    inner = columns[len(columns) // 4 : -len(columns) // 4]
    below = 1 + torch.stack([mask[:, column].nonzero().max() for column in inner])
    light = (factor[below, inner] + factor[below + 1, inner]) / 2
    assert least < light.mean() < most


def test_a_mirror_shows_the_dark_room_above_and_the_floor_below():
    point = torch.tensor([[0.0, 0.0, 0.2]] * 2)
    direction = torch.nn.functional.normalize(torch.tensor([[-1.0, 0.9, 0.6], [0.5, 0.9, -0.6]]), dim=1)
    index, first = torch.zeros(2, dtype=torch.long), torch.tensor([0, 1])
    light = renderer.surroundings(point, direction, index, index, first, torch.zeros(1, 2), torch.ones(1, 3))
    assert light[0].max() < 0.1 < 0.15 < light[1].min()


def test_a_mirror_shows_its_neighbour():
    point, direction = torch.tensor([[0.2, 0.0, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    index, first = torch.zeros(1, dtype=torch.long), torch.tensor([0, 2])
    position, lit = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.1, 0.1]])
    light = renderer.surroundings(point, direction, index, index, first, position, lit)
    torch.testing.assert_close(light / light[0, 0], lit[1:] / 0.9)
