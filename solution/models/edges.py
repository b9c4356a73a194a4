"""The network that finds the edge of an object in the frame, along the normals of an outline that is nearly right.

No training code and no geometry live here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

LOG_SCALE = (-6.0, 4.0)
"""Range of the logarithm of an offset's standard deviation in pixels."""


class EdgeNetwork(nn.Module):
    """Profiles across an outline → how far outside it the true edge lies, and how sure that is.

    As in active shape models with learnt profiles (Cootes et al., Active Shape Models – Their Training and
    Application, 1995), but neighbouring profiles look at each other, in circles around the outline.

    Args:
        features: of each profile.
        width: of the hidden layers.
    """

    def __init__(self, features: int, width: int):
        super().__init__()
        self.across = nn.Linear(features, width)
        self.along = nn.ModuleList(
            nn.Conv1d(width, width, 5, padding=2 * step, dilation=step, padding_mode="circular") for step in (1, 2)
        )
        self.out = nn.Linear(width, 2)

    def forward(self, profiles: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, R, features) profiles to (N, R) offsets in pixels and (N, R) logarithms of their deviation."""
        hidden = F.gelu(self.across(profiles)).transpose(1, 2)
        for layer in self.along:
            hidden = hidden + F.gelu(layer(hidden))
        offset, log_scale = self.out(hidden.transpose(1, 2)).float().unbind(-1)
        return offset, log_scale.clamp(*LOG_SCALE)
