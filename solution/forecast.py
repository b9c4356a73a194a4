"""The distribution of object states in the coming frames: returned by simulator and network, rendered and scored."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Forecast:
    """Mixtures of M trajectories for B clips of K objects over the frames to come."""

    logits: Tensor
    """(B, K, M) of the mixture's weights."""
    mean: Tensor
    """(B, K, M, F, 2) world positions."""
    scale: Tensor
    """(B, K, M, F) Laplace scale of both coordinates, world units."""
    turn: Tensor
    """(B, K, M, 2) cosine and sine, up to a factor, of four times the yaw in the last frame."""
    visible: Tensor
    """(B, K) logit that the object is seen in the last frame."""
