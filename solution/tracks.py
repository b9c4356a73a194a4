"""Positions of objects on the floor, found by fitting the outlines of the known solids to masks.

Works on plain tensors of any device; motion lives elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.classes import CUBE, NUM_CLASSES, SHAPE_OF_CLASS, SPHERE
from data_prep.scene import (
    BEVEL,
    CAMERA,
    CLIP_FRAMES,
    FOCAL,
    FORWARD,
    HEIGHT,
    RADIUS,
    WIDTH,
    floor_depth,
    project,
    unproject,
)

MAX_OBJECTS = 8
QUARTER = math.pi / 2
"""A cube looks the same after this turn."""

RIM = 64
"""Corners of the polygon that stands for a circle."""
COARSE, FINE = (32, 64), (128, 128)
"""Rays along which an edge is searched and normals of the convex hull, for a first fit and for a tenth of a pixel."""
NEAR_EDGE = (-1.5, -0.5, 0.5, 1.5)
"""Pixels from the edge, along each ray, of the labels that :meth:`Outlines.sharpen` fits."""
BLUR = (0.5, 0.3, 0.2, 0.12, 0.07, 0.045)
"""Widths of the logistic edge in pixels, tried one after the other."""
HOLD = (300.0, 300.0, 6.0)
"""Precision (inverse variance, pixels² per unit² and radian²) of the prior that x, y and yaw stay as they are."""
VIDEOS_AT_ONCE, OUTLINES_AT_ONCE = {"cpu": 32, "cuda": 256}, {"cpu": 500, "cuda": 10_000}
"""Few on a CPU, for its cache; an outline needs about 300 kB."""
MIN_PIXELS = 8


@dataclass(frozen=True)
class Tracks:
    """Measurements of at most K objects in each of V videos of T frames; empty slots have class 0, never visible."""

    classes: Tensor
    """(V, K) int64, 0 where a slot is empty."""
    visible: Tensor
    """(V, T, K) bool."""
    position: Tensor
    """(V, T, K, 2) float32 world (x, y); 0 where not visible."""
    yaw: Tensor
    """(V, T, K) float32 radians in [-π/4, π/4); 0 for everything but cubes."""
    border: Tensor
    """(V, T, K) bool: the image's edge cuts the object."""
    shown: Tensor
    """(V, T, K) float32: share of the outline that decided the fit; the rest was hidden or outside."""
    pixels: Tensor
    """(V, T, K) float32: how many carry the class."""
    covariance: Tensor
    """(V, T, K, 3, 3) float32 of (x, y, yaw), in units and radians, up to one factor that all share; see
    :meth:`Outlines.sharpen`."""

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, videos) -> Tracks:
        return Tracks(**{f.name: getattr(self, f.name)[videos] for f in fields(self)})

    def to(self, device: torch.device | str) -> Tracks:
        return Tracks(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def frames(self, frames: slice) -> Tracks:
        """Return the tracks of these frames only; the slots stay."""
        timed = {f.name: getattr(self, f.name)[:, frames] for f in fields(self) if f.name != "classes"}
        return replace(self, **timed)

    @property
    def shape(self) -> Tensor:
        """(V, K) int64 index into ``classes.SHAPES``, -1 for empty slots."""
        return torch.from_numpy(SHAPE_OF_CLASS).to(self.classes.device)[self.classes]

    @property
    def where(self) -> Tensor:
        """(V, T, K, 3) float32 x, y and yaw."""
        return torch.cat((self.position, self.yaw[..., None]), -1)


def least_turn(yaw: Tensor) -> Tensor:
    """Return the turns (radians) nearest to none after which a cube looks the same: in [-π/4, π/4)."""
    return torch.remainder(yaw + QUARTER / 2, QUARTER) - QUARTER / 2


def find_tracks(masks: Tensor) -> Tracks:
    """Return the tracks of (V, T, 160, 240) uint8 masks; values ≥ 49 mean "unknown".

    Slots go to the classes with the most pixels in the first ``CLIP_FRAMES`` frames, then in the others.
    """
    return join([_find(chunk) for chunk in masks.split(VIDEOS_AT_ONCE[masks.device.type])])


def join(parts: list[Tracks]) -> Tracks:
    """Return the tracks of several sets of videos, one after the other."""
    return Tracks(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Tracks)})


