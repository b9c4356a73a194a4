"""A planar simulator of the solids, batched over scenes, and what it is for: reading states and foreseeing.

Discs (spheres, cylinders) and squares (cubes) slide on the floor, slow down evenly, and bounce with friction. The few
constants are fitted to the tracks of training videos; nothing here learns or draws.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.scene import FRAME_SECONDS, RADIUS
from solution.tracks import QUARTER, Tracks

SUBSTEPS = 12
"""Steps of the simulator per frame."""
REACH = 2 * 2**0.5 * RADIUS
"""No two solids touch whose axes are farther apart."""


@dataclass(frozen=True)
class Constants:
    """Of the floor and of the solids; units, seconds, radians, mass 1."""

    deceleration: float = 0.215
    deceleration_spread: float = 0.05
    """Standard deviation between objects."""
    damping: float = 0.06
    spin_deceleration: float = 1.2
    restitution: float = 0.5
    restitution_spread: float = 0.05
    friction: float = 0.1
    edge_noise: float = 8.0
    """What the standard deviations of tracks are multiplied by: errors of neighbouring edge pixels are alike."""
    doubt: float = 0.6
    """What the filter's standard deviations are multiplied by to be true."""


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
    restitution: Tensor
    """(S,) of all contacts of a scene."""

    def repeat(self, times: int) -> State:
        """Return every scene ``times`` times, copies side by side."""
        return State(**{f.name: getattr(self, f.name).repeat_interleave(times, 0) for f in fields(self)})


def advance(state: State, constants: Constants, seconds: float, substeps: int) -> tuple[State, Tensor]:
    """Move all scenes on; also return (S, K) float32 how hard each solid was hit (units/s), 0 if it was not."""
    dt = seconds / substeps
    position, velocity = state.position.clone(), state.velocity.clone()
    yaw, spin = state.yaw.clone(), state.spin.clone()
    scenes, solids = yaw.shape
    first, second = torch.triu_indices(solids, solids, 1, device=yaw.device)
    both = state.there[:, first] & state.there[:, second]
    hit = torch.zeros_like(yaw)
    disc = state.shape != 0
    # Inverse moments: a square's is a²/6, a cylinder's r²/2, a sphere's 2r²/5.
    turnable = torch.tensor([6 / (2 * RADIUS) ** 2, 2.5 / RADIUS**2, 2 / RADIUS**2], device=yaw.device)[
        state.shape.clamp_min(0)
    ]
    for _ in range(substeps):
        speed = velocity.norm(dim=-1)
        slower = 1 - state.deceleration * dt / speed.clamp_min(1e-6) - constants.damping * dt
        velocity = velocity * slower.clamp_min(0)[..., None]
        spin = spin * (1 - constants.spin_deceleration * dt / spin.abs().clamp_min(1e-6)).clamp_min(0)
        position = position + velocity * dt
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

        def give(direction, arm_i=arm_i, arm_j=arm_j, ease_i=ease_i, ease_j=ease_j):
            return 2 + ease_i * cross(arm_i, direction) ** 2 + ease_j * cross(arm_j, direction) ** 2

        approach = (relative * normal).sum(-1)
        push = -(1 + state.restitution[scene]) * approach / give(normal)
        push = torch.where((depth > 0) & (approach < 0), push, 0.0)
        limit = constants.friction * push
        rub = (-(relative * tangent).sum(-1) / give(tangent)).clamp(-limit, limit)
        impulse = push[:, None] * normal + rub[:, None] * tangent
        v.index_add_(0, i, -impulse)
        v.index_add_(0, j, impulse)
        w.index_add_(0, i, -ease_i * cross(arm_i, impulse))
        w.index_add_(0, j, ease_j * cross(arm_j, impulse))
        apart = 0.4 * depth.clamp_min(0)[:, None] * normal
        p.index_add_(0, i, -apart)
        p.index_add_(0, j, apart)
        hit.view(-1).index_add_(0, i, push)
        hit.view(-1).index_add_(0, j, push)
    return replace(state, position=position, velocity=velocity, yaw=yaw, spin=spin), hit


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


