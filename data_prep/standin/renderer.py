"""Films trajectories: batched ray casting with CLEVRER's camera and lamps, matte rubber and mirroring metal.

The floor is a fixed picture, so that only solids (four rays per pixel) and their shadows (at half resolution) are
computed. Light is linear inside; ``encode`` makes display values of it. The same code runs on a CPU or a GPU.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.classes import CUBE, SPHERE, class_parts
from data_prep.scene import (
    BEVEL,
    CAMERA,
    HEIGHT,
    NUM_FRAMES,
    RADIUS,
    WIDTH,
    project,
    ray_directions,
    unproject,
    visible_rays,
)
from data_prep.standin.physics import Trajectories

LAMPS = ((6.45, -2.91, 4.26), (-4.67, -4.01, 3.01), (-1.17, 2.65, 5.82))
"""Key, fill and back lamp of CLEVR's base scene (Johnson et al., CVPR 2017)."""
LAMP_SHARES = (0.42, 0.13, 0.25)
"""Share of the light that each lamp gives the floor at the origin; the rest comes from the large area light above."""
PENUMBRA = 0.16
"""Width of a lamp over its distance."""

LIT = (
    (88, 86, 84),
    (120, 54, 53),
    (61, 80, 129),
    (49, 91, 38),
    (102, 77, 43),
    (59, 128, 126),
    (101, 55, 120),
    (142, 137, 63),
)
"""Display RGB of rubber in each of ``classes.COLOURS`` where it is lit like the floor's middle, mid-grey 133."""
MID_FLOOR = 133.0

SAMPLES = 2
"""Rays per pixel along each side, for colour."""
SHADOW_STEP = 2
"""Side in pixels of the squares in which shadows are computed."""
SHADOW_DEPTH = 0.75
"""Share of the light lost in full shadow; the rest is bounced in from the bright floor."""
DARKEST = 0.06
"""Least share of its light that the floor keeps."""
CONTACT, CONTACT_EDGE = 0.105, 0.015
"""How far from its axis the floor below a sphere is dark, and the scale of that darkness's edge, units; read off real
video and videos rendered with CLEVR's scene, as is what follows."""
CORNER = 0.12
"""Share of the sky that a cube hides from the floor beside it."""
BESIDE = 0.01
"""How far from a cube or cylinder the floor is that stands for what it stands on, units."""
FINE_GRAIN, COARSE_GRAIN = 0.7, 0.55
"""Standard deviations in display levels of the grain from pixel to pixel, and of that over some eight pixels."""


