"""The scene's camera and silhouettes against float64 geometry that shares no code with them."""

import numpy as np
import pytest
import torch

from data_prep import scene

RADIUS = 0.2
BEVEL = {0: 0.037, 2: 0.014}


def image_points(points: np.ndarray) -> np.ndarray:
    """Project (..., 3) world points by the closed form of the camera, in float64."""
    x, y, z = np.moveaxis(points, -1, 0)
    cos, sin = np.cos(np.pi / 6), 0.5
    depth = 5 - cos * x - sin * z
    return np.stack((120 + 262.5 * y / depth, 80 + 262.5 * (sin * x - cos * z) / depth), -1)


def hull_signed_distance(points: np.ndarray) -> np.ndarray:
    """Return (160, 240) px distances of pixel centres outside (+) or inside (-) the convex hull of (n, 2) points."""
    points = points[np.lexsort(points.T[::-1])]

    def chain(ordered: np.ndarray) -> list[np.ndarray]:
        kept: list[np.ndarray] = []
        for point in ordered:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-1] - kept[-2], point - kept[-2]
                if ax * by - ay * bx > 0:
                    break
                kept.pop()
            kept.append(point)
        return kept[:-1]

    hull = np.array(chain(points) + chain(points[::-1]))
    columns, rows = np.meshgrid(np.arange(240) + 0.5, np.arange(160) + 0.5)
    distance = np.full(columns.shape, -np.inf)
    for (ax, ay), (bx, by) in zip(hull, np.roll(hull, -1, 0), strict=True):
        across = ((columns - ax) * (by - ay) - (rows - ay) * (bx - ax)) / np.hypot(bx - ax, by - ay)
        distance = np.maximum(distance, across)
    return distance


def outline_distance(shape: int, x: float, y: float, yaw: float) -> np.ndarray:
    """Return (160, 240) how far outside (+) a solid's outline pixel centres lie, px for cubes and cylinders."""
    if shape == 1:
        columns, rows = np.meshgrid(np.arange(240) + 0.5, np.arange(160) + 0.5)
        cos, sin = np.cos(np.pi / 6), 0.5
        right, down = (columns - 120) / 262.5, (rows - 80) / 262.5
        ray = np.stack((-cos + down * sin, right, -sin - down * cos), -1)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        to_centre = np.array([x, y, RADIUS]) - np.array([5 * cos, 0, 2.5])
        return (np.linalg.norm(np.cross(ray, to_centre), axis=-1) - RADIUS) * 50
    bevel = BEVEL[shape]
    if shape == 0:
        angles = yaw + np.pi / 4 + np.arange(4) * np.pi / 2
        ring = np.stack((np.cos(angles), np.sin(angles)), 1) * (RADIUS - bevel) * np.sqrt(2)
    else:
        angles = np.arange(96) * np.pi / 48
        ring = np.stack((np.cos(angles), np.sin(angles)), 1) * (RADIUS - bevel)
    base = np.concatenate([np.c_[ring + (x, y), np.full(len(ring), z)] for z in (bevel, 2 * RADIUS - bevel)])
    turn, height = np.arange(2000) * 2.399963, np.linspace(-1, 1, 2000)  # points spread over a ball
    ball = np.stack((np.sqrt(1 - height**2) * np.cos(turn), np.sqrt(1 - height**2) * np.sin(turn), height), 1)
    return hull_signed_distance(image_points((base[:, None] + bevel * ball).reshape(-1, 3)))


def draw(shape: list[int], position: list, yaw: list[float], label: list[int]) -> np.ndarray:
    solids = torch.tensor(shape), torch.tensor(position), torch.tensor(yaw)
    labels, images = torch.tensor(label), torch.zeros(len(shape), dtype=torch.long)
    return scene.paint_solids(*solids, labels, images, 1)[0].numpy()


def test_projection_is_the_closed_form_and_comes_back():
    points = torch.rand(200, 3, dtype=torch.float64) * torch.tensor([6.0, 4.0, 0.4]) - torch.tensor([4.0, 2.0, 0.0])
    pixels = scene.project(points)
    np.testing.assert_allclose(pixels, image_points(points.numpy()), atol=1e-4)
    for height in (0.0, 0.2):
        floor = torch.cat((points[:, :2], torch.full((200, 1), height, dtype=torch.float64)), 1)
        torch.testing.assert_close(scene.unproject(scene.project(floor), height), points[:, :2])


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_masks_are_the_analytic_outlines(shape):
    random = np.random.default_rng(shape)
    for _ in range(6):
        x, y, yaw = random.uniform(-5, 2), random.uniform(-2, 2), random.uniform(0, 6)
        drawn = draw([shape], [[x, y]], [yaw], [7])
        distance = outline_distance(shape, x, y, yaw)
        clear = np.abs(distance) > 0.03  # a rounding's breadth around the outline is not asked for
        assert set(np.unique(drawn)) <= {0, 7}
        np.testing.assert_array_equal((drawn == 7)[clear], (distance < 0)[clear])


def test_the_nearer_solid_hides_the_farther():
    drawn = draw([0, 2], [[0.0, 0.0], [-0.6, 0.0]], [0.3, 0.0], [1, 2])
    alone = draw([0], [[0.0, 0.0]], [0.3], [1])
    np.testing.assert_array_equal(drawn == 1, alone == 1)
    assert (drawn == 2).any()


def test_fitted_windows_paint_what_whole_windows_paint(monkeypatch):
    random = torch.Generator().manual_seed(0)
    count = 300
    shape = torch.randint(0, 3, (count,), generator=random)
    position = torch.rand(count, 2, generator=random) * torch.tensor([9.0, 8.0]) - torch.tensor([6.5, 4.0])
    yaw = torch.rand(count, generator=random) * 6
    label, image = torch.arange(count) % 6 + 1, torch.arange(count) // 6
    fitted = scene.paint_solids(shape, position, yaw, label, image, count // 6)
    monkeypatch.setattr(scene, "WINDOWS", (scene.WINDOW,))
    torch.testing.assert_close(scene.paint_solids(shape, position, yaw, label, image, count // 6), fitted)
    assert (fitted > 0).any()


def test_no_solids_leave_empty_images():
    nothing = torch.zeros(0, dtype=torch.long)
    drawn = scene.paint_solids(nothing, torch.zeros(0, 2), torch.zeros(0), nothing, nothing, 2)
    assert drawn.shape == (2, 160, 240) and not drawn.any()
