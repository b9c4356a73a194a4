"""I-JEPA on single frames: an encoder of patches, and a predictor of the features of hidden ones; networks only.

After Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture" (CVPR 2023);
as many patches are hidden as in the report this system comes from, each drawn by itself and not in blocks.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from solution.models.vit import PATCHES, PatchEmbedding, transformer

HIDDEN_PATCHES = 112
"""Three quarters of the 150, rounded down."""


def draw_patches(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the (count, 112) hidden and the (count, 38) seen of each frame's patches, int64, in random order."""
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(PATCHES), (count, 1)), axis=1))
    return order[:, :HIDDEN_PATCHES], order[:, HIDDEN_PATCHES:]


def take(tokens: Tensor, patches: Tensor) -> Tensor:
    """Return the (B, n, C) tokens of (B, n) patches from (B or 1, 150, C)."""
    width = tokens.shape[-1]
    return tokens.expand(len(patches), -1, -1).gather(1, patches[..., None].expand(-1, -1, width))


class Encoder(nn.Module):
    """A ViT without class token: (B, 3, 160, 240) frames in [0, 1] → (B, 150, width) features."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.embed = PatchEmbedding(1, width)
        self.transformer = transformer(width, layers, heads)

    def forward(self, frames: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return the features of all patches, or those that the (B, n) ``seen`` ones have without the others."""
        tokens = self.embed(frames[:, None])
        return self.transformer(tokens if seen is None else take(tokens, seen))


class Predictor(nn.Module):
    """Features of hidden patches from those of the seen ones; knows places by 1-D sines of the patch number."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.register_buffer("positions", sine_positions(PATCHES, width)[None], persistent=False)
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.transformer = transformer(width, layers, heads)
        self.readout = nn.Linear(width, width).apply(init_weights_vit_timm)

    def forward(self, features: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Map (B, n, width) features of the (B, n) ``seen`` patches to (B, m, width) of the (B, m) ``hidden``."""
        context = features + take(self.positions, seen)
        queries = self.hidden_token + take(self.positions, hidden)
        tokens = self.transformer(torch.cat((context, queries), 1))  # (B, n + m, width)
        return self.readout(tokens[:, seen.shape[1] :])


def sine_positions(count: int, width: int) -> Tensor:
    """Return the (count, width) sines, then cosines, of 0 … count − 1 at the wavelengths of the first transformer."""
    angles = torch.arange(count)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.cat((angles.sin(), angles.cos()), 1)


class Jepa(nn.Module):
    """The encoder that learns, the predictor, and the target encoder that follows the first by a moving average.

    ``updates`` counts the target's moves and is saved with the weights, so that a resumed schedule goes on.
    """

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.encoder = Encoder(width, layers, heads)
        self.predictor = Predictor(width, layers, heads)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, frames: Tensor, seen: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return predicted and target features of the hidden patches, both (B, m, width).

        Targets are normalised over the channels, as in I-JEPA's code: shrinking all features gains nothing.
        """
        predicted = self.predictor(self.encoder(frames, seen), seen, hidden)
        with torch.no_grad():
            features = self.target(frames).float()
        return predicted, take(normalised(features), hidden)

    @torch.no_grad()
    def follow(self, momentum: Tensor) -> None:
        """Move the target to ``momentum`` · target + (1 − ``momentum``) · encoder; ``momentum`` is one number."""
        for target, online in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            target.lerp_(online, 1 - momentum)
        self.updates += 1


def normalised(features: Tensor) -> Tensor:
    """Return (B, n, C) features with mean 0 and variance 1 over the channels of every patch."""
    return F.layer_norm(features, features.shape[-1:])


@torch.no_grad()
def spread(features: Tensor) -> float:
    """Return the root mean square deviation of (N, 150, C) features from their patch's mean over the N frames.

    In units of the features' own scale: near 1 for unrelated frames, 0 for an encoder that tells no two frames apart,
    though it may still tell places apart.
    """
    return normalised(features.float()).var(0, correction=0).mean().sqrt().item()
