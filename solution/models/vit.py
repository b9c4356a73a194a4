"""What all transformers on patches share: the grid of patches, how frames become tokens, and timm's blocks.

No whole network lives here.
"""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from data_prep.scene import HEIGHT, WIDTH
from solution.models.unet import FRAME_MEAN, FRAME_STD

PATCH = 16
GRID = (HEIGHT // PATCH, WIDTH // PATCH)
PATCHES = GRID[0] * GRID[1]


class PatchEmbedding(nn.Module):
    """Project tubelets and add fixed 2-D sine-cosine positions: (B, T, 3, 160, 240) in [0, 1] → (B, 150, width).

    A tubelet is T × 16 × 16 pixels. Since it spans all ``frames`` = T, its 3-D convolution is a 2-D one over the
    frames' channels laid side by side. Patches are numbered row by row.
    """

    def __init__(self, frames: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.tensor(FRAME_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(FRAME_STD)[:, None, None], persistent=False)
        self.register_buffer("positions", build_sincos2d_pos_embed(GRID, width)[None], persistent=False)
        self.project = nn.Conv2d(3 * frames, width, PATCH, PATCH)

    def forward(self, frames: Tensor) -> Tensor:
        tubelets = self.project(((frames - self.mean) / self.std).flatten(1, 2))  # (B, width, 10, 15)
        return tubelets.flatten(2).transpose(1, 2) + self.positions


def transformer(width: int, layers: int, heads: int) -> nn.Sequential:
    """Return timm's pre-norm blocks with MLPs of four times the width and a last norm: (B, n, width) → the same."""
    blocks = [Block(width, heads, qkv_bias=True) for _ in range(layers)]
    return nn.Sequential(*blocks, nn.LayerNorm(width)).apply(init_weights_vit_timm)


def as_grid(tokens: Tensor) -> Tensor:
    """Return (B, 150, C) tokens as (B, C, 10, 15) images."""
    return tokens.transpose(1, 2).unflatten(2, GRID)
