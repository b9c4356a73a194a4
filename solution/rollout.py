"""What the simulator expects of a clip, in many versions."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from solution.kalman import observe
from solution.physics import Constants, State, advance
from solution.tracks import Tracks


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
    """(B, K, 2) standard deviations of position and velocity at the last frame of the clip."""


def roll_out(history: Tracks, constants: Constants, frames: int, versions: int) -> Rollout:
    """Simulate ``frames`` frames after the clip, once from the mean state and else from states drawn around it."""
    belief = observe(history, constants)
    videos = len(history)
    state = belief.state
    if versions > 1:
        drawn = belief.sample(versions - 1)
        pairs = {f.name: (getattr(state, f.name), getattr(drawn, f.name)) for f in fields(State)}
        join = {n: torch.cat((a[:, None], b.unflatten(0, (videos, -1))), 1) for n, (a, b) in pairs.items()}
        state = State(**{name: tensor.flatten(0, 1) for name, tensor in join.items()})
    state, path, hits = simulate(state, constants, frames, versions)
    split = lambda x: x.unflatten(0, (videos, versions)).transpose(1, 2)  # noqa: E731  (B, K, M, ...)
    doubt = belief.variance()[..., [0, 2]].sqrt()
    return Rollout(split(path), split(state.yaw), split(hits), belief.state.velocity, doubt)


def simulate(state: State, constants: Constants, frames: int, versions: int = 1) -> tuple[State, Tensor, Tensor]:
    """Return the states after so many frames, and per frame (S, K, F, 2) positions and (S, K, F) hits.

    Of every ``versions`` scenes side by side all but the first leave a hit with a velocity that the simulator does not
    know exactly, always the same.
    """
    random = torch.Generator().manual_seed(0)
    scenes, solids = state.there.shape
    path, hits = [], []
    for _ in range(frames):
        state, hit = advance(state, constants)
        noise = torch.randn(versions, solids, 2, generator=random)
        noise[0] = 0
        noise = constants.hit_noise * noise.to(hit.device).repeat(scenes // versions, 1, 1)
        state = replace(state, velocity=state.velocity + noise * hit[..., None])
        path.append(state.position)
        hits.append(hit)
    return state, torch.stack(path, 2), torch.stack(hits, 2)
