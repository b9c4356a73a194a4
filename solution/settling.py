"""Gives every object of a video one class in all frames, by fitting the outlines of the known solids.

A class is an object's identity: a few pixels or frames of a wrong class are a second object to all later stages.
"""

import itertools
from functools import partial

import torch
from torch import Tensor

from data_prep.classes import BACKGROUND, NUM_CLASSES, SHAPE_OF_CLASS, SHAPES
from data_prep.scene import CLIP_FRAMES, floor_depth
from solution.tracks import COARSE, FINE, MIN_PIXELS, Outlines, boxes, profiles, scattered, side

LOOKALIKES = 16
"""Combinations of material and colour; a class is 1 + 16 · shape + one of them."""
LOOKS = 4
"""Frames in which the outlines of the three shapes are fitted to a body."""
OUTLINE_WEIGHT = 30.0
"""Of the outline's IoU, where the share of pixels that the segmenter gives a shape weighs 1."""
FITS = 0.7
"""Least IoU of an outline that decides a shape."""
SHARE, APART = 0.05, 0.6
"""Two clusters are two bodies if each has this share of the pixels of a square as wide as an object, and their centres
are this many widths apart."""
NOWHERE = 1e3
"""Pixels, more than any object moves."""
SHAPE_WEIGHT = 0.5
"""Widths of an object that a cluster counts as nearer to a pixel if all of its pixels have that pixel's shape."""
TWO_MEANS = 6
"""Iterations of 2-means on the pixels of a material and colour."""

CANDIDATES = 12
"""Bodies and classes of a clip that are fitted, those with the most pixels; a bound on the cost of poor masks. Real and
simulated clips have at most seven objects."""
SEEN = 0.15
"""Least share of an outline that its class covers where the object is seen."""
WHOLE, PIECE = 1.25, 0.5
"""Two classes are two objects if their pixels together exceed this share of an outline, and the second's alone that."""
NEAR = 0.8
"""World units between the fits of two classes to one object in consecutive frames, at most."""
GHOST = 0.4
"""Least share of a class's pixels that another object must account for."""


class Hypotheses(Outlines):
    """Several outlines fitted to one body, whose depth is that of the nearest of them."""

    def remember(self, position: Tensor) -> None:
        nearest = torch.full((self.images * 256,), torch.inf, device=position.device)
        nearest.scatter_reduce_(0, self.image * 256 + self.label, floor_depth(position), "amin")
        self.depth = torch.where(nearest.isinf(), -torch.inf, nearest).view(self.images, 256)
        self.depth[:, BACKGROUND] = torch.inf


def settle(masks: Tensor) -> Tensor:
    """Return (V, T, 160, 240) uint8 masks with every object's pixels in one class.

    The first ``CLIP_FRAMES`` frames decide for all, so that no predictor's input depends on later ones.
    """
    return absorb_ghosts(settle_shapes(masks))


