"""What the simulator expects after a clip, in many versions."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from solution.kalman import Belief
from solution.motion import doubted
from solution.physics import Constants, State, advance, stacked


def roll_out(belief: Belief, constants: Constants, frames: int, versions: int) -> tuple[Tensor, Tensor]:
    """Return (B, K, M, 2) positions and (B, K, M) yaws of K objects so many frames after what is believed of B clips.

    The first of M ``versions`` follows the mean state, and leaves hits as the simulator says. The others follow states
    drawn around it, each under laws drawn around the constants, and leave hits with a velocity that the simulator does
    not know exactly; always the same.
    """
    state, law = belief.state, constants
    if versions > 1:
        drawn = belief.sample(versions - 1)
        pairs = {f.name: (getattr(state, f.name), getattr(drawn, f.name)) for f in fields(State)}
        join = {n: torch.cat((a[:, None], b.unflatten(0, (len(a), -1))), 1) for n, (a, b) in pairs.items()}
        state = State(**{name: tensor.flatten(0, 1) for name, tensor in join.items()})
        clips = len(drawn.yaw) // (versions - 1)
        laws = vars(stacked([constants, *doubted(constants, versions - 1)], 1))
        law = Constants(**{name: part.repeat(clips, 1).to(state.yaw) for name, part in laws.items()})
    random = torch.Generator().manual_seed(0)
    scenes, solids = state.there.shape
    for _ in range(frames):
        state, hit = advance(state, law)
        noise = torch.randn(versions, solids, 2, generator=random)
        noise[0] = 0
        noise = constants.hit_noise * noise.to(hit.device).repeat(scenes // versions, 1, 1)
        state = replace(state, velocity=state.velocity + noise * hit[..., None])
    position, yaw = (part.unflatten(0, (-1, versions)).transpose(1, 2) for part in (state.position, state.yaw))
    return position, yaw
