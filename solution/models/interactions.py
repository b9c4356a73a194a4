"""An interaction network (Battaglia et al. 2016): objects slide on in small steps, and those near each other push.

It is a head of ``solution.models.dynamics``, which says in what state every object starts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_prep.scene import FRAME_SECONDS
from solution.models.dynamics import SMALLEST_SCALE

SUBSTEPS = 4
"""Per frame: what comes in fast moves by a third of its size in each."""
REACH = 0.8
"""World units between centres from which nothing pushes; two cubes corner to corner are .57 apart."""
PROPERTIES = 48
"""Of an object: what it is, how it brakes, how it bounces."""


def perceptron(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    """Return three layers of which the last starts near zero: at first nothing pushes or brakes."""
    layers = nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
    nn.init.normal_(layers[-1].weight, std=0.01)
    nn.init.zeros_(layers[-1].bias)
    return nn.Sequential(*layers)


class Interactions(nn.Module):
    """Rolls objects out; takes and returns what ``solution.models.dynamics.Offsets`` does, in as many frames.

    All trajectories of one number belong together: in each the objects of a clip meet each other.
    """

    def __init__(self, width: int, horizon: int):
        super().__init__()
        self.horizon = horizon
        self.start = nn.Linear(width, PROPERTIES + 7)
        self.scale = nn.Linear(width, horizon)
        self.push = perceptron(2 * PROPERTIES + 9, 3)
        self.brake = perceptron(PROPERTIES + 1, 2)
        nn.init.normal_(self.start.weight, std=0.02)

    def forward(
        self, hidden: Tensor, present: Tensor, anchor: Tensor, facing: Tensor, velocity: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale = SMALLEST_SCALE + functional.softplus(self.scale(hidden).float() - 2.0)
        start = self.start(hidden).float().transpose(1, 2)
        # A third of a pixel matters, and bfloat16 has no more than that.
        with torch.autocast(hidden.device.type, enabled=False):
            mean, turn = self.roll(start, present, *(x.float().transpose(1, 2) for x in (anchor, facing)), velocity)
        return start[..., -1].transpose(1, 2), mean.transpose(1, 2), scale, turn.transpose(1, 2)

    def roll(
        self, start: Tensor, present: Tensor, anchor: Tensor, facing: Tensor, velocity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (B, M, K, F, 2) places and (B, M, K, 2) cosine and sine of four times the last yaw, times a factor."""
        step = FRAME_SECONDS / SUBSTEPS
        properties, offset, change, spin, sureness, _ = start.split((PROPERTIES, 2, 2, 1, 1, 1), -1)
        place = anchor[..., 0, :] + 0.1 * offset
        velocity = velocity[:, None] / FRAME_SECONDS + change
        cube = facing.norm(dim=-1, keepdim=True)
        yaw = torch.atan2(facing[..., 1:], facing[..., :1].where(cube > 0, 1.0))  # four times it
        apart = (
            present[:, :, None] & present[:, None] & ~torch.eye(place.shape[2], dtype=torch.bool, device=place.device)
        )
        places = []
        for _ in range(self.horizon):
            for _ in range(SUBSTEPS):
                pushed = self.pushes(properties, place, velocity, yaw, spin, cube, apart)
                speed = velocity.square().sum(-1, keepdim=True).clamp_min(1e-6).sqrt()
                slower, calmer = functional.softplus(self.brake(torch.cat((properties, speed), -1)) - 1.0).split(1, -1)
                velocity = velocity * (1 - step * slower / speed).clamp_min(0) + pushed[..., :2]
                spin = spin * (1 - step * calmer).clamp_min(0) + pushed[..., 2:]
                place, yaw = place + step * velocity, yaw + 4 * step * spin
            places.append(place)
        turn = torch.cat((yaw.cos(), yaw.sin()), -1) * cube * functional.softplus(5 * sureness)
        return torch.stack(places, -2), turn

    def pushes(
        self,
        properties: Tensor,
        place: Tensor,
        velocity: Tensor,
        yaw: Tensor,
        spin: Tensor,
        cube: Tensor,
        apart: Tensor,
    ) -> Tensor:
        """Return (B, M, K, 3) by how much what is near changes each object's velocity and spin in a step."""
        away = place[:, :, None] - place[:, :, :, None]  # (B, M, K, K, 2) from each to each other
        near = (away.detach().square().sum(-1) < REACH**2) & apart[:, None]
        clip, mode, one, other = near.nonzero(as_tuple=True)
        away = away[clip, mode, one, other]
        distance = away.square().sum(-1, keepdim=True).clamp_min(1e-6).sqrt()
        along = away / distance
        across = torch.stack((-along[:, 1], along[:, 0]), -1)
        closing = velocity[clip, mode, other] - velocity[clip, mode, one]
        seen = [distance, (closing * along).sum(-1, keepdim=True), (closing * across).sum(-1, keepdim=True)]
        direction = 4 * torch.atan2(along[:, 1:], along[:, :1])
        for each in (one, other):
            angle, is_cube = yaw[clip, mode, each] - direction, cube[clip, mode, each]
            seen += [angle.cos() * is_cube, angle.sin() * is_cube, spin[clip, mode, each]]
        known = properties[clip, mode, one], properties[clip, mode, other]
        push = self.push(torch.cat((*known, *seen), -1))
        push = torch.cat((push[:, :1] * along + push[:, 1:2] * across, push[:, 2:]), -1)
        none = place.new_zeros(*place.shape[:-1], 3)
        return none.index_put((clip, mode, one), push, accumulate=True)