def _find(masks: Tensor) -> Tracks:
    videos, frames = masks.shape[:2]
    device = masks.device
    rows, columns = profiles(masks)
    area = rows.sum(-1)  # (V, T, 49)
    area[..., 0] = 0
    seen = area * (area >= MIN_PIXELS)
    rank = seen[:, :CLIP_FRAMES].sum(1) * 1e6 + seen[:, CLIP_FRAMES:].sum(1)
    rank, classes = rank.topk(MAX_OBJECTS, -1)
    classes = classes * (rank > 0)

    candidate = (area.gather(2, classes[:, None].expand(-1, frames, -1)) >= MIN_PIXELS) & (classes > 0)[:, None]
    video, frame, slot = candidate.nonzero(as_tuple=True)
    label = classes[video, slot]
    shape = torch.from_numpy(SHAPE_OF_CLASS).to(device)[label]
    image = video * frames + frame
    box, cut = boxes(rows[video, frame, label], columns[video, frame, label])
    labels = masks.reshape(-1)
    fit = Outlines(labels, image, label, shape, videos * frames, *COARSE)
    position, yaw = fit.locate(box, cut, (10, 6, 4))
    fit = Outlines(labels, image, label, shape, videos * frames, *FINE)
    fit.remember(position)
    for _ in range(3):
        position, yaw = fit.improve(position, yaw, 3)
    position, yaw, covariance = fit.sharpen(position, yaw)
    support, shown, _ = fit.judge(position, yaw)
    good = (support > 0.5) & (shown > 0.04) & covariance.isfinite().all((1, 2))
    yaw = least_turn(yaw)
    values = (good, position, yaw * (shape == CUBE), cut.any(-1), shown, area[video, frame, label], covariance)
    places = video[good], frame[good], slot[good]
    return Tracks(classes, *(scattered(value[good], places, candidate.shape) for value in values))


def scattered(values: Tensor, places: tuple[Tensor, ...], shape: Sequence[int]) -> Tensor:
    """Return zeros of a shape, with (N, ...) values at N places of its first dimensions."""
    out = values.new_zeros(*shape, *values.shape[1:])
    out[places] = values
    return out


