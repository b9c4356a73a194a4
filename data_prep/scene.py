"""The competition's scene: its fixed camera, the sizes of its three solids, and exact silhouettes of them.

Constants are CLEVRER's, whose physics VRDP (Ding et al., NeurIPS 2021) fits through the same camera. World units,
z up, floor at z = 0, +y is right in the image. Image coordinates are continuous (column, row): pixel (r, c) has its
centre at (c + 0.5, r + 0.5). Colour, light and motion live elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

HEIGHT, WIDTH = 160, 240
NUM_FRAMES = 22
CLIP_FRAMES = 11
"""Frames a predictor is given; the mask of frame ``NUM_FRAMES`` is asked for."""

CAMERA = (4.330127, 0.0, 2.5)
FORWARD = (-0.8660254, 0.0, -0.5)
RIGHT = (0.0, 1.0, 0.0)
UP = (-0.5, 0.0, 0.8660254)
FOCAL = 262.5
CENTRE = (120.0, 80.0)

RADIUS = 0.2
"""Of spheres and cylinders; also half the edge of a cube and half the height of every solid."""

WINDOW = 72
"""Side in pixels of the square that holds any solid standing where its footprint is in view."""

WINDOWS = (28, 36, 46, WINDOW)
"""Sides among which ``paint_solids`` chooses: most solids are far from the camera."""

FRAME_SECONDS = 0.24


def project(points: Tensor) -> Tensor:
    """Return (..., 2) image coordinates (column, row) of (..., 3) world points in front of the camera."""
    x, y, z = points.unbind(-1)
    depth = 5.0 + FORWARD[0] * x + FORWARD[2] * z
    column = CENTRE[0] + FOCAL * y / depth
    row = CENTRE[1] - FOCAL * (UP[0] * x + UP[2] * z) / depth
    return torch.stack((column, row), -1)


def unproject(pixels: Tensor, height: float = 0.0) -> Tensor:
    """Return (..., 2) world (x, y) where the rays of (..., 2) image coordinates meet the plane z = ``height``."""
    direction = ray_directions(pixels)
    distance = (height - CAMERA[2]) / direction[..., 2]
    camera = pixels.new_tensor(CAMERA[:2])
    return camera + distance[..., None] * direction[..., :2]


def ray_directions(pixels: Tensor) -> Tensor:
    """Return (..., 3) directions of the rays through (..., 2) image coordinates, of length 1 along the view axis."""
    right = (pixels[..., 0] - CENTRE[0]) / FOCAL
    down = (pixels[..., 1] - CENTRE[1]) / FOCAL
    forward, up = pixels.new_tensor(FORWARD), pixels.new_tensor(UP)
    direction = forward - down[..., None] * up
    direction[..., 1] += right
    return direction


def hit_depth(shape: int, position: Tensor, yaw: Tensor, directions: Tensor) -> Tensor:
    """Cast camera rays at solids of one shape standing on the floor.

    Args:
        shape: index into ``classes.SHAPES``.
        position: (N, 2) world (x, y) of the solids' axes.
        yaw: (N,) turn about z in radians; only cubes show it.
        directions: (N, P, 3) from :func:`ray_directions`.

    Returns:
        (N, P) depth along the view axis of the first hit, ``inf`` where the ray misses.
    """
    camera = position.new_tensor(CAMERA)
    origin_xy = camera[:2] - position
    dx, dy, dz = directions.unbind(-1)
    if shape == 0:
        cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
        ox = origin_xy[:, :1] * cos + origin_xy[:, 1:] * sin
        oy = origin_xy[:, 1:] * cos - origin_xy[:, :1] * sin
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
        near = torch.full_like(dz, 0.0)
        far = torch.full_like(dz, float("inf"))
        for origin, direction in ((ox, dx), (oy, dy), (camera[2] - RADIUS, dz)):
            inverse = 1.0 / direction
            middle, half = -origin * inverse, RADIUS * inverse.abs()
            near = torch.maximum(near, middle - half)
            far = torch.minimum(far, middle + half)
        return torch.where(near <= far, near, torch.inf)
    ox, oy = origin_xy[:, :1], origin_xy[:, 1:]
    a = dx * dx + dy * dy
    b = ox * dx + oy * dy
    c = ox * ox + oy * oy - RADIUS**2
    if shape == 1:
        oz = camera[2] - RADIUS
        a, b, c = a + dz * dz, b + oz * dz, c + oz * oz
        root = b * b - a * c
        return torch.where(root >= 0, (-b - root.clamp_min(0).sqrt()) / a, torch.inf)
    root = b * b - a * c
    side = (-b - root.clamp_min(0).sqrt()) / a
    side_height = camera[2] + side * dz
    on_side = (root >= 0) & (side_height >= 0) & (side_height <= 2 * RADIUS)
    cap = (2 * RADIUS - camera[2]) / dz
    on_cap = (ox + cap * dx) ** 2 + (oy + cap * dy) ** 2 <= RADIUS**2
    return torch.where(on_cap, cap, torch.where(on_side, side, torch.inf))


def silhouettes(shape: Tensor, position: Tensor, yaw: Tensor, window: int = WINDOW) -> tuple[Tensor, Tensor]:
    """Return depth windows of N solids and where the windows lie in the image.

    Args:
        shape: (N,) int64 index into ``classes.SHAPES``.
        position: (N, 2) float32 world (x, y).
        yaw: (N,) float32 radians.
        window: side of the windows in pixels; smaller ones cut off what does not fit.

    Returns:
        (N, window, window) float32 depth at pixel centres, ``inf`` outside the solid, and (N, 2) int64 (row, column)
        of each window's first pixel, which may lie outside the image.
    """
    n = len(shape)
    corner = window_corner(position, window)
    depth = position.new_full((n, window * window), torch.inf)
    steps = torch.arange(window, device=position.device, dtype=position.dtype) + 0.5
    for kind in range(3):
        chosen = (shape == kind).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        rows = corner[chosen, :1] + steps
        columns = corner[chosen, 1:] + steps
        pixels = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1).flatten(1, 2)
        depth[chosen] = hit_depth(kind, position[chosen], yaw[chosen], ray_directions(pixels))
    return depth.view(n, window, window), corner


def window_corner(position: Tensor, window: int) -> Tensor:
    """Return (N, 2) int64 (row, column) of the first pixel of windows around solids at (N, 2) positions."""
    centre = project(torch.cat((position, position.new_full((len(position), 1), RADIUS)), -1))
    return (centre.flip(-1) - window / 2).clamp(-1e4, 1e4).floor().long()


def paint(depth: Tensor, corner: Tensor, label: Tensor, image: Tensor, num_images: int) -> Tensor:
    """Draw silhouettes into label images, the nearest solid in front.

    Args:
        depth: (N, WINDOW, WINDOW) from :func:`silhouettes`.
        corner: (N, 2) int64 from :func:`silhouettes`.
        label: (N,) integer 1–254 to draw.
        image: (N,) int64 index of the image each solid belongs to.
        num_images: how many images there are.

    Returns:
        (num_images, 160, 240) uint8, 0 where no solid is.
    """
    return nearest([fragments(depth, corner, label, image)], num_images)


def paint_solids(shape: Tensor, position: Tensor, yaw: Tensor, label: Tensor, image: Tensor, num_images: int) -> Tensor:
    """Return what ``paint`` makes of ``silhouettes``, faster: windows fit the solids, unseen ones are skipped.

    Args and result as in :func:`silhouettes` and :func:`paint`.
    """
    side = window_side(shape, position)
    drawn = [fragments(*silhouettes(shape[:0], position[:0], yaw[:0]), label[:0], image[:0])]
    smallest = 0
    for window in WINDOWS:
        corner = window_corner(position, window)
        in_view = (corner > -window) & (corner < corner.new_tensor((HEIGHT, WIDTH)))
        fits = (side > smallest) & ((side <= window) | (window == WINDOW))
        chosen = (fits & in_view.all(1)).nonzero()[:, 0]
        smallest = window
        if len(chosen):
            solids = silhouettes(shape[chosen], position[chosen], yaw[chosen], window)
            drawn.append(fragments(*solids, label[chosen], image[chosen]))
    return nearest(drawn, num_images)


def window_side(shape: Tensor, position: Tensor) -> Tensor:
    """Return (N,) float32 sides in pixels of windows that surely hold the solids (for those in view)."""
    reach = position.new_tensor([3**0.5, 1.0, 2**0.5])[shape] * RADIUS
    depth = 5.0 + FORWARD[0] * position[:, 0] + FORWARD[2] * RADIUS
    # A ball of this reach seen under an angle, at the view's corner 1.14 times as wide as on the axis, plus rounding.
    return 2 * (FOCAL * 1.14 * reach / (depth - reach).clamp_min(0.1) + 1)


def fragments(depth: Tensor, corner: Tensor, label: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (M,) pixels in the image that solids cover and their (M,) int64 keys, smaller where nearer."""
    window = depth.shape[-1]
    steps = torch.arange(window, device=depth.device)
    rows = corner[:, :1] + steps
    columns = corner[:, 1:] + steps
    in_rows = (rows >= 0) & (rows < HEIGHT)
    in_columns = (columns >= 0) & (columns < WIDTH)
    drawn = depth.isfinite() & in_rows[:, :, None] & in_columns[:, None, :]
    solid, r, c = drawn.nonzero(as_tuple=True)
    pixel = (image[solid] * HEIGHT + rows[solid, r]) * WIDTH + columns[solid, c]
    # Depth in the high bits and the label in the low ones: the smallest key is the nearest solid, without ties.
    return pixel, (depth[solid, r, c] * 65536).long() * 256 + label[solid].long()


def nearest(drawn: list[tuple[Tensor, Tensor]], num_images: int) -> Tensor:
    """Return (num_images, 160, 240) uint8 labels of the nearest among lists of :func:`fragments`, 0 where none is."""
    pixel = torch.cat([pixels for pixels, _ in drawn])
    key = torch.cat([keys for _, keys in drawn])
    empty = torch.iinfo(torch.int64).max
    buffer = torch.full((num_images * HEIGHT * WIDTH,), empty, device=pixel.device)
    buffer.scatter_reduce_(0, pixel, key, "amin")
    painted = torch.where(buffer == empty, 0, buffer % 256)
    return painted.to(torch.uint8).view(num_images, HEIGHT, WIDTH)
