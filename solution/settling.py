"""Settles what the segmenter left open: one shape per material and colour, one class per object, in a whole clip.

A class is an object's identity, so that a few pixels or frames of a wrong class are a second object to everything
that follows. The known solids' outlines tell which pixels belong together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_prep.classes import BACKGROUND, NUM_CLASSES, SHAPE_OF_CLASS
from data_prep.scene import CLIP_FRAMES
from solution.tracks import COARSE, MIN_PIXELS, Outlines, boxes, profiles, stand

LOOKALIKES = 16
"""Combinations of material and colour; a class is 1 + 16 · shape + one of them."""
LOOKS = 4
"""Frames of every object by whose outline its shape is judged."""
OUTLINE_COUNTS = 30.0
"""An overlap better by a thirtieth weighs as much as all of the segmenter's votes."""
FITS = 0.7
"""Overlap from which an outline is believed to be one object's."""

CANDIDATES = 12
"""Classes per clip that may be objects or ghosts of objects, those with the most pixels."""
FOUND = 0.15
"""Share of an outline from which the pixels of its class are believed to be an object's."""
WHOLE, PIECE = 1.25, 0.5
"""More than one outline's worth of pixels together, a good part of it the second class's: those are two objects."""
NEAR = 0.5
"""World units that an object moves from one frame to the next, and the fits of two classes to it differ, at most."""
GHOST = 0.4
"""Share of a class's pixels that another object must account for."""


def settle(masks: Tensor, videos_at_once: int = 32) -> Tensor:
    """Return (V, T, 160, 240) uint8 masks with every object's pixels in one class.

    The first ``CLIP_FRAMES`` frames decide for all: what a predictor is given never depends on the frames after them.
    """
    parts = (masks[i : i + videos_at_once] for i in range(0, len(masks), videos_at_once))
    return torch.cat([absorb_ghosts(settle_shapes(part)) for part in parts])


def settle_shapes(masks: Tensor) -> Tensor:
    """Return the (V, T, 160, 240) uint8 masks with one shape for all that has the same material and colour in a video.

    The first ``CLIP_FRAMES`` frames decide for all: what a predictor is given never depends on the frames after them.
    Segmenters see colours well and shapes badly; the outline of the known solids tells the shape better. What looks
    like two objects of one material and colour keeps its labels.
    """
    whole, masks = masks, masks[:, :CLIP_FRAMES].contiguous()
    videos, frames = masks.shape[:2]
    device = masks.device
    rows, columns = (p[:, :, 1:].unflatten(2, (3, LOOKALIKES)) for p in profiles(masks))  # (V, T, 3, 16, 160 or 240)
    votes = rows.sum((1, 4))  # (V, 3, 16)
    votes = votes / votes.sum(1, keepdim=True).clamp_min(1)
    rows, columns = rows.sum(2), columns.sum(2)
    area = rows.sum(-1)  # (V, T, 16)
    box, cut = boxes(rows.flatten(0, 2), columns.flatten(0, 2))
    box, cut = box.view(videos, frames, -1, 4), cut.view(videos, frames, -1, 4)
    size = 13.0 + 0.23 * (box[..., 0] + box[..., 1]) / 2
    extent = torch.maximum(box[..., 1] - box[..., 0], box[..., 3] - box[..., 2]) / size
    seen = area >= MIN_PIXELS
    double = (seen & (extent > 1.7)).sum(1) > 1  # (V, 16)
    usable = seen & (extent < 1.7) & (area > 0.2 * size**2) & ~double[:, None]
    # What the image's edge cuts is looked at only where nothing better is to be had.
    clear = area * usable * torch.where(cut.any(-1) | (area < 0.4 * size**2), 1e-3, 1.0)

    best, frame = clear.topk(min(LOOKS, frames), 1)  # (V, LOOKS, 16)
    video, look, group = (best > 0).nonzero(as_tuple=True)
    image = (video * frames + frame[video, look, group]).repeat(3)
    shape = torch.arange(3, device=device).repeat_interleave(len(video))
    group_label = (group + 1).repeat(3)
    pixels = torch.where((masks > 0) & (masks < NUM_CLASSES), (masks - 1) % LOOKALIKES + 1, masks).reshape(-1)
    fit = Outlines(pixels, image, group_label, shape, videos * frames, *COARSE)
    position = stand(box.flatten(0, 1)[image, group_label - 1], cut.flatten(0, 1)[image, group_label - 1])
    position, yaw = fit.first_yaw(position, torch.zeros_like(position[:, 0]))
    for width in (6, 4, 3):
        position, yaw = fit.improve(position, yaw, width, turns=True)
    overlap = fit.overlap(position, yaw, area.flatten(0, 1)[image, group_label - 1])
    score = torch.zeros_like(votes)
    count = torch.zeros_like(votes).index_put_((video, torch.zeros_like(group), group), area.new_ones(()), True)[:, :1]
    score.index_put_((video.repeat(3), shape, group_label - 1), overlap, True)
    score = score / count.clamp_min(1)
    winner = (OUTLINE_COUNTS * score + votes).argmax(1)  # (V, 16)
    kept = double | (votes.sum(1) == 0) | ((count[:, 0] > 0) & (score.amax(1) < FITS))

    table = torch.arange(256, dtype=torch.uint8, device=device).repeat(videos, 1)
    settled = (1 + LOOKALIKES * winner + torch.arange(LOOKALIKES, device=device)).to(torch.uint8)
    for kind in range(3):
        part = table[:, 1 + LOOKALIKES * kind : 1 + LOOKALIKES * (kind + 1)]
        part.copy_(torch.where(kept, part, settled))
    return table.gather(1, whole.flatten(1).long()).view_as(whole)


def absorb_ghosts(masks: Tensor) -> Tensor:
    """Return the (V, T, 160, 240) uint8 masks with classes that are only parts or moments of an object given to it.

    A class is another's ghost where its pixels lie inside the other's outline, or where it stands in the other's
    place while that is not to be seen; never where both together are more than one object.
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
    position, yaw = fit.first_yaw(*_start(rows[video, frame, label], columns[video, frame, label]))
    for width in (6, 4):
        position, yaw = fit.improve(position, yaw, width, turns=True)
    inside, size = fit.contents(position, yaw), fit.judge(position, yaw)[-1]

    def spread(values: Tensor) -> Tensor:
        out = values.new_zeros(videos, frames, CANDIDATES, *values.shape[1:])
        out[video, frame, slot] = values
        return out

    found = spread(inside.gather(1, label[:, None])[:, 0] > FOUND * size)  # (V, T, C)
    place, size = spread(position), spread(size)[..., None]
    part, own = area[:, :, None], area[..., None]  # of the second and of the first of (V, T, C, C)
    covered = torch.minimum(spread(inside.gather(1, classes[video])), part)
    two = (part + own > WHOLE * size) & (part > PIECE * size)
    together = torch.where(two, -part, covered) * found[..., None]
    close = torch.zeros_like(two)
    for now, then in ((slice(1, None), slice(-1)), (slice(-1), slice(1, None))):
        gap = (place[:, now, None] - place[:, then, :, None]).norm(dim=-1)
        close[:, now] |= found[:, then, :, None] & (gap < NEAR)
    alone = part * (found[:, :, None] & ~found[..., None] & close)
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


def _start(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, 2) first guesses of positions and (N,) yaws of 0 from (N, 160) and (N, 240) pixel counts."""
    position = stand(*boxes(rows, columns))
    return position, torch.zeros_like(position[:, 0])