def profiles(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many pixels every class has in each row (V, T, 49, 160) and each column (V, T, 49, 240), float32."""
    videos, frames = masks.shape[:2]
    labels = masks.reshape(-1, HEIGHT, WIDTH).long()
    labels = torch.where(labels < NUM_CLASSES, labels, 0)
    image, row, column = labels.nonzero(as_tuple=True)
    owner = image * NUM_CLASSES + labels[image, row, column]

    def count(place: Tensor, size: int) -> Tensor:
        pixels = torch.bincount(owner * size + place, minlength=videos * frames * NUM_CLASSES * size)
        return pixels.view(videos, frames, NUM_CLASSES, size).float()

    return count(row, HEIGHT), count(column, WIDTH)


def boxes(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, 4) top, bottom, left, right edges in pixels and (N, 4) bool: the image's edge cuts that side.

    Stray pixels are left out: a row or column counts when it has two pixels and lies near the median one.
    """
    edges, cuts = [], []
    for profile in (rows, columns):
        size = profile.shape[1]
        index = torch.arange(size, device=profile.device)
        median = (profile.cumsum(1) < profile.sum(1, keepdim=True) / 2).sum(1, keepdim=True)
        inside = (profile >= 2) & ((index - median).abs() < 40)
        inside |= index == median
        first = torch.where(inside, index, size).amin(1)
        last = torch.where(inside, index, -1).amax(1)
        edges += [first, last + 1]
        cuts += [first == 0, last == size - 1]
    return torch.stack(edges, 1).float(), torch.stack(cuts, 1)


def stand(box: Tensor, border: Tensor) -> Tensor:
    """Return (N, 2) first guesses of the world position from (N, 4) boxes and which of their sides are cut."""
    top, bottom, left, right = box.unbind(1)
    row, column = (top + bottom) / 2, (left + right) / 2
    for _ in range(4):
        half = side(row) / 2
        row = torch.where(border[:, 0] & ~border[:, 1], bottom - half, row)
        row = torch.where(border[:, 1] & ~border[:, 0], top + half, row)
        column = torch.where(border[:, 2] & ~border[:, 3], right - half, column)
        column = torch.where(border[:, 3] & ~border[:, 2], left + half, column)
    return unproject(torch.stack((column, row), -1), RADIUS)


def side(row: Tensor) -> Tensor:
    """Return how many pixels an object whose centre is in an image row is high and wide, nearly."""
    return 13.0 + 0.23 * row


def outline(shape: int, position: Tensor, yaw: Tensor) -> Tensor:
    """Return (N, P, 2) image points in whose hull N solids without their softened edges are; see :func:`support`."""
    n, wide = len(position), RADIUS - BEVEL[shape]
    if shape == CUBE:
        turn = yaw[:, None] + QUARTER * torch.arange(4, device=yaw.device) + QUARTER / 2
        around = 2**0.5 * wide * torch.stack((turn.cos(), turn.sin()), -1)
    else:
        turn = torch.arange(RIM, device=yaw.device) * (2 * math.pi / RIM)
        # An inscribed polygon is a little too small; this makes its mean error zero.
        wide = wide * (2 / (1 + math.cos(math.pi / RIM)))
        around = wide * torch.stack((turn.cos(), turn.sin()), -1).expand(n, RIM, 2)
    if shape == SPHERE:
        centre = torch.cat((position, position.new_full((n, 1), RADIUS)), 1)
        ray = centre - position.new_tensor(CAMERA)
        distance = ray.norm(dim=1, keepdim=True)
        ray = ray / distance
        across = torch.stack((-ray[:, 1], ray[:, 0], torch.zeros_like(ray[:, 0])), 1)
        across = across / across.norm(dim=1, keepdim=True)
        upward = torch.linalg.cross(ray, across)
        centre = centre - RADIUS**2 / distance * ray
        size = (1 - (RADIUS / distance) ** 2).sqrt()[..., None]
        points = centre[:, None] + size * (around[..., :1] * across[:, None] + around[..., 1:] * upward[:, None])
        return project(points)
    ground = position[:, None] + around
    low = torch.cat((ground, torch.full_like(ground[..., :1], BEVEL[shape])), -1)
    high = torch.cat((ground, torch.full_like(ground[..., :1], 2 * RADIUS - BEVEL[shape])), -1)
    return project(torch.cat((low, high), 1))


def support(kind: int, position: Tensor, yaw: Tensor, normal: Tensor, origin: Tensor | float = 0.0) -> Tensor:
    """Return (N, M) pixels from image points (N, 1, 2) along normals (N or 1, M, 2) to the edges of N silhouettes."""
    inner = ((outline(kind, position, yaw) - origin) @ normal.transpose(1, 2)).amax(1)
    depth = floor_depth(position)[:, None] + FORWARD[2] * RADIUS
    return inner + BEVEL[kind] * FOCAL / depth.clamp_min(0.1)


def edge_normals(kind: int, position: Tensor, yaw: Tensor, around: Tensor) -> Tensor:
    """Return (N, M, 2) normals of N silhouettes: of every straight edge, and beside those of a round one ``around``.

    Args:
        kind: index into ``classes.SHAPES``.
        position: (N, 2) on the floor.
        yaw: (N,) radians.
        around: (A, 2) unit normals in the image.
    """
    around = around.expand(len(yaw), -1, -1)
    if kind == SPHERE:
        return around
    if kind == CUBE:
        low, high = outline(CUBE, position, yaw).split(4, 1)
        edge = torch.cat((low.roll(-1, 1) - low, high.roll(-1, 1) - high, high - low), 1)
    else:
        # The sides are seen where the camera looks along the surface.
        towards = position.new_tensor(CAMERA[:2]) - position
        turn = torch.acos((RADIUS / towards.norm(dim=-1)).clamp_max(1.0))
        turn = torch.atan2(towards[:, 1], towards[:, 0])[:, None] + torch.stack((turn, -turn), 1)
        ground = position[:, None] + RADIUS * torch.stack((turn.cos(), turn.sin()), -1)
        low = project(torch.cat((ground, torch.zeros_like(ground[..., :1])), -1))
        edge = project(torch.cat((ground, torch.full_like(ground[..., :1], 2 * RADIUS)), -1)) - low
    normal = torch.nn.functional.normalize(torch.stack((-edge[..., 1], edge[..., 0]), -1), dim=-1)
    straight = torch.cat((normal, -normal), 1)
    return straight if kind == CUBE else torch.cat((around, straight), 1)


class Outlines:
    """Fits outlines of N solids to the label images they appear in, by searching along rays from their centres.

    Pixels of another class hide the solid, unless that one stands farther away: then the solid's edge is there. The
    latter is left out where not ``ordered``, for labels that may be wrong.
    """

    def __init__(
        self,
        labels: Tensor,
        image: Tensor,
        label: Tensor,
        shape: Tensor,
        images: int,
        rays: int,
        normals: int,
        ordered: bool = True,
    ):
        self.labels, self.image, self.label, self.shape, self.images = labels, image, label, shape, images
        self.ordered = ordered
        angle = torch.arange(rays, device=label.device) * (2 * math.pi / rays)
        self.ray = torch.stack((angle.cos(), angle.sin()))  # (2, R)
        angle = torch.arange(normals, device=label.device) * (2 * math.pi / normals)
        self.normal = torch.stack((angle.cos(), angle.sin()))  # (2, M)
        cosine = self.normal.T @ self.ray
        self.slant = torch.where(cosine > 1e-3, 1 / cosine.clamp_min(1e-3), torch.inf)  # (M, R)
        self.chosen = [(shape == kind).nonzero()[:, 0] for kind in range(3)]
        self.depth = None

    def bounds(self, kind: int, position: Tensor, yaw: Tensor, centre: Tensor) -> Tensor:
        """Return (N, M, R) pixels from ``centre`` along every ray to the edge that each normal is of."""
        reach = support(kind, position, yaw, self.normal.T[None], centre[:, None])  # (N, M)
        return reach[..., None] * self.slant

    def radii(self, kind: int, position: Tensor, yaw: Tensor, centre: Tensor) -> Tensor:
        """Return (N, R) pixels from ``centre`` to the outline along every ray."""
        return self.bounds(kind, position, yaw, centre).amin(1)

    def centre(self, position: Tensor) -> Tensor:
        return project(torch.cat((position, torch.full_like(position[:, :1], RADIUS)), 1))

    def look(self, points: Tensor, chosen: Tensor) -> Tensor:
        """Return (N, ...) float32: 1 own class, -1 visibly something else, 0 unknown, at (N, ..., 2) image points."""
        label, inside = self.labels_at(points, chosen)
        image = self.image[chosen].view(-1, *[1] * (label.ndim - 1))
        own = self.label[chosen].view_as(image)
        other = (label != 0) & (label != own)
        if self.depth is None:
            hidden = other
        else:
            mine = self.depth[self.image[chosen], self.label[chosen]].view_as(image)
            hidden = other & (self.depth[image, label] < mine)
        value = torch.where(label == own, 1.0, torch.where(hidden, 0.0, -1.0))
        return value * inside

    def labels_at(self, points: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, ...) int64 labels of the pixels nearest to (N, ..., 2) points, and which are in the image."""
        column, row = points.floor().long().unbind(-1)
        inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
        image = self.image[chosen].view(-1, *[1] * (row.ndim - 1))
        pixel = (image * HEIGHT + row.clamp(0, HEIGHT - 1)) * WIDTH + column.clamp(0, WIDTH - 1)
        return self.labels.index_select(0, pixel.flatten()).view_as(pixel).long(), inside

    def edges(self, kind: int, position: Tensor, yaw: Tensor, width: int):
        """Return centre (N, 2), radius (N, R), normal (N, R), the seen edge's offset (N, R) and its weight (N, R)."""
        chosen = self.chosen[kind]
        centre = self.centre(position)
        radius, normal = self.bounds(kind, position, yaw, centre).min(1)
        step = torch.arange(2 * width, device=radius.device) - width + 0.5
        reach = radius[..., None] + step  # (N, R, S)
        seen = self.look(centre[:, None, None] + reach[..., None] * self.ray.T[:, None], chosen) * (reach > 0)
        before = torch.nn.functional.pad(seen.cumsum(-1), (1, 0))
        score = 2 * before - before[..., -1:]
        cut = score.argmax(-1, keepdim=True)  # the edge lies before sample `cut`
        inner = seen.gather(-1, (cut - 1).clamp_min(0))[..., 0]
        outer = seen.gather(-1, cut.clamp_max(2 * width - 1))[..., 0]
        cut = cut[..., 0]
        known = ((inner > 0) & (outer < 0)) | ((cut == 0) & (outer < 0)) | ((cut == 2 * width) & (inner > 0))
        return centre, radius, normal, (cut - width).float(), known.float()

    def improve(
        self, position: Tensor, yaw: Tensor, width: int, turns: bool = True, kinds: tuple[int, ...] = (0, 1, 2)
    ) -> tuple[Tensor, Tensor]:
        """Take one Gauss-Newton step towards the visible edges; ``width`` pixels are searched on either side."""
        position, yaw = position.clone(), yaw.clone()
        for kind in kinds:
            chosen = self.chosen[kind]
            if len(chosen) == 0:
                continue
            p, a = position[chosen], yaw[chosen]
            centre, radius, normal, offset, weight = self.edges(kind, p, a, width)
            tilt = (self.normal.T[normal] * self.ray.T).sum(-1)  # cosine between normal and ray
            columns = []
            for change, turn in ((p.new_tensor([0.01, 0]), 0.0), (p.new_tensor([0, 0.01]), 0.0), (0.0, 0.03)):
                if turn and not (turns and kind == CUBE):
                    continue
                moved = self.radii(kind, p + change, a + turn, centre)
                columns.append((moved - radius) / (turn or 0.01) * tilt)
            slope = torch.stack(columns, -1)  # (N, R, 2 or 3)
            residual = offset * tilt
            weight = weight / residual.abs().clamp_min(1.0)
            weighted = slope * weight[..., None]
            normal_matrix = weighted.transpose(1, 2) @ slope
            damping = p.new_tensor(HOLD[: slope.shape[-1]])
            right = (weighted * residual[..., None]).sum(1)
            step = torch.linalg.solve(normal_matrix + damping.diag(), right)
            position[chosen] = p + step[:, :2].clamp(-0.3, 0.3)
            if slope.shape[-1] == 3:
                yaw[chosen] = a + step[:, 2].clamp(-0.3, 0.3)
        self.remember(position)
        return position, yaw

    def sharpen(self, position: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the most likely positions (N, 2) and yaws (N,) near those given, and their covariances (N, 3, 3).

        Logistic regression on the labels along the edge, by Newton's method: a pixel at a signed distance d outside
        the edge carries the class with probability sigmoid(-d / b). The blur b maximises the likelihood too: a few
        hundredths of a pixel for clean masks, more for ragged ones. The covariance is that of least squares with
        independent errors of b; the correlation of neighbouring pixels is one more factor, unknown here.
        """
        position, yaw = position.clone(), yaw.clone()
        covariance = position.new_zeros(len(yaw), 3, 3)
        for kind, chosen in enumerate(self.chosen):
            for chunk in chosen.split(OUTLINES_AT_ONCE[position.device.type]):
                distance, slope, label = self.near_edge(kind, position[chunk], yaw[chunk], chunk)
                step, blur = most_likely_step(distance, slope, label)
                position[chunk] += step[:, :2].clamp(-0.05, 0.05)
                yaw[chunk] += step[:, 2].clamp(-0.2, 0.2)
                at_edge = (label != 0) * (distance.abs() < 0.5)
                information = (slope * at_edge[..., None]).transpose(1, 2) @ slope + prior(slope)
                covariance[chunk] = torch.linalg.inv_ex(information)[0] * blur.square()[:, None, None]
        return position, yaw, covariance

    def near_edge(self, kind: int, position: Tensor, yaw: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return of Q pixels by each edge how far outside they are (N, Q), how fast the edge there moves with x, y and
        yaw (N, Q, 3), both in pixels, and their labels (N, Q) as :meth:`look` gives them, 0 for repeated pixels.
        """
        centre = self.centre(position)
        radius = self.radii(kind, position, yaw, centre)
        reach = radius[..., None] + radius.new_tensor(NEAR_EDGE)
        points = (centre[:, None, None] + reach[..., None] * self.ray.T[:, None]).flatten(1, 2)
        label = self.look(points, chosen)
        pixel = points.floor()
        index, order = (pixel[..., 1] * WIDTH + pixel[..., 0]).sort(1)
        again = torch.zeros_like(index, dtype=torch.bool).scatter(1, order[:, 1:], index[:, 1:] == index[:, :-1])
        distance, met, _ = self.outside(kind, position, yaw, pixel + 0.5)
        slope = self.slopes(kind, position, yaw, pixel + 0.5, met, distance)
        return distance, slope, label * ~again * (distance.abs() < 1.6)

    def outside(self, kind: int, position: Tensor, yaw: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return of image points (N, Q, 2) how many pixels outside the outline they are (N, Q) and which normal is that
        of the edge there (N, Q), and that normal (N, Q, 2).
        """
        centre, normal, support = self.supports(kind, position, yaw)
        distance, met = ((points - centre) @ normal.transpose(1, 2) - support[:, None]).max(-1)
        return distance, met, self.normals_at(normal, met)

    def slopes(self, kind: int, position: Tensor, yaw: Tensor, points: Tensor, met: Tensor, distance: Tensor) -> Tensor:
        """Return (N, Q, 3) how many pixels outwards the edge at image points (N, Q, 2) moves with x, y and yaw.

        Args:
            kind, position, yaw, points: as for :meth:`outside`, which tells ``met`` and ``distance`` (N, Q).
        """
        ways = ((0.002, 0.0, 0.0), (0.0, 0.002, 0.0), (0.0, 0.0, 0.005))[: 3 if kind == CUBE else 2]
        slope = []
        for way in ways:  # the edge that is met stays the same
            centre, normal, support = self.supports(kind, position + position.new_tensor(way[:2]), yaw + way[2])
            after = ((points - centre) * self.normals_at(normal, met)).sum(-1) - support.gather(1, met)
            slope.append((distance - after) / max(way))
        return torch.stack((*slope, *[torch.zeros_like(distance)] * (3 - len(slope))), -1)

    @staticmethod
    def normals_at(normal: Tensor, met: Tensor) -> Tensor:
        """Return (N, Q, 2) those of the (N or 1, M, 2) normals that (N, Q) points met."""
        return normal.expand(len(met), -1, -1).gather(1, met[..., None].expand(-1, -1, 2))

    def supports(self, kind: int, position: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return centres (N, 1, 2), normals (N or 1, M, 2) and how far along each the outline reaches (N, M)."""
        centre, normal = self.centre(position)[:, None], edge_normals(kind, position, yaw, self.normal.T)
        return centre, normal, support(kind, position, yaw, normal, centre)

    def locate(self, box: Tensor, cut: Tensor, widths: Sequence[int], tries_yaws: bool = True) -> tuple[Tensor, Tensor]:
        """Return positions (N, 2) and yaws (N,) of outlines in :func:`boxes`; see :meth:`improve` for the widths."""
        position, yaw = stand(box, cut), box.new_zeros(len(box))
        if tries_yaws:
            position, yaw = self.first_yaw(position, yaw)
        for width in widths:
            position, yaw = self.improve(position, yaw, width)
        return position, yaw

    def first_yaw(self, position: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor]:
        """Move everything roughly into place, then turn each cube to the best of a few yaws."""
        for width in (12, 12, 8):
            position, _ = self.improve(position, yaw + 0.4, width, turns=False)
        chosen = self.chosen[0]
        if len(chosen) == 0:
            return position, yaw
        best = torch.full_like(yaw[chosen], torch.inf)
        start, result = position, position.clone()
        for turn in torch.arange(6, device=yaw.device) * (QUARTER / 6):
            tried, _ = self.improve(start, torch.full_like(yaw, turn), 6, turns=False, kinds=(0,))
            tried, _ = self.improve(tried, torch.full_like(yaw, turn), 6, turns=False, kinds=(0,))
            *_, offset, weight = self.edges(0, tried[chosen], turn.expand(len(chosen)), 6)
            error = (offset.abs() * weight).sum(1) / weight.sum(1).clamp_min(1)
            better = error < best
            best = torch.where(better, error, best)
            yaw[chosen] = torch.where(better, turn, yaw[chosen])
            result[chosen] = torch.where(better[:, None], tried[chosen], result[chosen])
        return result, yaw

    def samples(self, kind: int, position: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, R, 6, 2) image points all over each inside and (N, R, 6) the pixels that each stands for."""
        centre = self.centre(position)
        radius = self.radii(kind, position, yaw, centre)
        share = ((torch.arange(6, device=yaw.device) + 0.5) / 6).sqrt()  # equal areas
        points = centre[:, None, None] + (radius[..., None] * share)[..., None] * self.ray.T[:, None]
        pixels = math.pi * radius.square()[..., None] / (radius.shape[1] * len(share))
        return points, pixels.expand(-1, -1, len(share))

    def judge(self, position: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N,) share of the visible inside that carries the class, share of the inside it covers, and pixels."""
        support, shown, size = (torch.zeros_like(yaw) for _ in range(3))
        for kind, chosen in enumerate(self.chosen):
            if len(chosen) == 0:
                continue
            points, pixels = self.samples(kind, position[chosen], yaw[chosen])
            seen = self.look(points, chosen)
            own = ((seen > 0) * pixels).sum((1, 2))
            known = ((seen != 0) * pixels).sum((1, 2))
            size[chosen] = pixels.sum((1, 2))
            support[chosen], shown[chosen] = own / known.clamp_min(1e-6), own / size[chosen]
        return support, shown, size

    def contents(self, position: Tensor, yaw: Tensor) -> Tensor:
        """Return (N, 49) how many pixels of every class lie inside each outline."""
        counts = torch.zeros(len(yaw), NUM_CLASSES, device=yaw.device)
        for kind, chosen in enumerate(self.chosen):
            if len(chosen) == 0:
                continue
            points, pixels = self.samples(kind, position[chosen], yaw[chosen])
            label, inside = self.labels_at(points, chosen)
            label = torch.where(inside & (label < NUM_CLASSES), label, 0)
            counts[chosen] = counts[chosen].scatter_add(1, label.flatten(1), pixels.flatten(1))
        return counts

    def overlap(self, position: Tensor, yaw: Tensor, pixels: Tensor) -> Tensor:
        """Return (N,) intersection over union of the outline's visible inside and the ``pixels`` of the class."""
        support, shown, size = self.judge(position, yaw)
        own = shown * size
        return own / (pixels + own / support.clamp_min(1e-6) - own).clamp_min(1)

    def remember(self, position: Tensor, image: Tensor | None = None, label: Tensor | None = None) -> None:
        """Keep the depth of every class in its image, which tells who hides whom; of these outlines or of others."""
        if not self.ordered:
            return
        image, label = (self.image, self.label) if image is None else (image, label)
        self.depth = torch.full((self.images, 256), -torch.inf, device=position.device)
        self.depth[image, label] = floor_depth(position)
        self.depth[:, 0] = torch.inf


def prior(slope: Tensor, hold: tuple[float, float, float] = HOLD) -> Tensor:
    """Return the precision matrices (N, 3, 3) with ``hold`` on the diagonal, 1 for what moves no edge at all."""
    return torch.diag_embed(torch.where((slope != 0).any(1), slope.new_tensor(hold), 1.0))


def most_likely_step(distance: Tensor, slope: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step (N, 3) and blur (N,) in pixels under which N edges make the labels of Q pixels each most likely.

    Args:
        distance: (N, Q) pixels outside the edge before the step.
        slope: (N, Q, 3) by how much a step moves the edge outwards.
        label: (N, Q) 1 inside, -1 outside, 0 unknown.
    """
    count = len(distance)
    known = (label != 0).float()
    kept = prior(slope)

    def likelihood(step: Tensor, blur: float) -> tuple[Tensor, Tensor, Tensor]:
        gone = distance - (slope @ step[..., None])[..., 0]
        wrong = torch.sigmoid(label * gone / blur)
        loss = (known * torch.nn.functional.softplus(label * gone / blur)).sum(1)
        gradient = -((wrong * label / blur)[..., None] * slope).sum(1)
        # Where all labels are right, only pixels near the edge keep the step finite.
        curvature = (wrong * (1 - wrong)).clamp_min(0.02) * known * (gone.abs() < 4 * blur) / blur**2
        return loss, gradient, (slope * curvature[..., None]).transpose(1, 2) @ slope

    step = best_step = distance.new_zeros(count, 3)
    least, best_blur = distance.new_full((count,), torch.inf), distance.new_full((count,), BLUR[0])
    for blur in BLUR:
        loss, gradient, curvature = likelihood(step, blur)
        damping = 0.1 * torch.diag_embed(curvature.diagonal(dim1=1, dim2=2))
        tried = step - torch.linalg.solve(curvature + damping + kept, gradient[..., None])[..., 0]
        reached, *_ = likelihood(tried, blur)
        better = reached < loss
        step, loss = torch.where(better[:, None], tried, step), torch.where(better, reached, loss)
        likelier = loss < least
        least, best_step = torch.where(likelier, loss, least), torch.where(likelier[:, None], step, best_step)
        best_blur = torch.where(likelier, blur, best_blur)
    return best_step, best_blur
