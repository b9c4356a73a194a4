"""Films trajectories: batched ray casting with CLEVRER's camera, lamps and materials; CPU or GPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data_prep.scene import NUM_FRAMES
from data_prep.standin.physics import Trajectories


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


def film(videos: list[Trajectories], seeds: list[int], length: int, device: str) -> np.ndarray:
    raise NotImplementedError
