"""The network that names an object by a crop around it; no training code lives here."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.classes import COLOURS, MATERIALS, NUM_CLASSES, SHAPES, class_parts

CROP = 48
"""Height and width of a crop; the network halves them at first."""
GROUPS = len(SHAPES), len(MATERIALS), len(COLOURS)
PARTS = torch.tensor([class_parts(c) for c in range(1, NUM_CLASSES)])
"""(48, 3) int64 shape, material and colour of the classes from 1 on."""


class ObjectClassifier(nn.Module):
    """Maps (N, 3, 48, 48) crops to (N, 13) logits: of 3 shapes, 2 materials, 8 colours.

    Args:
        width: channels of the first layers; the later ones have twice as many.
    """

    def __init__(self, width: int):
        super().__init__()
        layers = ((3, width, 4, 2), (width, width, 3, 1), (width, 2 * width, 4, 2))
        layers += ((2 * width, 2 * width, 3, 1), (2 * width, 2 * width, 4, 2))
        blocks = [
            (nn.Conv2d(before, after, size, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after, size, stride in layers
        ]
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        self.out = nn.Linear(2 * width * (CROP // 16) ** 2, sum(GROUPS))

    def forward(self, crops: Tensor) -> Tensor:
        return self.out(self.features(F.avg_pool2d(crops, 2)).flatten(1)).float()

    def log_likelihood(self, crops: Tensor) -> Tensor:
        """Return (N, 48) float32 log-probabilities of the classes 1–48."""
        groups = self(crops).split(GROUPS, 1)
        return sum(group.log_softmax(1)[:, part] for group, part in zip(groups, PARTS.T, strict=True))
