"""Renders what may come: silhouettes averaged over positions, composited near to far, as class probabilities.

Simulation and decoding live elsewhere.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data_prep.classes import NUM_CLASSES
from data_prep.scene import HEIGHT, RADIUS, WIDTH, floor_depth, project
from solution.tracks import Tracks, edge_normals, side, support

ROUND_NORMALS = 64
"""Sides of the polygon that stands for a round edge."""
EXACT = (0.0, 0.0, 0.0)
SCATTER = 0.01
"""Scale of both coordinates around a place, units: doubt beyond that of the simulator."""
ALONE = 1.3
"""Least distance of two objects whose labels do not touch, in means of their widths."""
COMPARED = 500
"""Objects of a shape whose labels' sizes are compared with their silhouettes', at most."""
STEEP = 1e-3
"""Least horizontal part of the normal of an edge that bounds rows to the left or right."""


def draw(
    position: Tensor,
    yaw: Tensor,
    classes: Tensor,
    shape: Tensor,
    present: Tensor,
    samples: int,
    margin: Sequence[float] = EXACT,
) -> Tensor:
    """Return (B, 49, 160, 240) float32 probabilities: silhouettes averaged over where K objects of B clips may be.

    Args:
        position: (B, K, M, 2) where each may be, M places as likely as each other.
        yaw: (B, K, M) radians.
        classes: (B, K) int64.
        shape: (B, K) int64 index into ``classes.SHAPES``.
        present: (B, K) bool; others are not drawn.
        samples: how often an object is drawn, at one of the places or, by a Laplace distribution, near it.
        margin: pixels by which to draw each shape larger.
    """
    batch, objects, places = yaw.shape
    device = yaw.device
    # Kronecker's sequence covers (place, x, y) evenly and is the same for every object.
    step = torch.arange(samples, device=device)[:, None] * torch.tensor(
        [0.8191725134, 0.6710436067, 0.5497004779], device=device
    )
    uniform = (0.5 + step) % 1.0  # (S, 3)
    place = (uniform[:, 0] * places).long()
    centred = uniform[:, 1:] - 0.5
    noise = -centred.sign() * (1 - 2 * centred.abs()).clamp_min(1e-6).log()  # (S, 2)
    nearness = position[..., 0].mean(-1)
    position, yaw = position[:, :, place] + SCATTER * noise, yaw[:, :, place]  # (B, K, S, 2), (B, K, S)
    owner = (present & (classes > 0)).flatten().nonzero()[:, 0]
    position, yaw = position.flatten(0, 1)[owner], yaw.flatten(0, 1)[owner]  # (N, S, 2), (N, S)
    drawn = average_silhouette(shape.flatten()[owner], position, yaw, margin)
    probability = torch.zeros(batch * objects, HEIGHT * WIDTH, device=device).index_copy_(0, owner, drawn.flatten(1))
    probability = probability.view(batch, objects, -1)
    order = nearness.argsort(1, descending=True)
    out = torch.zeros(batch, NUM_CLASSES, HEIGHT * WIDTH, device=device)
    rest = torch.ones(batch, HEIGHT * WIDTH, device=device)
    here = torch.arange(batch, device=device)
    for rank in range(objects):
        slot = order[:, rank]
        part = probability[here, slot]
        out[here, classes[here, slot]] += part * rest
        rest = rest * (1 - part)
    out[:, 0] += rest
    return out.view(batch, NUM_CLASSES, HEIGHT, WIDTH)


SPAN_ROWS = 64
"""No silhouette in view is higher than this many pixels."""


def average_silhouette(shape: Tensor, position: Tensor, yaw: Tensor, margin: Sequence[float] = EXACT) -> Tensor:
    """Return the (N, 160, 240) mean of N solids' silhouettes over S positions each.

    Silhouettes are convex, so that each is one span per row, and a mean of spans is a sum of steps. See :func:`draw`.
    """
    count, samples = yaw.shape
    edge = torch.zeros(count, HEIGHT, WIDTH + 1, device=yaw.device)
    angle = (torch.arange(ROUND_NORMALS, device=yaw.device) + 0.5) * (2 * math.pi / ROUND_NORMALS)
    around = torch.stack((angle.cos(), angle.sin()), -1)
    for kind in range(3):
        # Behind the camera, and far to its sides, there is no silhouette.
        near = (floor_depth(position) > 1.5) & (position.abs().amax(-1) < 20) & (shape == kind)[:, None]
        who, which = near.nonzero(as_tuple=True)
        if len(who) == 0:
            continue
        place = position[who, which], yaw[who, which]
        normal = edge_normals(kind, *place, around)
        normal = torch.cat((normal, normal.new_tensor([[0, -1], [0, 1]]).expand(len(who), -1, -1)), 1)  # (M, E, 2)
        reach = support(kind, *place, normal) + margin[kind]  # (M, E)
        highest, lowest = -reach[:, -2:-1], reach[:, -1:]
        row = highest.floor().clamp(-1e4, 1e4) + torch.arange(SPAN_ROWS, device=yaw.device)  # (M, rows)
        across, down = normal[:, None].unbind(-1)
        bound = (reach[:, None] - (row + 0.5)[..., None] * down) / across  # (M, rows, E)
        right = torch.where(across > STEEP, bound, torch.inf).amin(-1)
        left = torch.where(across < -STEEP, bound, -torch.inf).amax(-1)
        start = (left - 0.5).ceil().clamp(0, WIDTH)
        stop = (right + 0.5).floor().clamp(0, WIDTH)
        crossed = (row + 0.5 >= highest) & (row + 0.5 <= lowest)
        filled = crossed & (stop > start) & (row >= 0) & (row < HEIGHT)
        part, line = filled.nonzero(as_tuple=True)
        base = (who[part] * HEIGHT + row[part, line].long()) * (WIDTH + 1)
        weight = torch.full_like(base, 1.0 / samples, dtype=torch.float32)
        edge.view(-1).index_add_(0, base + start[part, line].long(), weight)
        edge.view(-1).index_add_(0, base + stop[part, line].long(), -weight)
    return edge.cumsum(-1)[..., :WIDTH].clamp(0, 1)


def fit_margin(tracks: Tracks) -> tuple[float, ...]:
    """Return the pixels by which labels reach beyond the silhouettes of cubes, spheres and cylinders.

    They are medians over objects that nothing hides of how much larger the radius is of a circle of as many pixels;
    0 for a shape that is never seen so.

    Args:
        tracks: whose ``pixels`` are those of labels like the ones that are to be drawn.
    """
    centre = project(torch.cat((tracks.position, torch.full_like(tracks.position[..., :1], RADIUS)), -1))
    width = side(centre[..., 1])
    gap = (centre[..., None, :] - centre[..., None, :, :]).norm(dim=-1)
    near = (gap < ALONE * (width[..., None] + width[..., None, :]) / 2) & tracks.visible[..., None, :]
    alone = tracks.visible & ~tracks.border & (near.sum(-1) == 1)  # it is near itself
    shape = tracks.shape[:, None].expand_as(alone)
    margins = []
    for kind in range(3):
        objects = (alone & (shape == kind)).nonzero()
        objects = objects[:: math.ceil(len(objects) / COMPARED) or 1].unbind(1)
        position, yaw = tracks.position[objects][:, None], tracks.yaw[objects][:, None]
        silhouette = average_silhouette(shape[objects], position, yaw)
        radius, drawn = ((pixels / math.pi).sqrt() for pixels in (tracks.pixels[objects], silhouette.sum((1, 2))))
        margins.append(float((radius - drawn).median()) if len(radius) else 0.0)
    return tuple(margins)