@dataclass(frozen=True)
class Belief:
    """What is known of the solids after some frames: a mean state and its uncertainty."""

    state: State
    covariance: Tensor
    """(S, K, 5, 5) of position, velocity and deceleration."""
    turn_variance: Tensor
    """(S, K, 2, 2) of yaw and spin."""

    def sample(self, count: int, constants: Constants, seed: int = 0) -> State:
        """Return ``count`` states per scene; the draws are the same for every object."""
        state = self.state
        random = torch.Generator().manual_seed(seed)
        scenes, solids = state.yaw.shape
        noise = torch.randn(count, 8, generator=random).to(state.yaw.device)
        root = square_root(self.covariance)
        moved = torch.einsum("skij,nj->snki", root, noise[:, :5]).flatten(0, 1)
        root = square_root(self.turn_variance)
        turned = torch.einsum("skij,nj->snki", root, noise[:, 5:7]).flatten(0, 1)
        many = state.repeat(count)
        restitution = many.restitution + constants.restitution_spread * noise[:, 7].repeat(scenes)
        return replace(
            many,
            position=many.position + moved[..., :2],
            velocity=many.velocity + moved[..., 2:4],
            deceleration=(many.deceleration + moved[..., 4]).clamp(0.02, 1.0),
            yaw=many.yaw + turned[..., 0],
            spin=many.spin + turned[..., 1],
            restitution=restitution.clamp(0.0, 1.0),
        )


LEAST_YAW_NOISE = 0.005
"""Standard deviation of a cube's observed yaw beyond its outline's, radians."""
FIRST_PLACE = 0.01
"""Standard deviation of an object's first position beyond its outline's, units: it is mostly cut by the border."""
FIRST_SPEED = 1.0
"""Standard deviation of each velocity component of what has just come into view, units/s."""
FIRST_SPIN = 0.5
SURPRISE = 16.0
"""Squared Mahalanobis distance from which an observation means a hit that the simulator did not foresee."""


def square_root(covariance: Tensor) -> Tensor:
    """Return (..., n, n) whose product with its transpose is the covariance, even where that came out indefinite."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors * values.clamp_min(0).sqrt()[..., None, :]).float()


def observe(tracks: Tracks, constants: Constants, substeps: int = SUBSTEPS) -> Belief:
    """Follow all objects through the tracks' frames with a Kalman filter whose motion model is the simulator."""
    videos, frames, slots = tracks.visible.shape
    device = tracks.position.device
    zero = torch.zeros(videos, slots, device=device)
    state = State(
        shape=tracks.shape,
        there=torch.zeros(videos, slots, dtype=torch.bool, device=device),
        position=torch.zeros(videos, slots, 2, device=device),
        velocity=torch.zeros(videos, slots, 2, device=device),
        yaw=zero,
        spin=zero,
        deceleration=zero + constants.deceleration,
        restitution=torch.full((videos,), constants.restitution, device=device),
    )
    covariance = torch.eye(5, device=device).expand(videos, slots, 5, 5)
    turn = torch.eye(2, device=device).expand(videos, slots, 2, 2)
    unknown = torch.tensor([FIRST_SPEED**2, FIRST_SPEED**2, constants.deceleration_spread**2], device=device).diag()
    first = FIRST_PLACE**2 * torch.eye(2, device=device)
    unknown_spin = torch.full((1, 1), FIRST_SPIN**2, device=device)
    cube = tracks.shape == 0
    for frame in range(frames):
        if frame:
            before = state
            state, hit = advance(state, constants, FRAME_SECONDS, substeps)
            covariance, turn = _blur(before, covariance, turn, hit)
        seen = tracks.visible[:, frame]
        known = seen & state.there
        new = seen & ~state.there
        where, yaw = tracks.position[:, frame], tracks.yaw[:, frame]
        noise = constants.edge_noise**2 * tracks.covariance[:, frame]
        yaw_noise = noise[..., 2, 2] + LEAST_YAW_NOISE**2
        noise = noise[..., :2, :2]

        gap = where - state.position
        spread = covariance[..., :2, :2] + noise
        distance = (gap[..., None, :] @ torch.linalg.inv(spread) @ gap[..., None])[..., 0, 0]
        surprised = known & (distance > SURPRISE)
        shock = torch.where(surprised[..., None, None], _shock(gap), 0.0)
        covariance = covariance + shock
        spread = covariance[..., :2, :2] + noise
        gain = covariance[..., :, :2] @ torch.linalg.inv(spread) * known[..., None, None]
        change = (gain @ gap[..., None])[..., 0]
        covariance = covariance - gain @ covariance[..., :2, :]
        covariance = (covariance + covariance.transpose(-1, -2)) / 2

        gap = torch.remainder(yaw - state.yaw + QUARTER / 2, QUARTER) - QUARTER / 2
        turn = turn + torch.where(surprised[..., None, None], torch.tensor([0.02, 1.0], device=device).diag(), 0.0)
        tilt = turn[..., :, 0] / (turn[..., 0, 0] + yaw_noise)[..., None] * (known & cube)[..., None]
        turned = tilt * gap[..., None]
        turn = turn - tilt[..., :, None] * turn[..., :1, :]
        turn = (turn + turn.transpose(-1, -2)) / 2

        state = replace(
            state,
            there=state.there | seen,
            position=torch.where(new[..., None], where, state.position + change[..., :2]),
            velocity=state.velocity + change[..., 2:4],
            deceleration=(state.deceleration + change[..., 4]).clamp(0.05, 0.6),
            yaw=torch.where(new, yaw, state.yaw + turned[..., 0]),
            spin=state.spin + turned[..., 1],
        )
        covariance = torch.where(new[..., None, None], joined(noise + first, unknown), covariance)
        turn = torch.where(new[..., None, None], joined(yaw_noise[..., None, None], unknown_spin), turn)
    return Belief(state, constants.doubt**2 * covariance, constants.doubt**2 * turn)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Return the block-diagonal matrices of (..., m, m) and (n, n)."""
    size = first.shape[-1]
    both = first.new_zeros(*first.shape[:-2], size + len(second), size + len(second))
    both[..., :size, :size], both[..., size:, size:] = first, second
    return both


def _shock(gap: Tensor) -> Tensor:
    """Return (..., 5, 5) what an unforeseen hit adds to the covariance; it moved the object by (..., 2)."""
    size = gap.square().sum(-1)
    place, speed = 0.3 * size, 2.0 * size / FRAME_SECONDS**2
    none = torch.zeros_like(size)
    return torch.diag_embed(torch.stack((place, place, speed, speed, none), -1))


def _blur(before: State, covariance: Tensor, turn: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the covariances over one frame of free sliding, and widen them where the simulator saw a hit."""
    dt = FRAME_SECONDS
    speed = before.velocity.norm(dim=-1)
    heading = before.velocity / speed.clamp_min(1e-3)[..., None]
    moving = (speed > before.deceleration * dt).float()
    step = torch.eye(5, device=speed.device).expand_as(covariance).clone()
    step[..., 0, 2] = step[..., 1, 3] = dt
    step[..., 2:4, 4] = -dt * heading * moving[..., None]
    step[..., :2, 4] = -0.5 * dt**2 * heading * moving[..., None]
    covariance = step @ covariance @ step.transpose(-1, -2)
    still = torch.full_like(speed, 1e-6)
    jolt = (0.1 * hit) ** 2
    added = torch.stack((still + jolt * dt**2, still + jolt * dt**2, jolt + 1e-5, jolt + 1e-5, 0 * jolt), -1)
    covariance = covariance + torch.diag_embed(added)
    step = torch.tensor([[1.0, dt], [0.0, 1.0]], device=speed.device)
    jolt = (0.7 * hit) ** 2
    turn = step @ turn @ step.T + torch.diag_embed(torch.stack((jolt * dt**2 / 4, jolt + 1e-3), -1))
    return covariance, turn


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


