"""Videos as layers (Wang and Adelson, 1994): the objects of a frame, how fast each slides, and the frame they slide to.

Every object moves as a whole. What else may be known of motion is the business of the network that calls this.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES

MOST_OBJECTS = 10
"""In a frame; those with the most pixels count. Real frames show at most six."""
STEPS = 3
"""Up to the last frame, in which objects' velocities are looked for."""
FEWEST_PIXELS = 20
"""Of an object whose velocity is looked for."""
STILL = 0.2
"""Pixels a frame, below which flow is mostly noise: that of 97 in 100 objects that stand still is below it."""


def velocities(frames: Tensor, masks: Tensor) -> Tensor:
    """Return (B, T, 49, 2) float32: by how many pixels, to the right and down, objects came from the frame before.

    It is the median of dense optical flow (DIS; Kroeger et al., ECCV 2016) over an object's pixels, found on the CPU; 0
    for what has few, for the floor, and before the last ``STEPS`` frames.

    Args:
        frames: (B, T, H, W, 3) uint8.
        masks: (B, T, H, W) uint8.
    """
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = np.zeros((*masks.shape[:2], NUM_CLASSES, 2), np.float32)
    for video, (clip, clip_masks) in enumerate(zip(frames.cpu().numpy(), masks.cpu().numpy(), strict=True)):
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in clip[-1 - STEPS :]]
        for step in range(-STEPS, 0):
            flow, mask = search.calc(grey[step], grey[step - 1], None), clip_masks[step]
            counts = np.bincount(mask.ravel(), minlength=NUM_CLASSES)[:NUM_CLASSES]
            counts[BACKGROUND] = 0
            for label in np.flatnonzero(counts >= FEWEST_PIXELS):
                found[video, step, label] = -np.median(flow[mask == label], 0)
    return torch.from_numpy(found)


def painted(velocity: Tensor, masks: Tensor) -> Tensor:
    """Return (B, T, 2, H, W), at each pixel of (B, T, H, W) masks its object's of the (B, T, 49, 2) velocities."""
    of_labels = F.pad(velocity, (0, 0, 0, IGNORE + 1 - NUM_CLASSES))
    labels = masks.flatten(2).long()[..., None].expand(-1, -1, -1, 2)
    return of_labels.gather(2, labels).mT.unflatten(3, masks.shape[2:])


def visible_objects(mask: Tensor) -> Tensor:
    """Return the (B, K) int64 classes with the most pixels in (B, H, W) uint8 masks, also of what has none."""
    labels = mask.flatten(1).long()
    counts = torch.zeros(len(mask), IGNORE + 1, device=mask.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels, dtype=counts.dtype))
    return 1 + counts[:, 1:NUM_CLASSES].topk(MOST_OBJECTS).indices


def coverage(mask: Tensor, classes: Tensor, downscale: int) -> Tensor:
    """Return (B, K, 1, H / downscale, W / downscale): the share of each square that (B, K) classes have in a mask."""
    return F.avg_pool2d((mask[:, None] == classes[:, :, None, None]).float(), downscale)[:, :, None]


def slide(frame: Tensor, alpha: Tensor, moves: Tensor, shift: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames in which objects have moved, and (B, T, 1, H, W), which share of each pixel shows what moved.

    Objects that reach lower in the image are nearer to the camera and hide others. What stands still hides and is
    hidden too.

    Args:
        frame: (B, 3, H, W).
        alpha: (B, K, 1, H, W) objects, see :func:`coverage`.
        moves: (B, K) bool, whether they do.
        shift: (B, T, K, 2) pixels that they move to the right and down.
        floor: (B, T, 3, H, W), to be seen where something moved away.
    """
    batch, horizons, _, height, width = floor.shape
    rows = torch.arange(height, device=frame.device)
    lowest = torch.where(alpha.amax((2, 4)) > 0, rows, -height).amax(-1)  # (B, K)
    far_to_near = (lowest[:, None] + shift[..., 1]).argsort(-1)  # (B, T, K)
    moving = alpha * moves[:, :, None, None, None]
    layers = torch.cat((frame[:, None] * alpha, alpha, moving), 2)  # (B, K, 5, H, W)
    changed = moving.sum(1)[:, None].expand(-1, horizons, -1, -1, -1)
    drawn = torch.cat((frame[:, None].lerp(floor, changed), changed), 2).flatten(0, 1)  # (B·T, 4, H, W)
    across, down = ((2 * torch.arange(n, device=frame.device) + 1) / n - 1 for n in (width, height))
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)  # (H, W, 2), sides from -1 to 1
    shift = shift * 2 / shift.new_tensor((width, height))
    videos = torch.arange(batch, device=frame.device)[:, None]
    for rank in range(MOST_OBJECTS):
        chosen = far_to_near[..., rank]
        by = shift.gather(2, chosen[..., None, None].expand(-1, -1, 1, 2)).view(-1, 1, 1, 2)
        layer = F.grid_sample(layers[videos, chosen].flatten(0, 1), grid - by, align_corners=False)
        colours, opacity, change = layer.split((3, 1, 1), 1)
        drawn = drawn * (1 - opacity) + torch.cat((colours, change), 1)
    return drawn.unflatten(0, (batch, horizons)).split((3, 1), 2)
