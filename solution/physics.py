"""A planar simulator of the solids, batched over scenes.

Discs (spheres, cylinders) and squares (cubes) slide on the floor, slowed down by friction and air, and bounce with
friction; spheres slide until they roll. What is believed of a scene is in ``solution.kalman``, what is expected of it
in ``solution.rollout``, and how the constants are fitted in ``solution.motion``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.classes import CUBE, CYLINDER, SHAPES, SPHERE
from data_prep.scene import FRAME_SECONDS, MOMENT, RADIUS

SUBSTEPS = 16
"""Steps of the simulator per frame."""
SWEEPS = 3
"""How often the impulses along and across a contact are solved for in turn; each changes what the other must be."""
FASTEST, FASTEST_SPIN = 8.0, 4.0
"""Units/s along each axis, and radians/s: of what is poorly seen, and of discs' turning, the filter would believe
anything."""
COMPONENTS = 8
"""Of what moves; see :meth:`State.vector`."""
REACH = 2 * 2**0.5 * RADIUS
"""No two solids touch whose axes are farther apart."""


@dataclass(frozen=True)
class Constants:
    """Of the floor, the solids and their labels; units, seconds, radians, the mass of a cylinder.

    Triples are of cubes, spheres and cylinders. The defaults were read off real videos of the competition.
    """

    deceleration: tuple[float, float, float] = (0.14, 0.08, 0.138)
    """Loss of speed by Coulomb friction while a solid slides, units/s²; a sphere slides until it rolls."""
    damping: float = 0.035
    """Relative loss of speed per second, and of spin."""
    drag: float = 0.035
    """The same per unit/s of the speed."""
    spin_deceleration: float = 1.8
    """Radians/s², of all solids; only cubes are seen to turn."""
    mass: tuple[float, float, float] = (0.95, 0.8, 1.0)
    restitution: tuple[float, ...] = (0.27, 0.13, 0.4, 0.37, 0.18, 0.38)
    """Of fast hits between shapes, in the order of ``PAIRS``."""
    dullness: float = 0.08
    """Units/s that a hit takes off the speed at which two solids part: slow ones stay together."""
    friction: float = 0.035
    """Between two solids."""
    rolled: float = 0.9
    """Slip that a sphere loses in a hit, at most, per unit/s that it changes the velocity by."""
    size: float = 1.015
    """Of the solids when they touch, against what is seen of them."""
    edge_noise: float = 3.0
    """What the standard deviations of tracks are multiplied by: errors of neighbouring edge pixels are alike."""
    hit_noise: float = 0.045
    """Standard deviation of each component of the velocity after a hit, per unit/s that it changed."""
    first_roll: tuple[float, float] = (0.3, 0.3)
    """Mean and standard deviation of the share of its speed with which a sphere that comes into view rolls."""
    drift: tuple[float, float, float] = (0.012, 0.005, 0.005)
    """Standard deviation that a frame adds to each component of the velocity, units/s; cubes veer."""
    margin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Pixels by which the labels of cubes, spheres and cylinders reach beyond their silhouettes."""


PAIRS = ((CUBE, CUBE), (CUBE, SPHERE), (CUBE, CYLINDER), (SPHERE, SPHERE), (SPHERE, CYLINDER), (CYLINDER, CYLINDER))
"""Of shapes that hit each other; see ``Constants.restitution``."""
PAIR_OF = [[PAIRS.index((min(a, b), max(a, b))) for b in range(len(SHAPES))] for a in range(len(SHAPES))]


def stacked(laws: Sequence[Constants], scenes: int) -> Constants:
    """Return the constants of so many scenes of each law, one law after the other: (S, 1) or, where parts, (S, n)."""
    columns = {f.name: torch.tensor([getattr(law, f.name) for law in laws]) for f in fields(Constants)}
    return Constants(**{n: c.view(len(laws), -1).repeat_interleave(scenes, 0) for n, c in columns.items()})


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
    roll: Tensor
    """(S, K, 2) units/s, the velocity at which a sphere's turning would carry it on; 0 for everything else."""

    def __getitem__(self, scenes) -> State:
        return State(**{f.name: getattr(self, f.name)[scenes] for f in fields(self)})

    def vector(self) -> Tensor:
        """Return (S, K, 8): position, velocity, yaw, spin, roll."""
        return torch.cat((self.position, self.velocity, torch.stack((self.yaw, self.spin), -1), self.roll), -1)

    def with_vector(self, vector: Tensor) -> State:
        """Return the state with these (S, K, 8), as far as they are possible."""
        return replace(
            self,
            position=vector[..., :2],
            velocity=vector[..., 2:4].clamp(-FASTEST, FASTEST),
            yaw=vector[..., 4],
            spin=vector[..., 5].clamp(-FASTEST_SPIN, FASTEST_SPIN),
            roll=vector[..., 6:].clamp(-FASTEST, FASTEST) * (self.shape == SPHERE)[..., None],
        )

    def repeat(self, times: int) -> State:
        """Return every scene ``times`` times, copies side by side."""
        return State(**{f.name: getattr(self, f.name).repeat_interleave(times, 0) for f in fields(self)})