def roll_out(history: Tracks, constants: Constants, frames: int, versions: int, substeps: int = SUBSTEPS) -> Rollout:
    """Simulate ``frames`` frames after the clip, once from the mean state and else from states drawn around it."""
    belief = observe(history, constants)
    videos, objects = belief.state.yaw.shape
    state = belief.state
    if versions > 1:
        drawn = belief.sample(versions - 1, constants)
        pairs = {f.name: (getattr(state, f.name), getattr(drawn, f.name)) for f in fields(State)}
        join = {n: torch.cat((a[:, None], b.unflatten(0, (videos, -1))), 1) for n, (a, b) in pairs.items()}
        state = State(**{name: tensor.flatten(0, 1) for name, tensor in join.items()})
    path, hits = [], []
    for _ in range(frames):
        state, hit = advance(state, constants, FRAME_SECONDS, substeps)
        path.append(state.position)
        hits.append(hit)
    split = lambda x: x.unflatten(0, (videos, versions)).transpose(1, 2)  # noqa: E731  (B, K, M, ...)
    doubt = belief.covariance.diagonal(dim1=-2, dim2=-1)[..., [0, 2, 4]].clamp_min(0).sqrt()
    return Rollout(
        split(torch.stack(path, 2)), split(state.yaw), split(torch.stack(hits, 2)), belief.state.velocity, doubt
    )


EDGE_NOISE = {"frames": 3.0, "masks": 8.0}
"""``Constants.edge_noise`` by where places are read off. The error of the mean path hardly tells it; chosen for the
IoU of objects on stand-in and rendered videos."""
SEARCHED = {"deceleration": 1.15, "restitution": 1.15, "friction": 2.0, "spin_deceleration": 2.0}
"""Constants that are fitted, and the factor by which they are first changed."""
FITTED_ON = 200


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
