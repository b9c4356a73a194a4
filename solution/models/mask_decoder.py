"""From the features of a frame's patches to its mask: attention layers and a transposed convolution; networks only."""

import math

import torch
from torch import Tensor, nn

from data_prep.classes import BACKGROUND, NUM_CLASSES
from solution.models.jepa import Encoder
from solution.models.vit import PATCH, as_grid, transformer

BACKGROUND_SHARE = 0.94


class MaskDecoder(nn.Module):
    """Maps (B, 150, width) features, which know their places, to (B, 49, 160, 240) logits.

    The last bias starts at the logarithm of the class prior (Lin et al., "Focal Loss", ICCV 2017): without it, the
    first steps, which learn that most is background, make all patches alike for good.
    """

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.transformer = transformer(width, layers, heads)
        self.draw = nn.ConvTranspose2d(width, NUM_CLASSES, PATCH, PATCH)
        nn.init.zeros_(self.draw.bias)
        with torch.no_grad():
            self.draw.bias[BACKGROUND] = math.log((NUM_CLASSES - 1) * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE))

    def forward(self, features: Tensor) -> Tensor:
        return self.draw(as_grid(self.transformer(features)))


class PatchSegmenter(nn.Module):
    """Encoder and decoder together: (B, 3, 160, 240) frames in [0, 1] → (B, 49, 160, 240) logits."""

    def __init__(self, encoder: Encoder, decoder: MaskDecoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, frames: Tensor) -> Tensor:
        return self.decoder(self.encoder(frames))

    def classes(self, frames: Tensor) -> Tensor:
        """Return the (B, 160, 240) uint8 most probable classes."""
        return self(frames).argmax(1).to(torch.uint8)
