"""A planar simulator of the solids, batched over scenes.

Discs (spheres, cylinders) and squares (cubes) slide on the floor, slow down evenly, and bounce with friction; spheres
slide until they roll. What is believed of a scene is in ``solution.kalman``, what is expected of it in
``solution.rollout``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.classes import CUBE, SHAPES, SPHERE
from data_prep.scene import FRAME_SECONDS, MASS, MOMENT, RADIUS

SUBSTEPS = 16
"""Steps of the simulator per frame."""
SWEEPS = 3
"""How often the impulses along and across a contact are solved for in turn; each changes what the other must be."""
FASTEST_SPIN = 4.0
"""Radians/s; of discs, whose turning is not seen, the filter would believe anything."""
COMPONENTS = 10
"""Of what moves and differs between solids; see :meth:`State.vector`."""
REACH = 2 * 2**0.5 * RADIUS
"""No two solids touch whose axes are farther apart."""


@dataclass(frozen=True)
class Constants:
    """Of the floor, the solids and their labels; units, seconds, radians, the mass of a cylinder."""

    cube_deceleration: float = 0.15
    sphere_deceleration: float = 0.02
    """Until it rolls."""
    cylinder_deceleration: float = 0.15
    deceleration_spread: float = 0.014
    """Standard deviation between objects of a shape."""
    damping: float = 0.06
    spin_deceleration: float = 1.2
    """Radians/s², of all solids; only cubes are seen to turn."""
    elasticity: float = 0.6
    """Of an object; the restitution of two is the product."""
    elasticity_spread: float = 0.06
    """Standard deviation between objects."""
    friction: float = 0.1
    edge_noise: float = 3.0
    """What the standard deviations of tracks are multiplied by: errors of neighbouring edge pixels are alike."""
    margin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Pixels by which the labels of cubes, spheres and cylinders reach beyond their silhouettes."""

    def usual_deceleration(self, shape: Tensor) -> Tensor:
        """Return the deceleration that objects of these shapes (indices into ``classes.SHAPES``) have on average."""
        usual = [getattr(self, f"{name}_deceleration") for name in SHAPES]
        return torch.tensor(usual, device=shape.device)[shape.clamp_min(0)]


@dataclass(frozen=True)
class State:
    """S scenes of K solids seen from above; ``there`` (S, K) bool says which exist."""

    shape: Tensor
    """(S, K) int64 index into ``classes.SHAPES``."""
    there: Tensor
    position: Tensor
    """(S, K, 2)."""
    velocity: Tensor
    """(S, K, 2) units/s."""
    yaw: Tensor
    """(S, K) radians."""
    spin: Tensor
    """(S, K) radians/s."""
    deceleration: Tensor
    """(S, K) units/s²."""
    elasticity: Tensor
    """(S, K); the restitution of two solids is the product of theirs."""
    roll: Tensor
    """(S, K, 2) units/s, the velocity at which a sphere's turning would carry it on; 0 for everything else."""

    def __getitem__(self, scenes) -> State:
        return State(**{f.name: getattr(self, f.name)[scenes] for f in fields(self)})

    def vector(self) -> Tensor:
        """Return (S, K, 10): position, velocity, deceleration, yaw, spin, elasticity, roll."""
        rest = (self.deceleration, self.yaw, self.spin, self.elasticity)
        return torch.cat((self.position, self.velocity, torch.stack(rest, -1), self.roll), -1)

    def with_vector(self, vector: Tensor) -> State:
        """Return the state with these (S, K, 10), as far as they are possible."""
        deceleration, yaw, spin, elasticity = vector[..., 4:8].unbind(-1)
        return replace(
            self,
            position=vector[..., :2],
            velocity=vector[..., 2:4],
            deceleration=deceleration.clamp(0.001, 1.0),
            yaw=yaw,
            spin=spin.clamp(-FASTEST_SPIN, FASTEST_SPIN),
            elasticity=elasticity.clamp(0.0, 1.0),
            roll=vector[..., 8:] * (self.shape == SPHERE)[..., None],
        )

    def repeat(self, times: int) -> State:
        """Return every scene ``times`` times, copies side by side."""
        return State(**{f.name: getattr(self, f.name).repeat_interleave(times, 0) for f in fields(self)})


