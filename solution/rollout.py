"""What the simulator expects of a clip, in many versions, and the fit of its constants to whole videos' tracks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.scene import RADIUS
from solution.kalman import observe
from solution.physics import COMPONENTS, Constants, State, advance
from solution.tracks import Tracks

SEARCHED = {"deceleration": 1.15, "elasticity": 1.1, "friction": 2.0, "spin_deceleration": 2.0}
"""Constants that are fitted, and the factor by which they are first changed. The error of the mean path hardly tells
the others; they were chosen for the IoU of objects on stand-in and rendered videos."""
FITTED_ON = 200


@dataclass(frozen=True)
class Rollout:
    """What the simulator expects of B clips of K objects over F frames, in M versions; the first is the mean's."""

    path: Tensor
    """(B, K, M, F, 2) positions."""
    yaw: Tensor
    """(B, K, M) in the last frame."""
    hit: Tensor
    """(B, K, M, F) how hard each object was hit since the frame before, units/s."""
    velocity: Tensor
    """(B, K, 2) mean at the last frame of the clip, units/s."""
    doubt: Tensor
    """(B, K, 3) standard deviations of position, velocity and deceleration at the last frame of the clip."""


def roll_out(history: Tracks, constants: Constants, frames: int, versions: int) -> Rollout:
    """Simulate ``frames`` frames after the clip, once from the mean state and else from states drawn around it."""
    belief = observe(history, constants)
    videos, objects = belief.state.yaw.shape
    state = belief.state
    if versions > 1:
        drawn = belief.sample(versions - 1)
        pairs = {f.name: (getattr(state, f.name), getattr(drawn, f.name)) for f in fields(State)}
        join = {n: torch.cat((a[:, None], b.unflatten(0, (videos, -1))), 1) for n, (a, b) in pairs.items()}
        state = State(**{name: tensor.flatten(0, 1) for name, tensor in join.items()})
    path, hits = [], []
    for _ in range(frames):
        state, hit = advance(state, constants)
        path.append(state.position)
        hits.append(hit)
    split = lambda x: x.unflatten(0, (videos, versions)).transpose(1, 2)  # noqa: E731  (B, K, M, ...)
    variance = belief.covariance.diagonal(dim1=1, dim2=2).unflatten(1, (objects, COMPONENTS)).float()
    doubt = variance[..., [0, 2, 4]].clamp_min(0).sqrt()
    return Rollout(
        split(torch.stack(path, 2)), split(state.yaw), split(torch.stack(hits, 2)), belief.state.velocity, doubt
    )


def fit_constants(tracks: Tracks, future: slice, start: Constants) -> Constants:
    """Return the constants that foresee best where objects are in the frames ``future``, by a coordinate search.

    Args:
        tracks: of whole videos; the first ``FITTED_ON`` are looked at. What comes before ``future`` is observed.
        future: the last frames of the videos.
        start: where the search starts; constants that are not in ``SEARCHED`` stay.
    """
    tracks = tracks[slice(FITTED_ON)]
    history, coming = tracks.frames(slice(future.start)), tracks.frames(future)
    known = coming.visible & history.visible.any(1)[:, None]

    def quality(constants: Constants) -> float:
        path = roll_out(history, constants, coming.visible.shape[1], 1).path[:, :, 0].transpose(1, 2)
        error = (path - coming.position).norm(dim=-1)
        # About the share of the silhouette that is met.
        return float((1 - error / (1.5 * RADIUS)).clamp_min(0)[known].mean())

    best = start
    reached = quality(best)
    for shrink in (1.0, 0.5):
        for name, factor in SEARCHED.items():
            for step in (factor**shrink, factor**-shrink):
                tried = replace(best, **{name: getattr(best, name) * step})
                found = quality(tried)
                while found > reached:
                    best, reached = tried, found
                    tried = replace(best, **{name: getattr(best, name) * step})
                    found = quality(tried)
    return best