def solids_of(videos: list[Trajectories]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lay all objects of all frames in one row of N.

    Returns:
        shape (N,) int64, position (N, 2) float32, yaw (N,) float32, class (N,) int64 and image (N,) int64; frame t of
        video v is image 22 v + t.
    """
    columns = ([], [], [], [], [])
    for index, video in enumerate(videos):
        count = len(video.class_ids)
        columns[0].append(np.tile(video.shape, NUM_FRAMES))
        columns[1].append(video.position.reshape(-1, 2))
        columns[2].append(video.yaw.reshape(-1))
        columns[3].append(np.tile(video.class_ids.astype(np.int64), NUM_FRAMES))
        columns[4].append(np.repeat(index * NUM_FRAMES + np.arange(NUM_FRAMES), count))
    return tuple(torch.from_numpy(np.concatenate(column)) for column in columns)


def film(videos: list[Trajectories], seeds: list[int], times: range, device: str) -> np.ndarray:
    """Return the frames ``times`` of V videos, (V, len(times), 160, 240, 3) uint8 RGB.

    Args:
        videos: what happens in them.
        seeds: of the grain; a video's bytes depend on nothing else in the batch.
        times: consecutive frames, from 0 to 21.
        device: where to compute.
    """
    shape, position, yaw, label, image = solids_of(videos)
    length, time = len(times), image % NUM_FRAMES
    kept = (time >= times.start) & (time < times.stop)
    image = image // NUM_FRAMES * length + time - times.start
    shape, position, yaw, label, image = (part[kept].to(device) for part in (shape, position, yaw, label, image))
    count = len(videos) * length

    floor = background(torch.device(device)) * shadows(shape, position, yaw, image, count)  # (I, 160, 240, 3)
    colour, ray_pixel = shade_solids(shape, position, yaw, label, image, count)
    pixels = floor.view(-1, 3)
    covered = torch.zeros(len(pixels), device=device).index_add_(0, ray_pixel, torch.ones_like(colour[:, 0]))
    share = 1.0 / SAMPLES**2
    pixels *= 1 - share * covered[:, None]
    pixels.index_add_(0, ray_pixel, share * colour)
    frames = floor.view(len(videos), length, HEIGHT, WIDTH, 3)
    for index, seed in enumerate(seeds):
        frames[index] += grain(seed, length, device)
    return frames.add_(0.5).clamp_(0, 255).to(torch.uint8).cpu().numpy()


def encode(light: Tensor) -> Tensor:
    """Return display values 0–255 of linear light, 1 = white."""
    return 255 * light.clamp(0, 1) ** (1 / 2.2)


def decode(display: Tensor) -> Tensor:
    """Return the linear light of display values; the inverse of :func:`encode`."""
    return (display / 255) ** 2.2


def background(device: torch.device) -> Tensor:
    """Return (160, 240, 3) display values of the empty floor."""
    rows = (torch.arange(HEIGHT, device=device) + 0.5)[:, None].expand(HEIGHT, WIDTH)
    columns = (torch.arange(WIDTH, device=device) + 0.5).expand(HEIGHT, WIDTH)
    return floor_colour(columns, rows)


def floor_colour(column: Tensor, row: Tensor) -> Tensor:
    """Return (..., 3) display values of the floor seen at (...) image coordinates, in the image or up to its edge.

    A grey slope that is darker along the far edge and has a bluish sheen at its left end; the numbers make its levels
    those of the real floor within about one.
    """
    column, row = column.clamp(0, WIDTH), row.clamp(0, HEIGHT)
    u, v = (column - 120) / 120, (row - 80) / 80
    sheen = torch.exp(-(((column - 15.3) / 110.2) ** 2) - ((row - 10.3) / 26.5) ** 2)
    edge, slope = torch.exp(-row / 7.0), torch.exp(-row / 36.8)
    terms = torch.stack((torch.ones_like(u), u, v, u * u, u * v, v * v, edge, edge * u, slope, sheen), -1)
    return terms @ torch.tensor(FLOOR, device=column.device)


FLOOR = (
    (142.3, 141.6, 142.9),
    (0.9, 1.2, 1.1),
    (-14.1, -13.0, -22.6),
    (-2.4, -2.2, -1.7),
    (-4.8, -4.0, -4.4),
    (10.8, 8.7, 14.9),
    (4.9, 3.3, 7.6),
    (8.3, 9.6, 13.4),
    (-68.5, -63.7, -87.0),
    (23.8, 24.1, 31.9),
)
"""Weights of ``floor_colour``'s terms for red, green and blue."""


def lamp_light(point: Tensor, lamp: int) -> tuple[Tensor, Tensor]:
    """Return the direction (M, 3) from points to a lamp and the light (M,) it gives a surface that faces it.

    The unit is what all lamps together give the floor at the origin.
    """
    position = point.new_tensor(LAMPS[lamp])
    towards = position - point
    squared = towards.square().sum(-1)
    at_origin = math.dist(LAMPS[lamp], (0, 0, 0)) ** 3 / LAMPS[lamp][2]
    return towards / squared.sqrt()[:, None], LAMP_SHARES[lamp] * at_origin / squared


def shadows(shape: Tensor, position: Tensor, yaw: Tensor, image: Tensor, num_images: int) -> Tensor:
    """Return (num_images, 160, 240, 1) factors of the floor's display values where N solids stand in its light."""
    device = position.device
    rows = torch.arange(0, HEIGHT, SHADOW_STEP, device=device) + SHADOW_STEP / 2
    columns = torch.arange(0, WIDTH, SHADOW_STEP, device=device) + SHADOW_STEP / 2
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    floor = unproject(grid.view(-1, 2))  # (P, 2)

    # A solid that rests casts the same shadow in every frame: compute each state once.
    near = (position[:, 0] > -8) & (position[:, 0] < 3.5) & (position[:, 1].abs() < 6)
    turn = torch.where(shape == CUBE, yaw, 0.0)
    state = torch.column_stack((shape.to(position), position, turn))[near]
    state, which = torch.unique(state, dim=0, return_inverse=True)  # sorted by shape

    lamps = [lamp_light(F.pad(floor, (0, 1)), lamp) for lamp in range(len(LAMPS))]
    taken = torch.zeros(num_images, len(floor), device=device)
    # What the floor throws back is hidden as the sky is.
    sky_share = 1 - sum(LAMP_SHARES) + 1 - SHADOW_DEPTH
    sources = [(None, sky_share)] + [
        (towards[:, :2] / towards[:, 2:], light * towards[:, 2]) for towards, light in lamps
    ]
    for slant, share in sources:
        blocked = torch.cat([blocked_share(kind, state[state[:, 0] == kind, 1:], floor, slant) for kind in range(3)])
        passed = torch.log1p(blocked.mul_(-0.999))
        light = torch.zeros_like(taken).index_add_(0, image[near], passed[which]).exp_()
        taken += share * (1 - light)
    factor = (1 - SHADOW_DEPTH * taken).clamp_min(DARKEST) ** (1 / 2.2)
    factor = factor.view(num_images, 1, len(rows), len(columns))
    return F.interpolate(factor, size=(HEIGHT, WIDTH), mode="bilinear").view(num_images, HEIGHT, WIDTH, 1)


def blocked_share(kind: int, state: Tensor, floor: Tensor, slant: Tensor | None) -> Tensor:
    """Return (S, P) how much of a lamp, or of the sky, S solids of one shape hide from P floor points.

    Seen from above, the way to the lamp is a segment from the point along ``slant`` up to the solid's top. How deep it
    cuts into the footprint (of a sphere: the ray into the ball), against the width of the half-shadow, gives the share.
    What a cube or cylinder stands on is as light as the floor beside it: nobody sees it, but it would darken the pixels
    at the edge.

    Args:
        kind: index into ``classes.SHAPES``.
        state: (S, 3) world x, y and yaw.
        floor: (P, 2) world x, y.
        slant: (P, 2) way on the floor per height towards the lamp; None for the sky, hidden close to the solid.
    """
    x, y = floor[:, 0] - state[:, :1], floor[:, 1] - state[:, 1:2]
    sx, sy = (torch.zeros_like(floor[:1, 0]),) * 2 if slant is None else slant.unbind(-1)
    squared = sx * sx + sy * sy
    if kind == CUBE:
        cos, sin = state[:, 2:].cos(), state[:, 2:].sin()
        x, y = x * cos + y * sin, y * cos - x * sin
        sx, sy = sx * cos + sy * sin, sy * cos - sx * sin
    if kind == SPHERE:
        below = torch.sigmoid((CONTACT - torch.hypot(x, y)) / CONTACT_EDGE)
    else:
        reach = torch.maximum(x.abs(), y.abs()) if kind == CUBE else torch.hypot(x, y)
        out = ((RADIUS + BESIDE) / reach.clamp_min_(1e-6)).clamp_min_(1)
        x, y = x * out, y * out
    if slant is None:
        if kind == CUBE:
            gap = torch.hypot((x.abs() - RADIUS).clamp_min_(0), (y.abs() - RADIUS).clamp_min_(0))
            return CORNER * torch.exp(-10 * gap)
        return below if kind == SPHERE else torch.zeros_like(x)
    way = x * sx + y * sy
    height = (-way / squared).clamp_(0, 2 * RADIUS)
    if kind == CUBE:
        # The square swept along the segment is where six half-planes meet; half a sweep on it is symmetric.
        outside = (x * sy - y * sx).abs_() - RADIUS * (sx.abs() + sy.abs())
        outside = outside / squared.sqrt()
        outside = torch.maximum(outside, (x + RADIUS * sx).abs_() - RADIUS * (1 + sx.abs()))
        outside = torch.maximum(outside, (y + RADIUS * sy).abs_() - RADIUS * (1 + sy.abs()))
    elif kind == SPHERE:
        outside = (x * x + y * y + RADIUS**2 - (RADIUS - way).square_() / (1 + squared)).clamp_min_(0).sqrt_() - RADIUS
    else:
        outside = torch.hypot(x + height * sx, y + height * sy) - RADIUS
    softness = 0.015 + height * (PENUMBRA * (1 + squared).sqrt())
    inside = (0.5 - outside / softness).clamp_(0, 1)
    inside = inside * inside * (3 - 2 * inside)
    return inside + below - inside * below if kind == SPHERE else inside


def shade_solids(
    shape: Tensor, position: Tensor, yaw: Tensor, label: Tensor, image: Tensor, num_images: int
) -> tuple[Tensor, Tensor]:
    """Return (M, 3) display colours of all rays that meet a solid, and (M,) the pixel of the images each belongs to."""
    device = position.device
    first = torch.zeros(num_images + 1, dtype=torch.long, device=device)
    first[1:] = torch.bincount(image, minlength=num_images).cumsum(0)
    slot = torch.arange(len(image), device=device) - first[image] + 1
    ray, seen, depth = visible_rays(shape, position, yaw, slot, image, num_images, SAMPLES)
    column = ray % (WIDTH * SAMPLES)
    row = ray // (WIDTH * SAMPLES)  # of all images below each other
    frame = row // (HEIGHT * SAMPLES)
    solid = first[frame] + seen - 1
    pixel = (row // SAMPLES) * WIDTH + column // SAMPLES

    at = torch.stack((column, row - frame * (HEIGHT * SAMPLES)), -1).to(position)
    ray = ray_directions((at + 0.5) / SAMPLES)
    point = position.new_tensor(CAMERA) + depth[:, None] * ray
    normal = normals(shape[solid], position[solid], yaw[solid], point)
    parts = torch.tensor([(0, 0, 0)] + [class_parts(c) for c in range(1, 49)], device=device)[label]
    lit = decode(torch.tensor(LIT, device=device, dtype=position.dtype))[parts[:, 2]]
    metal = parts[solid, 1] == 0
    light = torch.empty_like(point)
    light[~metal] = lit[solid[~metal]] * matte(point[~metal], normal[~metal])
    m = metal.nonzero()[:, 0]
    mirrored = ray[m] - 2 * (ray[m] * normal[m]).sum(-1, keepdim=True) * normal[m]
    mirrored = mirrored / mirrored.norm(dim=-1, keepdim=True)
    around = surroundings(point[m], mirrored, solid[m], frame[m], first, position, lit)
    light[m] = METAL_SHARE * lit[solid[m]] / decode(torch.tensor(MID_FLOOR, device=device)) * around
    return encode(light), pixel


BOUNCED = 0.3
"""Light that the floor throws back onto a surface that faces it."""
METAL_SHARE = 0.83
"""How much darker a mirror is than rubber of the same colour under the same light."""


def normals(shape: Tensor, position: Tensor, yaw: Tensor, point: Tensor) -> Tensor:
    """Return (M, 3) unit normals at (M, 3) points of solids' surfaces, turned smoothly along the softened edges."""
    cos, sin = yaw.cos(), yaw.sin()
    x, y = point[:, 0] - position[:, 0], point[:, 1] - position[:, 1]
    z = point[:, 2] - RADIUS
    inner = RADIUS - torch.tensor(BEVEL, device=shape.device)[shape]

    def beyond(value: Tensor) -> Tensor:
        return value.sign() * (value.abs() - inner).clamp_min(0)

    cube_x, cube_y = beyond(x * cos + y * sin), beyond(y * cos - x * sin)
    radius = (x * x + y * y).sqrt().clamp_min(1e-6)
    outward = (radius - inner).clamp_min(0) / radius
    cube, ball = (shape == CUBE), (shape == SPHERE)
    nx = torch.where(cube, cube_x * cos - cube_y * sin, torch.where(ball, x, x * outward))
    ny = torch.where(cube, cube_x * sin + cube_y * cos, torch.where(ball, y, y * outward))
    nz = torch.where(ball, z, beyond(z))
    return F.normalize(torch.stack((nx, ny, nz), -1), dim=-1)


def matte(point: Tensor, normal: Tensor) -> Tensor:
    """Return (M, 1) light on (M, 3) points with (M, 3) normals; 1 is the floor at the origin."""
    # From above comes the area light; from below what the floor throws back.
    sky = 0.5 + 0.5 * normal[:, 2]
    total = (1 - sum(LAMP_SHARES)) * sky + BOUNCED * (1 - sky)
    for lamp in range(len(LAMPS)):
        towards, light = lamp_light(point, lamp)
        # A wide lamp still lights surfaces turned slightly away from it.
        facing = ((towards * normal).sum(-1) + 0.08).clamp_min(0) / 1.08
        total = total + light * facing
    return (0.12 + 0.88 * total)[:, None]


def surroundings(
    point: Tensor, direction: Tensor, solid: Tensor, frame: Tensor, first: Tensor, position: Tensor, lit: Tensor
) -> Tensor:
    """Return (M, 3) linear light that comes to points from where their mirror directions look.

    Args:
        point, direction: (M, 3) on metal surfaces; unit directions.
        solid, frame: (M,) which of the N solids the point is on, and its image.
        first: (num_images + 1,) where each image's solids begin.
        position: (N, 2) of all solids; lit: (N, 3) light of each when lit like the floor.
    """
    dz = direction[:, 2]
    light = torch.empty_like(point)
    # Floor: what the camera would see there, darker beneath the solid itself, lighter where it mirrors the key lamp.
    down = (dz < 0).nonzero()[:, 0]
    way = (-point[down, 2] / dz[down].clamp_max(-1e-3)).clamp_max(20)
    ground = point[down] + way[:, None] * direction[down]
    at = project(ground.clamp(-9, 3.5))
    beneath = 0.6 * torch.exp((ground[:, :2] - position[solid[down]]).square().sum(-1) * (-5 / RADIUS))
    towards, _ = lamp_light(point[down], 0)
    shine = FLOOR_SHINE * lobe(direction[down] * direction.new_tensor((1, 1, -1)), towards, HALO)
    light[down] = decode(floor_colour(at[:, 0], at[:, 1])) * ((1 - beneath) * (1 + shine))[:, None]
    # Sky: dim, lighter near the horizon and opposite the camera, with lamps that roughness gives a halo.
    up = (dz >= 0).nonzero()[:, 0]
    looking = direction[up]
    sky = SKY_DIM + HORIZON * torch.exp(dz[up] / -0.11) + SKY_OPPOSITE * (-looking[:, 0]).clamp_min(0).square()
    for lamp, (core, halo) in GLARE.items():
        towards = looking.new_tensor(AREA_LIGHT) if lamp is None else lamp_light(point[up], lamp)[0]
        sky += core * lobe(looking, towards, CORE) + halo * lobe(looking, towards, HALO)
    light[up] = sky[:, None]
    # Neighbours: as upright cylinders, which is what a small reflection shows of them.
    nearest = torch.full_like(dz, torch.inf)
    most = int((first[1:] - first[:-1]).max()) if len(first) > 1 else 0
    flat = (direction[:, :2].square().sum(-1)).clamp_min(1e-9)
    for other in range(most):
        index = first[frame] + other
        there = (index < first[frame + 1]) & (index != solid)
        index = index.clamp_max(len(position) - 1)
        offset = point[:, :2] - position[index]
        half = (offset * direction[:, :2]).sum(-1)
        root = half * half - flat * (offset.square().sum(-1) - RADIUS**2)
        way = (-half - root.clamp_min(0).sqrt()) / flat
        height = point[:, 2] + way * dz
        met = there & (root > 0) & (way > 0) & (way < nearest) & (height > 0) & (height < 2 * RADIUS)
        nearest = torch.where(met, way, nearest)
        light = torch.where(met[:, None], 0.8 * lit[index], light)
    return light


def lobe(direction: Tensor, towards: Tensor, sharpness: float) -> Tensor:
    """Return (M,) von Mises-Fisher lobes, 1 where the unit ``direction`` (M, 3) is ``towards`` (M, 3) or (3,)."""
    return torch.exp(((direction * towards).sum(-1) - 1) * sharpness)


SKY_DIM, SKY_OPPOSITE, HORIZON = 0.02, 0.10, 0.13
"""Linear light of the dark room above the floor, and what its far end and its horizon add; level tops mirror these.

What metal mirrors was fitted to metal spheres and cylinders in real video and in videos rendered with CLEVR's scene.
"""
AREA_LIGHT = (0.343, -0.196, 0.918)
"""Unit direction of the large light above."""
CORE, HALO = 75.0, 12.0
"""Sharpness of a mirrored lamp, and of what the metal's roughness spreads around it."""
GLARE = {0: (0.63, 0.19), 2: (1.0, 0.15), None: (1.2, 0.36)}
"""Linear light of core and halo of the key lamp, of the back lamp and of the large light; the fill lamp shows none."""
FLOOR_SHINE = 0.18
"""What the key lamp, mirrored in the floor, adds to the floor's light."""


def grain(seed: int, length: int, device: str) -> Tensor:
    """Return (length, 160, 240, 3) noise in display levels, correlated like a video codec's."""
    random = torch.Generator(device).manual_seed(seed % 2**63)
    fine = torch.randn(length, 1, HEIGHT, WIDTH, generator=random, device=device)
    coarse = torch.randn(length, 3, HEIGHT // 8, WIDTH // 8, generator=random, device=device)
    coarse = F.interpolate(coarse, scale_factor=8, mode="bilinear")
    # Interpolation takes a third off the deviation.
    return (FINE_GRAIN * fine + 1.5 * COARSE_GRAIN * coarse).permute(0, 2, 3, 1)
