"""The segmenter's network: a segmentation-models U-Net from scratch with a head factored by attribute.

No training code and no data live here.
"""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.classes import COLOURS, MATERIALS, NUM_CLASSES, SHAPES, class_parts

FRAME_MEAN = (0.47, 0.47, 0.48)
FRAME_STD = (0.1, 0.1, 0.1)
"""Rough statistics of the grey floor; they only centre the input."""


class SegmentationUNet(nn.Module):
    """``smp.Unet`` whose class logit is the sum of a shape's, a material's and a colour's logit.

    The 48 classes are all combinations of 3 × 2 × 8 attributes, so 14 channels (background included) say everything,
    and each attribute learns from every object that has it.

    Args:
        encoder: name of an smp encoder; it starts from random weights.
        decoder_channels: widths of the five decoder stages, coarse to fine.
    """

    def __init__(self, encoder: str, decoder_channels: tuple[int, ...]):
        super().__init__()
        attributes = torch.zeros(NUM_CLASSES, 1 + len(SHAPES) + len(MATERIALS) + len(COLOURS))
        attributes[0, 0] = 1
        for c in range(1, NUM_CLASSES):
            shape, material, colour = class_parts(c)
            for channel in (1 + shape, 1 + len(SHAPES) + material, 1 + len(SHAPES) + len(MATERIALS) + colour):
                attributes[c, channel] = 1
        self.register_buffer("attributes", attributes[:, :, None, None], persistent=False)
        self.register_buffer("mean", torch.tensor(FRAME_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(FRAME_STD)[:, None, None], persistent=False)
        self.unet = smp.Unet(
            encoder, encoder_weights=None, classes=attributes.shape[1], decoder_channels=decoder_channels
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, H, W) frames in [0, 1] to (N, 49, H, W) logits."""
        factors = self.unet((frames - self.mean) / self.std)  # (N, 14, H, W)
        return F.conv2d(factors, self.attributes)