def advance(
    state: State, constants: Constants, seconds: float = FRAME_SECONDS, substeps: int = SUBSTEPS
) -> tuple[State, Tensor]:
    """Move all scenes on; also return (S, K) float32 how hard each solid was hit (units/s), 0 if it was not.

    All scenes have the same constants, or each its own of :func:`stacked`.
    """
    dt = seconds / substeps
    differ = torch.is_tensor(constants.size)

    def parts(values, which: Tensor) -> Tensor:
        """Return those of the constant's parts that solids or pairs ``which`` (S, n) of all scenes have."""
        return values.gather(1, which) if differ else yaw.new_tensor(values)[which]

    def at(value, scene: Tensor):
        """Return a constant of the scenes of some pairs (N,)."""
        return value[scene, 0] if differ else value

    position, velocity = state.position.clone(), state.velocity.clone()
    yaw, spin, roll = state.yaw.clone(), state.spin.clone(), state.roll
    scenes, solids = yaw.shape
    first, second = torch.triu_indices(solids, solids, 1, device=yaw.device)
    both = state.there[:, first] & state.there[:, second]
    hit = torch.zeros_like(yaw)
    kind, sphere = state.shape.clamp_min(0), (state.shape == SPHERE).to(yaw)
    disc = state.shape != CUBE
    light = 1 / parts(constants.mass, kind)
    turnable = light / (yaw.new_tensor(MOMENT)[kind] * RADIUS**2)
    friction = dt * parts(constants.deceleration, kind)
    restitution = parts(constants.restitution, kind.new_tensor(PAIR_OF)[kind[:, first], kind[:, second]])
    # Rubbing on the floor slows a sphere down and turns it, until it rolls.
    turned = sphere / MOMENT[SPHERE]
    grip = 1 / (1 + turned)
    touching = (REACH * constants.size) ** 2
    for _ in range(substeps):
        before = velocity
        kept = (1 - dt * (constants.damping + constants.drag * velocity.norm(dim=-1)))[..., None]
        roll = roll * kept
        slip = velocity * kept - roll
        lost = (friction / slip.norm(dim=-1).clamp_min(1e-6)).minimum(grip)[..., None] * slip
        velocity, roll = velocity * kept - lost, roll + turned[..., None] * lost
        braked = constants.damping * dt + constants.spin_deceleration * dt / spin.abs().clamp_min(1e-6)
        spin = spin * (1 - braked).clamp_min(0)
        position = position + (before + velocity) * (dt / 2)
        yaw = yaw + spin * dt
        away = position.index_select(1, second) - position.index_select(1, first)
        scene, pair = (both & (away.square().sum(-1) < touching)).nonzero(as_tuple=True)
        if len(scene) == 0:
            continue
        i, j = scene * solids + first[pair], scene * solids + second[pair]
        p, v, w = position.view(-1, 2), velocity.view(-1, 2), spin.view(-1)
        size = constants.size[scene] if differ else constants.size
        places = (p[i] / size, yaw.view(-1)[i], disc.view(-1)[i])
        normal, depth, point = contact(*places, p[j] / size, yaw.view(-1)[j], disc.view(-1)[j])
        depth, point = depth * at(constants.size, scene), point * size
        arm_i, arm_j = point - p[i], point - p[j]
        relative = v[j] + w[j, None] * perpendicular(arm_j) - v[i] - w[i, None] * perpendicular(arm_i)
        tangent = perpendicular(normal)
        ease_i, ease_j = turnable.view(-1)[i], turnable.view(-1)[j]
        light_i, light_j = light.view(-1)[i], light.view(-1)[j]
        lever_i, lever_j = ((cross(arm, normal), cross(arm, tangent)) for arm in (arm_i, arm_j))
        give = [light_i + light_j + ease_i * a**2 + ease_j * b**2 for a, b in zip(lever_i, lever_j, strict=True)]
        approach, sliding = (relative * normal).sum(-1), (relative * tangent).sum(-1)
        parting = (-restitution[scene, pair] * approach - at(constants.dullness, scene)).clamp_min(0)
        struck = (depth > 0) & (approach < 0)
        # Rubbing turns a square, which presses it closer or farther, and the other way round.
        crossed = ease_i * lever_i[0] * lever_i[1] + ease_j * lever_j[0] * lever_j[1]
        push = rub = torch.zeros_like(approach)
        for _ in range(SWEEPS):
            push = ((parting - approach - crossed * rub) / give[0]).clamp_min(0) * struck
            limit = at(constants.friction, scene) * push
            rub = (-(sliding + crossed * push) / give[1]).clamp(-limit, limit)
        impulse = push[:, None] * normal + rub[:, None] * tangent
        turn_i, turn_j = -ease_i * cross(arm_i, impulse), ease_j * cross(arm_j, impulse)
        kick_i, kick_j = -light_i[:, None] * impulse, light_j[:, None] * impulse
        # They met before the step's end and have moved as after the hit since; what only overlaps is pushed apart.
        since = torch.where(struck, depth / -approach.clamp_max(-1e-6), 0.0).clamp_max(dt)
        apart = torch.where(struck, 0.0, 0.4 * depth.clamp_min(0))[:, None] * normal
        changed = torch.zeros_like(yaw)
        for one, kick, turn, ease, way in ((i, kick_i, turn_i, light_i, -1), (j, kick_j, turn_j, light_j, 1)):
            v.index_add_(0, one, kick)
            w.index_add_(0, one, turn)
            p.index_add_(0, one, kick * since[:, None] + way * apart)
            yaw.view(-1).index_add_(0, one, turn * since)
            changed.view(-1).index_add_(0, one, ease * push)
        hit = hit + changed
        slip = velocity - roll
        gripped = sphere * (constants.rolled * changed / slip.norm(dim=-1).clamp_min(1e-6)).clamp_max(1)
        roll = roll + gripped[..., None] * slip
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
