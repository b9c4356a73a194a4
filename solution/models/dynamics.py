"""A set transformer over a clip's objects: where each will be in the coming frames, as a mixture of trajectories.

Takes and returns plain tensors on the ground plane; features and drawing are made elsewhere.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from solution.forecast import Forecast

SMALLEST_SCALE = 0.004
"""World units (a third of a pixel): the likelihood gains nothing from being surer than the tracks are."""
HEAD_WIDTH = 32
"""Features of a head of attention."""


class Block(nn.Module):
    """Attention over objects, with a bias per pair and head, then a per-object network."""

    def __init__(self, width: int, heads: int, pair_features: int):
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Sequential(nn.Linear(pair_features, 32), nn.GELU(), nn.Linear(32, heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, pairs: Tensor, present: Tensor) -> Tensor:
        batch, objects, width = x.shape
        qkv = self.qkv(self.before(x)).view(batch, objects, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, H, K, D)
        bias = self.bias(pairs).permute(0, 3, 1, 2).masked_fill(~present[:, None, None], -1e4)
        x = x + self.out(
            functional.scaled_dot_product_attention(query, key, value, bias.to(query.dtype)).transpose(1, 2).flatten(2)
        )
        return x + self.mlp(x)


class Dynamics(nn.Module):
    """See the file's docstring. So many features per object, per ordered pair of objects, and per mode of an object.

    What is known of each object becomes corrections of an anchor, in all frames to come at once.
    """

    def __init__(
        self, features: int, pair_features: int, mode_features: int, horizon: int, width: int = 192, layers: int = 5
    ):
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"width is a multiple of {HEAD_WIDTH}, not {width}")
        self.enter = nn.Linear(features, width)
        self.blocks = nn.ModuleList(Block(width, width // HEAD_WIDTH, pair_features) for _ in range(layers))
        self.leave = nn.LayerNorm(width)
        self.visible = nn.Linear(width, 1)
        self.mode = nn.Linear(mode_features, width)
        self.horizon = horizon
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3 * horizon + 3))
        nn.init.normal_(self.head[-1].weight, std=0.005)
        nn.init.zeros_(self.head[-1].bias)

    def forward(
        self,
        features: Tensor,
        pairs: Tensor,
        present: Tensor,
        modes: Tensor,
        anchor: Tensor,
        facing: Tensor,
    ) -> Forecast:
        """Forecast every object.

        Args:
            features: (B, K, features) float32.
            pairs: (B, K, K, pair_features) float32.
            present: (B, K) bool; absent objects are not attended to.
            modes: (B, K, M, mode_features) float32, what makes each trajectory of the mixture special.
            anchor: (B, K, M, F, 2) world positions that are corrected.
            facing: (B, K, M, 2) cosine and sine of four times the yaw in the last frame; 0 for discs.
        """
        x = self.enter(features)
        for block in self.blocks:
            x = block(x, pairs, present)
        x = self.leave(x)
        out = self.head(x[:, :, None] + self.mode(modes)).float()  # (B, K, M, 3 + 3 F)
        logits, turn, path = out[..., 0], out[..., 1:3], out[..., 3:].unflatten(-1, (self.horizon, 3))
        scale = SMALLEST_SCALE + functional.softplus(path[..., 2] - 2.0)
        mean, turn = anchor + path[..., :2], turn * 10 + facing
        return Forecast(logits, mean, scale, turn, self.visible(x).float()[..., 0])