def advance(
    state: State, constants: Constants, seconds: float = FRAME_SECONDS, substeps: int = SUBSTEPS
) -> tuple[State, Tensor]:
    """Move all scenes on; also return (S, K) float32 how hard each solid was hit (units/s), 0 if it was not."""
    dt = seconds / substeps
    position, velocity = state.position.clone(), state.velocity.clone()
    yaw, spin, roll = state.yaw.clone(), state.spin.clone(), state.roll
    scenes, solids = yaw.shape
    first, second = torch.triu_indices(solids, solids, 1, device=yaw.device)
    both = state.there[:, first] & state.there[:, second]
    hit = torch.zeros_like(yaw)
    disc, elasticity, kind = state.shape != CUBE, state.elasticity.reshape(-1), state.shape.clamp_min(0)
    light = 1 / yaw.new_tensor(MASS)[kind]
    turnable = light / (yaw.new_tensor(MOMENT)[kind] * RADIUS**2)
    # Rubbing on the floor slows a sphere down and turns it, until it rolls.
    turned = (state.shape == SPHERE) / MOMENT[SPHERE]
    grip = 1 / (1 + turned)
    kept = 1 - constants.damping * dt
    for _ in range(substeps):
        before, roll = velocity, roll * kept
        slip = velocity * kept - roll
        lost = (state.deceleration * dt / slip.norm(dim=-1).clamp_min(1e-6)).minimum(grip)[..., None] * slip
        velocity, roll = velocity * kept - lost, roll + turned[..., None] * lost
        spin = spin * (1 - constants.spin_deceleration * dt / spin.abs().clamp_min(1e-6)).clamp_min(0)
        position = position + (before + velocity) * (dt / 2)
        yaw = yaw + spin * dt
        away = position[:, second] - position[:, first]
        scene, pair = (both & (away.square().sum(-1) < REACH**2)).nonzero(as_tuple=True)
        if len(scene) == 0:
            continue
        i, j = scene * solids + first[pair], scene * solids + second[pair]
        p, v, w = position.view(-1, 2), velocity.view(-1, 2), spin.view(-1)
        normal, depth, point = contact(p[i], yaw.view(-1)[i], disc.view(-1)[i], p[j], yaw.view(-1)[j], disc.view(-1)[j])
        arm_i, arm_j = point - p[i], point - p[j]
        relative = v[j] + w[j, None] * perpendicular(arm_j) - v[i] - w[i, None] * perpendicular(arm_i)
        tangent = perpendicular(normal)
        ease_i, ease_j = turnable.view(-1)[i], turnable.view(-1)[j]
        light_i, light_j = light.view(-1)[i], light.view(-1)[j]
        lever_i, lever_j = ((cross(arm, normal), cross(arm, tangent)) for arm in (arm_i, arm_j))
        give = [light_i + light_j + ease_i * a**2 + ease_j * b**2 for a, b in zip(lever_i, lever_j, strict=True)]
        approach, sliding = (relative * normal).sum(-1), (relative * tangent).sum(-1)
        bounce = elasticity[i] * elasticity[j]
        struck = (depth > 0) & (approach < 0)
        # Rubbing turns a square, which presses it closer or farther, and the other way round.
        crossed = ease_i * lever_i[0] * lever_i[1] + ease_j * lever_j[0] * lever_j[1]
        push = rub = torch.zeros_like(approach)
        for _ in range(SWEEPS):
            push = (-((1 + bounce) * approach + crossed * rub) / give[0]).clamp_min(0) * struck
            limit = constants.friction * push
            rub = (-(sliding + crossed * push) / give[1]).clamp(-limit, limit)
        impulse = push[:, None] * normal + rub[:, None] * tangent
        turn_i, turn_j = -ease_i * cross(arm_i, impulse), ease_j * cross(arm_j, impulse)
        kick_i, kick_j = -light_i[:, None] * impulse, light_j[:, None] * impulse
        v.index_add_(0, i, kick_i)
        v.index_add_(0, j, kick_j)
        w.index_add_(0, i, turn_i)
        w.index_add_(0, j, turn_j)
        # They met before the step's end and have moved as after the hit since; what only overlaps is pushed apart.
        since = torch.where(struck, depth / -approach.clamp_max(-1e-6), 0.0).clamp_max(dt)
        apart = torch.where(struck, 0.0, 0.4 * depth.clamp_min(0))[:, None] * normal
        p.index_add_(0, i, kick_i * since[:, None] - apart)
        p.index_add_(0, j, kick_j * since[:, None] + apart)
        yaw.view(-1).index_add_(0, i, turn_i * since)
        yaw.view(-1).index_add_(0, j, turn_j * since)
        hit.view(-1).index_add_(0, i, light_i * push)
        hit.view(-1).index_add_(0, j, light_j * push)
    return replace(state, position=position, velocity=velocity, yaw=yaw, spin=spin, roll=roll), hit