def settle_shapes(masks: Tensor) -> Tensor:
    """Return the (V, T, 160, 240) uint8 masks with one shape for each body of a material and colour in a video.

    Segmenters see colours well and shapes badly; the outline of the known solids tells the shape better. Two bodies of
    one material and colour that two frames show get different shapes, since no class is there twice; three keep what
    they were called.
    """
    bodies = split_bodies(masks)
    clip, labels = bodies[:, :CLIP_FRAMES].contiguous(), masks[:, :CLIP_FRAMES]
    videos, frames = clip.shape[:2]
    device = masks.device
    rows, columns = (p[:, :, 1 : 1 + 2 * LOOKALIKES] for p in profiles(clip))  # (V, T, 32, 160 or 240)
    area = rows.sum(-1)  # (V, T, 32)
    votes = _votes(clip, labels)  # (V, 3, 32)
    votes = votes / votes.sum(1, keepdim=True).clamp_min(1)
    box, cut = boxes(rows.flatten(0, 2), columns.flatten(0, 2))
    box, cut = box.view(videos, frames, -1, 4), cut.view(videos, frames, -1, 4)
    size = side((box[..., 0] + box[..., 1]) / 2)
    extent = torch.maximum(box[..., 1] - box[..., 0], box[..., 3] - box[..., 2]) / size
    usable = (area >= MIN_PIXELS) & (extent < 1.7) & (area > 0.2 * size**2)
    # Frames in which the image's edge cuts the body are used only if there are no others.
    clear = area * usable * torch.where(cut.any(-1) | (area < 0.4 * size**2), 1e-3, 1.0)

    best, frame = clear.topk(min(LOOKS, frames), 1)  # (V, LOOKS, 32)
    largest = best.sum(1).topk(CANDIDATES, -1).indices
    best = best * torch.zeros_like(best[:, :1]).scatter_(2, largest[:, None], 1.0)
    video, look, body = (best > 0).nonzero(as_tuple=True)
    image = (video * frames + frame[video, look, body]).repeat(3)
    shape = torch.arange(3, device=device).repeat_interleave(len(video))
    label = (body + 1).repeat(3)
    fit = Hypotheses(clip.reshape(-1), image, label, shape, videos * frames, *COARSE)
    position, yaw = fit.locate(*(part.flatten(0, 1)[image, label - 1] for part in (box, cut)), (6, 4, 3))
    fit = Hypotheses(clip.reshape(-1), image, label, shape, videos * frames, *FINE)
    fit.remember(position)
    for _ in range(2):
        position, yaw = fit.improve(position, yaw, 3)
    overlap = fit.overlap(position, yaw, area.flatten(0, 1)[image, label - 1])
    score = torch.zeros_like(votes)
    count = torch.zeros_like(votes).index_put_((video, torch.zeros_like(body), body), area.new_ones(()), True)[:, 0]
    score.index_put_((video.repeat(3), shape, label - 1), overlap, True)
    score = score / count[:, None].clamp_min(1)
    kept = (count == 0) | (score.amax(1) < FITS) | three_bodies(labels).repeat(1, 2)  # (V, 32)
    merit = area.sum(1, keepdim=True) * (OUTLINE_WEIGHT * score + votes)
    merit = merit.unflatten(2, (2, LOOKALIKES))  # (V, 3, 2, 16)
    shown = (area > SHARE * size**2).unflatten(2, (2, LOOKALIKES)).all(2).sum(1)  # (V, 16) frames that show both bodies
    alike = torch.eye(3, device=device)[..., None] * (shown > 1)[:, None, None]
    both = merit[:, :, None, 0] + merit[:, None, :, 1] - 1e9 * alike
    winner = both.flatten(1, 2).argmax(1)  # (V, 16)
    winner = torch.cat((winner // 3, winner % 3), 1)  # (V, 32)
    table = 1 + LOOKALIKES * winner + torch.arange(LOOKALIKES, device=device).repeat(2)
    table = torch.nn.functional.pad(torch.where(kept, 0, table), (1, 0)).to(torch.uint8)
    settled = table.gather(1, bodies.flatten(1).long()).view_as(masks)
    return torch.where(settled > 0, settled, masks)


def three_bodies(masks: Tensor) -> Tensor:
    """Return (V, 16) bool: the three shapes of a material and colour show apart, in two frames of (V, T, 160, 240)."""
    videos, frames = masks.shape[:2]
    video, frame, row, column = ((masks > 0) & (masks < NUM_CLASSES)).nonzero(as_tuple=True)
    owner = (video * frames + frame) * len(SHAPES) * LOOKALIKES + masks[video, frame, row, column].long() - 1
    point = torch.stack((row, column), -1).float()
    pixels, centre = _centroids(owner, point, videos * frames * len(SHAPES) * LOOKALIKES)
    centre = centre.view(videos, frames, len(SHAPES), LOOKALIKES, 2)
    width = side(centre[..., 0])
    apart = (pixels.view(width.shape) > SHARE * width**2).all(2)
    for a, b in itertools.combinations(range(len(SHAPES)), 2):
        gap = (centre[:, :, a] - centre[:, :, b]).norm(dim=-1)
        apart &= gap > APART * (width[:, :, a] + width[:, :, b]) / 2
    return apart.sum(1) > 1


def split_bodies(masks: Tensor) -> Tensor:
    """Return (V, T, 160, 240) uint8: 1–16 for each material and colour, 17–32 for a second body of the same ones.

    Where the pixels of one material and colour fall into two clusters too far apart for one object, there are two
    bodies; from then on each is what is nearest to where it was. 0 is what is no object.
    """
    videos, frames = masks.shape[:2]
    video, frame, row, column = ((masks > 0) & (masks < NUM_CLASSES)).nonzero(as_tuple=True)
    label = masks[video, frame, row, column].long() - 1
    group = label % LOOKALIKES
    owner = (video * frames + frame) * LOOKALIKES + group
    point = torch.stack((row, column), -1).float()
    halves, of_second = _two_means(owner, point, label // LOOKALIKES, videos * frames * LOOKALIKES)
    pixels, centre = (part.view(videos, frames, LOOKALIKES, *part.shape[1:]) for part in halves)
    width = side(centre[..., 0])  # (V, T, 16, 2)
    apart = (centre[..., 0, :] - centre[..., 1, :]).norm(dim=-1) / width.mean(-1)
    two = (pixels > SHARE * width**2).all(-1) & (apart > APART)  # (V, T, 16)
    whole = (centre * pixels[..., None]).sum(-2) / pixels.sum(-1, keepdim=True).clamp_min(1)
    seen = pixels.sum(-1) > SHARE * side(whole[..., 0]).square()  # a few pixels do not say where a body went
    main = torch.where(two[..., None], centre[..., 0, :], whole)
    other = centre[..., 1, :]

    where = torch.full_like(centre[:, 0], torch.nan)  # (V, 16, 2, 2), both bodies' last places
    crossed = torch.zeros_like(two)  # the main part is the second body
    for t in range(frames):
        parts = torch.stack((main[:, t], other[:, t]), 2)
        there = torch.stack((seen[:, t], two[:, t]), -1)
        # All places are equally far from a body that has not been seen yet.
        gap = (parts[..., :, None, :] - where[..., None, :, :]).norm(dim=-1).nan_to_num(NOWHERE)
        gap = gap * there[..., None]
        cross = gap[..., 0, 1] + gap[..., 1, 0] < gap[..., 0, 0] + gap[..., 1, 1]
        parts = torch.where(cross[..., None, None], parts.flip(-2), parts)
        there = torch.where(cross[..., None], there.flip(-1), there)[..., None]
        where = torch.where(there, parts, where)
        crossed[:, t] = cross
    is_second = crossed.flatten()[owner] ^ (of_second & two.flatten()[owner])
    bodies = torch.zeros_like(masks)
    bodies[video, frame, row, column] = (1 + group + LOOKALIKES * is_second).to(torch.uint8)
    return bodies


def _two_means(owner: Tensor, point: Tensor, shape: Tensor, owners: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Split the (N, 2) points of every owner (N,) by 2-means, with distances in widths of an object in that image row.

    A cluster that has more points of a point's ``shape`` (N,) counts as nearer, which separates bodies that touch.

    Returns:
        ((owners, 2) points and (owners, 2, 2) centres of both clusters), and (N,) bool: the point is in the second.
    """

    def clusters(second: Tensor) -> tuple[Tensor, Tensor]:
        count, centre = _centroids(2 * owner + second, point, 2 * owners)
        return count.view(-1, 2), centre.view(-1, 2, 2)

    _, centre = clusters(torch.zeros_like(owner))
    distance = (point - centre[owner, 0]).norm(dim=-1)
    farthest = point.new_zeros(owners).scatter_reduce_(0, owner, distance, "amax")
    index = torch.arange(len(owner), device=owner.device)
    index = torch.where(distance == farthest[owner], index, len(owner))  # of equally far ones the first
    index = torch.full((owners,), len(owner), device=owner.device).scatter_reduce_(0, owner, index, "amin")
    there = index < len(owner)
    centre[there, 1] = point[index[there]]
    alike = point.new_zeros(len(owner), 2)
    for _ in range(TWO_MEANS):
        near = (point[:, None] - centre[owner]).norm(dim=-1) / side(centre[owner][..., 0]) - SHAPE_WEIGHT * alike
        second = near[:, 1] < near[:, 0]
        halves = clusters(second.long())
        kinds = torch.bincount((2 * owner + second) * len(SHAPES) + shape, minlength=2 * owners * len(SHAPES))
        share = kinds.view(-1, 2, len(SHAPES)) / halves[0][..., None].clamp_min(1)
        alike = share[owner, :, shape]
        centre = halves[1]
    return halves, second


def _centroids(owner: Tensor, point: Tensor, owners: int) -> tuple[Tensor, Tensor]:
    """Return how many of the (N, 2) points every owner (N,) has (owners,), and their mean (owners, 2)."""
    count = torch.bincount(owner, minlength=owners).float()
    return count, point.new_zeros(owners, 2).index_add_(0, owner, point) / count.clamp_min(1)[:, None]


def _votes(bodies: Tensor, masks: Tensor) -> Tensor:
    """Return (V, 3, 32) float32 pixels of every body in the classes of each shape."""
    place = bodies.nonzero(as_tuple=True)
    shape, body = (masks[place].long() - 1) // LOOKALIKES, bodies[place].long() - 1
    key = (place[0] * len(SHAPES) + shape) * 2 * LOOKALIKES + body
    length = len(masks) * len(SHAPES) * 2 * LOOKALIKES
    return torch.bincount(key, minlength=length).view(len(masks), len(SHAPES), -1).float()


def absorb_ghosts(masks: Tensor) -> Tensor:
    """Return the (V, T, 160, 240) uint8 masks with an object's fragments of other classes given back to it.

    A class is another's ghost where its pixels lie inside the other's outline, or where it stands in the other's
    place while that is not seen; never where both together are more than one object.
    """
    clip = masks[:, :CLIP_FRAMES].contiguous()
    videos, frames = clip.shape[:2]
    device = masks.device
    rows, columns = profiles(clip)
    area = rows.sum(-1)
    area[..., BACKGROUND] = 0
    total, classes = area.sum(1).topk(CANDIDATES, -1)  # (V, C), the largest first
    classes = classes * (total > 0)
    area = area.gather(2, classes[:, None].expand(-1, frames, -1)) * (classes > 0)[:, None]  # (V, T, C)
    video, frame, slot = (area >= MIN_PIXELS).nonzero(as_tuple=True)
    label = classes[video, slot]
    shape = torch.from_numpy(SHAPE_OF_CLASS).to(device)[label]
    fit = Outlines(clip.reshape(-1), video * frames + frame, label, shape, videos * frames, *COARSE, ordered=False)
    position, yaw = fit.locate(*boxes(rows[video, frame, label], columns[video, frame, label]), (6, 4))
    inside, size = fit.contents(position, yaw), fit.judge(position, yaw)[-1]
    spread = partial(scattered, places=(video, frame, slot), shape=area.shape)
    seen = spread(inside.gather(1, label[:, None])[:, 0] > SEEN * size)  # (V, T, C)
    place, size = spread(position), spread(size)[..., None]
    part, own = area[:, :, None], area[..., None]  # of the second and of the first of (V, T, C, C)
    covered = torch.minimum(spread(inside.gather(1, classes[video])), part)
    two = (part + own > WHOLE * size) & (part > PIECE * size)
    together = torch.where(two, -part, covered) * seen[..., None]
    close = torch.zeros_like(two)
    for now, then in ((slice(1, None), slice(-1)), (slice(-1), slice(1, None))):
        gap = (place[:, now, None] - place[:, then, :, None]).norm(dim=-1)
        close[:, now] |= seen[:, then, :, None] & (gap < NEAR)
    alone = part * ((part >= MIN_PIXELS) & ~seen[..., None] & close)
    share = (together + alone).sum(1) / total[:, None].clamp_min(1)  # (V, C, C)
    share = share.triu(1)  # none is a ghost of a smaller one
    best, host = share.max(1)
    host = torch.where(best > GHOST, host, torch.arange(CANDIDATES, device=device))
    for _ in range(CANDIDATES.bit_length()):
        host = host.gather(1, host)
    table = torch.arange(256, dtype=torch.uint8, device=device).repeat(videos, 1)
    table.scatter_(1, classes, classes.gather(1, host).to(torch.uint8))
    table[:, BACKGROUND] = BACKGROUND
    return table.gather(1, masks.flatten(1).long()).view_as(masks)
