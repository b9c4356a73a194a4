"""The competition's scene: its fixed camera, the sizes of its three solids, and exact silhouettes of them.

Constants are CLEVRER's, whose physics VRDP (Ding et al., NeurIPS 2021) fits through the same camera. World units,
z up, floor at z = 0, +y is right in the image. Image coordinates are continuous (column, row): pixel (r, c) has its
centre at (c + 0.5, r + 0.5). Colour, light and motion live elsewhere.
"""

import torch
from torch import Tensor

from data_prep.classes import CUBE, SPHERE

HEIGHT, WIDTH = 160, 240
NUM_FRAMES = 22
CLIP_FRAMES = 11
"""Frames a predictor is given; the mask of frame ``NUM_FRAMES`` is asked for."""

CAMERA = (4.330127, 0.0, 2.5)
FORWARD = (-0.8660254, 0.0, -0.5)
RIGHT = (0.0, 1.0, 0.0)
UP = (-0.5, 0.0, 0.8660254)
DISTANCE = 5.0
"""From the camera to the world's origin, which it looks at."""
FOCAL = 262.5
CENTRE = (120.0, 80.0)

RADIUS = 0.2
"""Of spheres and cylinders; also half the edge of a cube and half the height of every solid."""
BEVEL = (0.037, 0.0, 0.014)
"""Radius of the softened edges of cubes, spheres (which have none) and cylinders; read off outlines in real video and
in videos rendered from the same meshes."""
MOMENT = (2 / 3, 2 / 5, 1 / 2)
"""Of inertia about the upright axis, in mass × ``RADIUS``²; a sphere's about any axis."""

WINDOW = 72
"""Side in pixels of the square that holds any solid standing where its footprint is in view."""

WINDOWS = (20, 25, 30, 36, 44, 54, WINDOW)
"""Sides among which ``paint_solids`` chooses: most solids are far from the camera."""

DEPTH_STEPS = 65536
"""Depths are compared in steps of this fraction of a unit; 128 units fit beside a label in 31 bits."""

FRAME_SECONDS = 0.24


def project(points: Tensor) -> Tensor:
    """Return (..., 2) image coordinates (column, row) of (..., 3) world points in front of the camera."""
    x, y, z = points.unbind(-1)
    depth = DISTANCE + FORWARD[0] * x + FORWARD[2] * z
    column = CENTRE[0] + FOCAL * y / depth
    row = CENTRE[1] - FOCAL * (UP[0] * x + UP[2] * z) / depth
    return torch.stack((column, row), -1)


def floor_depth(position: Tensor) -> Tensor:
    """Return (...) how far along the view axis the places (..., 2) on the floor are from the camera."""
    return DISTANCE + FORWARD[0] * position[..., 0]


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
    ox, oy = (camera[:2] - position).T[..., None]
    oz = camera[2] - RADIUS
    dx, dy, dz = directions.unbind(-1)
    if shape == CUBE:
        cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
        ox, oy = ox * cos + oy * sin, oy * cos - ox * sin
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
        inside = [between(origin, direction) for origin, direction in ((ox, dx), (oy, dy), (oz, dz))]
    else:
        a = dx * dx + dy * dy
        b = ox * dx + oy * dy
        c = ox * ox + oy * oy - RADIUS**2
        if shape == SPHERE:
            a, b, c = a + dz * dz, b + oz * dz, c + oz * oz
        root = b * b - a * c
        half = torch.where(root >= 0, root.clamp_min(0).sqrt(), -torch.inf) / a
        inside = [(-b / a - half, -b / a + half)]
        if shape == SPHERE:
            return torch.where(root >= 0, inside[0][0], torch.inf)
        inside.append(between(oz, dz))
    near = torch.stack([first for first, _ in inside]).amax(0)
    far = torch.stack([last for _, last in inside]).amin(0)
    # A ray that only cuts a softened edge stays farther than its radius from the solid within.
    least = torch.full_like(near, torch.inf)
    for share in (0.2, 0.5, 0.8):
        way = near + share * (far - near)
        x, y, z = ox + way * dx, oy + way * dy, oz + way * dz
        sides = (x, y, z) if shape == CUBE else (torch.hypot(x, y), z)
        beyond = [(side.abs() - RADIUS + BEVEL[shape]).clamp_min(0) for side in sides]
        least = torch.minimum(least, sum(part.square() for part in beyond))
    return torch.where((near > 0) & (near <= far) & (least <= BEVEL[shape] ** 2), near, torch.inf)