def contact(p_i, yaw_i, disc_i, p_j, yaw_j, disc_j) -> tuple[Tensor, Tensor, Tensor]:
    """Return (N, 2) unit normals from solid i to j, (N,) depths (negative: apart) and (N, 2) points of contact."""
    # A disc is always j, so that three cases are left.
    swap = disc_i & ~disc_j
    p_i, p_j = torch.where(swap[:, None], p_j, p_i), torch.where(swap[:, None], p_i, p_j)
    yaw_i, yaw_j = torch.where(swap, yaw_j, yaw_i), torch.where(swap, yaw_i, yaw_j)
    disc_i, disc_j = disc_i & disc_j, disc_i | disc_j
    away = p_j - p_i
    distance = away.norm(dim=1).clamp_min(1e-6)
    axis_i, axis_j = heading(yaw_i), heading(yaw_j)

    normal = away / distance[:, None]
    depth = 2 * RADIUS - distance
    point = (p_i + p_j) / 2

    # Square i, disc j: the square's nearest point.
    local = torch.stack(((away * axis_i).sum(1), cross(axis_i, away)), 1)
    nearest = local.clamp(-RADIUS, RADIUS)
    out = local - nearest
    gap = out.norm(dim=1)
    inside = gap < 1e-6
    face = torch.nn.functional.one_hot(local.abs().argmax(1), 2) * local.sign()
    out = torch.where(inside[:, None], face, out / gap.clamp_min(1e-6)[:, None])
    gap = torch.where(inside, local.abs().amax(1) - RADIUS, gap)
    case = ~disc_i & disc_j
    to_world = lambda q: q[:, :1] * axis_i + q[:, 1:] * perpendicular(axis_i)  # noqa: E731
    normal = torch.where(case[:, None], to_world(out), normal)
    depth = torch.where(case, RADIUS - gap, depth)
    point = torch.where(case[:, None], p_i + to_world(nearest), point)

    # Two squares: of the four edge directions the one of least overlap.
    axes = torch.stack((axis_i, perpendicular(axis_i), axis_j, perpendicular(axis_j)), 1)  # (N, 4, 2)
    along = (axes * away[:, None]).sum(-1)
    relative = yaw_j - yaw_i
    overlap = RADIUS * (1 + relative.cos().abs() + relative.sin().abs())[:, None] - along.abs()
    least, which = overlap.min(1)
    row = torch.arange(len(which), device=which.device)
    direction = axes[row, which] * along[row, which].sign()[:, None]
    of_i = which < 2
    # The square whose corner or edge meets the other's face, seen along the face's normal.
    owner, guest = torch.where(of_i[:, None], p_i, p_j), torch.where(of_i[:, None], p_j, p_i)
    inward = torch.where(of_i[:, None], -direction, direction)  # from the guest to the owner
    axis = torch.where(of_i[:, None], axis_j, axis_i)
    other = perpendicular(axis)
    a, b = (inward * axis).sum(1), (inward * other).sum(1)
    steep = (a.abs() >= b.abs())[:, None]
    main = torch.where(steep, axis * a.sign()[:, None], other * b.sign()[:, None])
    edge = torch.where(steep, other, axis)
    face = perpendicular(inward)
    points, weights = [], []
    for side in (-1.0, 1.0):
        corner = guest + RADIUS * (main + side * edge)
        below = least - RADIUS * ((a.abs() + b.abs()) - (inward * (main + side * edge)).sum(1))
        slide = ((corner - owner) * face).sum(1)
        points.append(corner + (slide.clamp(-RADIUS, RADIUS) - slide)[:, None] * face)
        weights.append((below + 0.01).clamp_min(1e-4))
    meeting = (points[0] * weights[0][:, None] + points[1] * weights[1][:, None]) / (weights[0] + weights[1])[:, None]
    case = ~disc_i & ~disc_j
    normal = torch.where(case[:, None], direction, normal)
    depth = torch.where(case, least, depth)
    point = torch.where(case[:, None], meeting, point)
    return torch.where(swap[:, None], -normal, normal), depth, point


def heading(yaw: Tensor) -> Tensor:
    return torch.stack((yaw.cos(), yaw.sin()), -1)


def perpendicular(vectors: Tensor) -> Tensor:
    return torch.stack((-vectors[..., 1], vectors[..., 0]), -1)


def cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
