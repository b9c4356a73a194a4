"""Baselines without training: all background, the mask of frame 11 again, and damped constant velocity.

Each maps the (B, 11, 160, 240) uint8 masks of a clip to the (B, 160, 240) uint8 masks of frame 22, on the CPU.
"""

import torch
from torch import Tensor

from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.tracks import profiles

DAMPING = 0.3
"""Mean step of the coming eleven frames as a share of the last one: the best of .3, .5, .7 on stand-in videos."""


def background(masks: Tensor) -> Tensor:
    """Predict the empty floor."""
    return torch.zeros_like(masks[:, -1])


def copy(masks: Tensor) -> Tensor:
    """Predict the mask of frame 11."""
    return masks[:, -1]


def damped_velocity(masks: Tensor) -> Tensor:
    """Move every object of frame 11 on by a share of its last step in the image, eleven times."""
    rows, columns = profiles(masks[:, -2:])  # (B, 2, 49, 160), (B, 2, 49, 240)
    area = rows.sum(-1)
    edge = rows[..., 0] + rows[..., -1] + columns[..., 0] + columns[..., -1]
    whole = ((area > 0) & (edge == 0)).all(1)[..., None]
    total = torch.stack((rows @ torch.arange(HEIGHT).float(), columns @ torch.arange(WIDTH).float()), -1)
    centre = total / area.clamp_min(1)[..., None]  # (B, 2, 49, 2)
    step = (centre[:, 1] - centre[:, 0]) * whole
    shift = torch.round(DAMPING * (NUM_FRAMES - CLIP_FRAMES) * step).long()
    row_after = (centre[:, 1] + shift)[..., 0].tolist()
    moved = torch.zeros_like(masks[:, -1])
    for video, mask in enumerate(masks[:, -1]):
        labels = mask[mask > 0].unique().tolist()
        for label in sorted(labels, key=row_after[video].__getitem__):  # the lower in the image, the nearer
            row, column = ((mask == label).nonzero() + shift[video, label]).unbind(1)
            inside = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
            moved[video, row[inside], column[inside]] = label
    return moved


BASELINES = {"all background": background, "copy frame 11": copy, "damped velocity": damped_velocity}