def between(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the depths at which rays enter and leave what is less than ``RADIUS`` from 0 along one axis."""
    inverse = 1.0 / direction
    middle, half = -origin * inverse, RADIUS * inverse.abs()
    return middle - half, middle + half


def silhouettes(
    shape: Tensor, position: Tensor, yaw: Tensor, window: int = WINDOW, samples: int = 1
) -> tuple[Tensor, Tensor]:
    """Return depth windows of N solids and where the windows lie in the image.

    Args:
        shape: (N,) int64 index into ``classes.SHAPES``.
        position: (N, 2) float32 world (x, y).
        yaw: (N,) float32 radians.
        window: side of the windows in pixels; smaller ones cut off what does not fit.
        samples: rays per pixel along each side, evenly spread; 1 is the pixel's centre.

    Returns:
        (N, window · samples, window · samples) float32 depth along the rays, ``inf`` outside the solid, and (N, 2)
        int64 (row, column) of each window's first pixel, which may lie outside the image.
    """
    n = len(shape)
    corner, side = window_corner(position, window), window * samples
    depth = position.new_full((n, side * side), torch.inf)
    steps = (torch.arange(side, device=position.device, dtype=position.dtype) + 0.5) / samples
    for kind in range(3):
        chosen = (shape == kind).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        rows = corner[chosen, :1] + steps
        columns = corner[chosen, 1:] + steps
        pixels = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1).flatten(1, 2)
        depth[chosen] = hit_depth(kind, position[chosen], yaw[chosen], ray_directions(pixels))
    return depth.view(n, side, side), corner


def window_corner(position: Tensor, window: int) -> Tensor:
    """Return (N, 2) int64 (row, column) of the first pixel of windows around solids at (N, 2) positions."""
    centre = project(torch.cat((position, position.new_full((len(position), 1), RADIUS)), -1))
    return (centre.flip(-1) - window / 2).clamp(-1e4, 1e4).floor().long()


def paint_solids(shape: Tensor, position: Tensor, yaw: Tensor, label: Tensor, image: Tensor, num_images: int) -> Tensor:
    """Render label images of solids with a z-buffer; solids out of view are skipped.

    Args:
        shape: (N,) int64, as ``position`` and ``yaw`` in :func:`silhouettes`.
        position: (N, 2) float32.
        yaw: (N,) float32.
        label: (N,) integer 1–254 to draw.
        image: (N,) int64 index of the image each solid belongs to.
        num_images: how many images there are.

    Returns:
        (num_images, 160, 240) uint8, 0 where no solid is.
    """
    pixel, label, _ = visible_rays(shape, position, yaw, label, image, num_images)
    painted = torch.zeros(num_images * HEIGHT * WIDTH, dtype=torch.uint8, device=pixel.device)
    painted[pixel] = label.to(torch.uint8)
    return painted.view(num_images, HEIGHT, WIDTH)


def visible_rays(
    shape: Tensor, position: Tensor, yaw: Tensor, label: Tensor, image: Tensor, num_images: int, samples: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which rays hit a solid, and the nearest they hit; see :func:`paint_solids` for the other arguments.

    Args:
        samples: rays per pixel along each side.

    Returns:
        (M,) int64 rays in the order of images (num_images, 160 · samples, 240 · samples) but not sorted, (M,) int32
        labels and (M,) float32 depths.
    """
    side = window_side(shape, position, yaw)
    state = torch.column_stack((shape.to(position), position, yaw))
    drawn = [fragments(*silhouettes(shape[:0], position[:0], yaw[:0]), label[:0], image[:0])]
    smallest = 0
    for window in WINDOWS:
        corner = window_corner(position, window)
        in_view = (corner > -window) & (corner < corner.new_tensor((HEIGHT, WIDTH)))
        fits = (side > smallest) & ((side <= window) | (window == WINDOW))
        chosen = (fits & in_view.all(1)).nonzero()[:, 0]
        smallest = window
        if len(chosen):
            # What rests looks the same in every image.
            once, which = torch.unique(state[chosen], dim=0, return_inverse=True)
            depth, corner = silhouettes(once[:, 0].long(), once[:, 1:3], once[:, 3], window, samples)
            drawn.append(fragments(depth[which], corner[which], label[chosen], image[chosen], samples))
    return nearest(drawn, num_images, samples)


def window_side(shape: Tensor, position: Tensor, yaw: Tensor) -> Tensor:
    """Return (N,) float32 sides in pixels of windows that hold the solids, exact for cubes in front of the camera."""
    turn = torch.where(shape == CUBE, yaw, 0.0)
    unit = position.new_tensor([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 2)]) * RADIUS
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    x = position[:, :1] + unit[:, 0] * cos - unit[:, 1] * sin
    y = position[:, 1:] + unit[:, 0] * sin + unit[:, 1] * cos
    corners = project(torch.stack((x, y, unit[:, 2].expand_as(x)), -1))
    centre = project(torch.cat((position, position.new_full((len(position), 1), RADIUS)), -1))
    return 2 * (corners - centre[:, None]).abs().amax((1, 2)) + 2


def fragments(depth: Tensor, corner: Tensor, label: Tensor, image: Tensor, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Return which of the images' rays (M,) meet solids and their (M,) int32 keys, smaller where nearer."""
    height, width = HEIGHT * samples, WIDTH * samples
    steps = torch.arange(depth.shape[-1], device=depth.device)
    rows = corner[:, :1] * samples + steps
    columns = corner[:, 1:] * samples + steps
    in_rows = (rows >= 0) & (rows < height)
    in_columns = (columns >= 0) & (columns < width)
    drawn = depth.isfinite() & in_rows[:, :, None] & in_columns[:, None, :]
    solid, r, c = drawn.nonzero(as_tuple=True)
    ray = (image[solid] * height + rows[solid, r]) * width + columns[solid, c]
    # Depth in the high bits and the label in the low ones: the smallest key is the nearest solid, without ties.
    return ray, (depth[drawn] * DEPTH_STEPS).int() * 256 + label[solid].int()


def nearest(drawn: list[tuple[Tensor, Tensor]], num_images: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rays, labels and depths of the nearest :func:`fragments` (z-buffer); see :func:`visible_rays`."""
    ray = torch.cat([rays for rays, _ in drawn])
    key = torch.cat([keys for _, keys in drawn])
    first = torch.full(
        (num_images * HEIGHT * WIDTH * samples**2,), torch.iinfo(key.dtype).max, device=ray.device, dtype=key.dtype
    )
    first.scatter_reduce_(0, ray, key, "amin")
    shown = first[ray] == key
    ray, key = ray[shown], key[shown]
    return ray, key % 256, (key // 256).float() / DEPTH_STEPS
