"""What is believed of the solids after some frames: an extended Kalman filter that moves by the simulator.

What it looks at are tracks, places with their covariances; nothing here draws or learns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from data_prep.classes import CUBE, SPHERE
from data_prep.scene import FRAME_SECONDS
from solution.physics import COMPONENTS, Constants, State, advance
from solution.tracks import Tracks, least_turn

OBSERVED = (0, 1, 4)
"""What a frame shows of :meth:`State.vector`: place and yaw."""
LEAST_YAW_NOISE = 0.003
"""Standard deviation of a cube's observed yaw beyond its outline's, radians."""
FIRST_SPEED = 1.5
"""Standard deviation of each velocity component of what has just come into view, units/s."""
FIRST_SPIN = 0.25
"""The same of spin, radians/s: what is thrown does not turn, what was hit out of view does."""
SURPRISE = 16.0
"""Squared Mahalanobis distance from which an observation means a hit that the simulator did not foresee."""
DRIFT = (3e-4, 3e-4, 1.0, 1.0, 1e-3, 1e-2, 1.0, 1.0)
"""Standard deviations that a frame adds to :meth:`State.vector`; of velocities in units of ``Constants.drift``."""
JOLT = (0.01, 0.01, 1.0, 1.0, 0.02, 0.3, 2.0, 2.0)
"""The same that a hit adds, per unit/s of the hit; of velocities in units of ``Constants.hit_noise``."""
SPEEDS = (2, 3, 6, 7)
"""Velocities in :meth:`State.vector`."""
PASSES = 5
"""How often every frame is gone over, at most, before shocks; eight cost a third more and foresee no better."""
SLOPE_SUBSTEPS = 8
"""Steps of the simulator per frame where only slopes are asked for."""
CONVERGED = 0.1
"""Standard deviations that a pass changes the state before by; less is not worth another."""
UNSEEN = 1e6
"""Variance of what a frame does not show."""


@dataclass(frozen=True)
class Belief:
    """What is known of the solids after some frames: a mean state and how its errors go together."""

    state: State
    covariance: Tensor
    """(S, 8 K, 8 K) float64 of :meth:`State.vector`, all solids of a scene together."""

    def variance(self) -> Tensor:
        """Return (S, K, 8) float32 of :meth:`State.vector`."""
        return self.covariance.diagonal(dim1=1, dim2=2).reshape_as(self.state.vector()).clamp_min(0).float()

    def sample(self, count: int) -> State:
        """Return ``count`` states per scene, always the same."""
        random = torch.Generator().manual_seed(0)
        root = square_root(self.covariance)
        noise = torch.randn(count, root.shape[-1], generator=random).to(root.device)
        mean = self.state.vector()
        drawn = mean[:, None] + torch.einsum("sij,nj->sni", root, noise).unflatten(-1, mean.shape[1:])
        return self.state.repeat(count).with_vector(drawn.flatten(0, 1))


def square_root(covariance: Tensor) -> Tensor:
    """Return (..., n, n) whose product with its transpose is the covariance, even where that came out indefinite."""
    values, vectors = torch.linalg.eigh(covariance.cpu())  # a GPU takes matrices of this size one after the other
    root = vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.transpose(-1, -2)
    return root.float().to(covariance.device)


@dataclass(frozen=True)
class Sight:
    """What one frame shows of S scenes of K solids."""

    where: Tensor
    """(S, K, 3) x, y and yaw."""
    noise: Tensor
    """(S, K, 3, 3) float64 covariance of that."""
    used: Tensor
    """(S, K, 3) float64, 0 for what is not to be believed: hidden, seen for the first time, the yaw of a disc."""

    def __getitem__(self, scenes) -> Sight:
        return Sight(self.where[scenes], self.noise[scenes], self.used[scenes])


def observe(tracks: Tracks, constants: Constants) -> Belief:
    """Follow all objects through the tracks' frames with an extended Kalman filter that moves by the simulator.

    The covariance is that of all solids of a scene: where two have hit each other, what is seen of one tells of the
    other, and both tell how elastic they are.
    """
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
        roll=torch.zeros(videos, slots, 2, device=device),
    )
    double = partial(torch.tensor, dtype=torch.float64, device=device)
    covariance = torch.zeros(videos, slots * COMPONENTS, slots * COMPONENTS, dtype=torch.float64, device=device)
    share, doubt = constants.first_roll
    unknown = double((0.0, 0.0, FIRST_SPEED, FIRST_SPEED, 0.0, FIRST_SPIN, 0.0, 0.0)).square().diag()
    for axis in (0, 1):
        unknown[2 + axis, 6 + axis] = unknown[6 + axis, 2 + axis] = share * FIRST_SPEED**2
        unknown[6 + axis, 6 + axis] = (share**2 + doubt**2) * FIRST_SPEED**2
    least = double((0.0, 0.0, LEAST_YAW_NOISE)).square().diag()
    anything = torch.eye(3, dtype=torch.float64, device=device)
    cube = tracks.shape == CUBE
    shown = torch.stack((torch.ones_like(cube), torch.ones_like(cube), cube), -1)
    seen_at = tracks.where
    place = torch.tensor(OBSERVED, device=device)
    first = torch.zeros(videos, slots, COMPONENTS, COMPONENTS, dtype=torch.float64, device=device)
    for frame in range(frames):
        seen = tracks.visible[:, frame]
        new = seen & ~state.there
        where = seen_at[:, frame]
        noise = constants.edge_noise**2 * tracks.covariance[:, frame].double() + least
        noise = torch.where(seen[..., None, None], noise, anything)
        if frame:
            sight = Sight(where, noise, ((seen & state.there)[..., None] & shown).double())
            state, covariance = _follow(state, covariance, sight, constants)
        first[..., place[:, None], place] = noise
        kept = (~new).double().repeat_interleave(COMPONENTS, 1)
        covariance = covariance * kept[:, :, None] * kept[:, None]
        covariance = covariance + spread_out((first + unknown) * new[..., None, None])
        state = replace(
            state,
            there=state.there | seen,
            position=torch.where(new[..., None], where[..., :2], state.position),
            yaw=torch.where(new, where[..., 2], state.yaw),
        )
    return Belief(state, covariance)


def _follow(state: State, covariance: Tensor, sight: Sight, constants: Constants) -> tuple[State, Tensor]:
    """Move a belief on by a frame and correct it by what is seen there.

    Where solids hit each other, the slopes of the simulator depend on the state before, which the frame corrects too:
    of what was just coming in, the speed is known only by where it got, perhaps after a hit. So every frame is gone
    over several times, with the slopes where the state before must have been (the iterated filter; Bell and Cathey
    1993), until it changes no more. The slopes are taken over less and less, so that a hit is found that would have
    come with another speed. Scenes in which all that does not explain what is seen are gone over once more, with
    shocks for the solids that are not where they could be, which are taken as they were expected, unlike all others.
    """
    mean = state.vector().flatten(1).double()
    variance = covariance.diagonal(dim1=1, dim2=2)
    seen = _look(state, covariance, sight, mean, variance, constants)
    rows = torch.arange(len(mean), device=mean.device)
    for n in range(1, PASSES):
        at, known = seen.before[rows], seen.before_variance[rows]
        reach = torch.maximum(known, variance[rows] / 4**n)
        asked = seen.surprised[rows].any(1)
        look = _look(state[rows], covariance[rows], sight[rows], at, reach, constants, asked)
        for each in fields(Look):
            getattr(seen, each.name)[rows] = getattr(look, each.name)
        rows = rows[((look.before - at).square() > CONVERGED**2 * known.clamp_min(1e-9)).any(1)]
        if len(rows) == 0:
            break
    lost = seen.surprised.any(1).nonzero()[:, 0]
    if len(lost):
        unsure = seen.surprised[lost].repeat_interleave(COMPONENTS, 1)
        at = torch.where(unsure, mean[lost], seen.before[lost])
        start = (state[lost], covariance[lost], sight[lost], at, variance[lost])
        once = _look(*start, constants, shocks=True)
        seen.after[lost], seen.covariance[lost] = once.after, once.covariance
    return state.with_vector(seen.after.float().view_as(state.vector())), seen.covariance


@dataclass(frozen=True)
class Look:
    """A belief of S scenes before and after a frame, both corrected by what is seen after it."""

    after: Tensor
    """(S, 8 K) float64."""
    covariance: Tensor
    """(S, 8 K, 8 K) float64 of that."""
    before: Tensor
    """(S, 8 K) float64."""
    before_variance: Tensor
    """(S, 8 K) float64 of that."""
    surprised: Tensor
    """(S, K) bool: the solid is where it could not be."""


def _look(
    state: State,
    covariance: Tensor,
    sight: Sight,
    at: Tensor,
    reach: Tensor,
    constants: Constants,
    asked: Tensor | None = None,
    shocks: bool = False,
) -> Look:
    """Move a belief on by a frame with the slopes around ``at`` (S, 8 K), and correct it; see :func:`_slopes`.

    With ``shocks`` what is surprising is put down to a hit that was not foreseen, and not to the state before.
    """
    scenes, solids, _ = sight.where.shape
    place = torch.tensor(OBSERVED, device=at.device)
    places = (torch.arange(solids, device=at.device)[:, None] * COMPONENTS + place).flatten()
    used = sight.used
    mean = state.vector().flatten(1).double()
    start = state.with_vector(at.float().view_as(state.vector()))
    moved, slope, added = _slopes(start, reach, constants, asked)
    expected = moved.vector().flatten(1) + (slope @ (mean - at)[..., None])[..., 0]
    carried = slope @ covariance
    ahead = carried @ slope.transpose(1, 2) + torch.diag_embed(added)
    gap = sight.where - expected.view(scenes, solids, COMPONENTS)[..., place]
    gap[..., 2] = least_turn(gap[..., 2])
    gap = gap * used
    near = own_blocks(ahead)[..., :2, :2] + sight.noise[..., :2, :2]
    aside = gap[..., :2, None]
    distance = (aside.transpose(-1, -2) @ torch.linalg.inv(near) @ aside)[..., 0, 0]
    surprised = (used[..., 0] > 0) & (distance > SURPRISE)
    if shocks:
        rolls = _roll(surprised & (state.shape == SPHERE), constants)
        ahead = rolls @ (ahead + spread_out(_shock(gap) * surprised[..., None, None])) @ rolls.transpose(1, 2)
        carried, expected = rolls @ carried, (rolls @ expected[..., None])[..., 0]
    noise = sight.noise * used[..., None] * used[..., None, :] + torch.diag_embed(UNSEEN * (1 - used))
    total = ahead[:, places[:, None], places] + spread_out(noise)
    both = torch.cat((ahead[:, places], carried[:, places]), 2)
    gain = torch.linalg.solve(total, both).transpose(1, 2)
    change = (gain @ gap.flatten(1)[..., None])[..., 0]
    of_after, of_before = gain.chunk(2, 1)
    known = ahead - of_after @ ahead[:, places]
    gained = (of_before * carried[:, places].transpose(1, 2)).sum(2)
    after_change, before_change = change.chunk(2, 1)
    return Look(
        expected + after_change,
        (known + known.transpose(1, 2)) / 2,
        mean + before_change,
        covariance.diagonal(dim1=1, dim2=2) - gained,
        surprised,
    )


def spread_out(blocks: Tensor) -> Tensor:
    """Return the (S, K n, K n) block-diagonal matrices of (S, K, n, n)."""
    scenes, solids, size, _ = blocks.shape
    out = blocks.new_zeros(scenes, solids, size, solids, size)
    each = torch.arange(solids, device=blocks.device)
    out[:, each, :, each] = blocks.transpose(0, 1)
    return out.flatten(3).flatten(1, 2)


def own_blocks(matrix: Tensor) -> Tensor:
    """Return the (S, K, 8, 8) blocks on the diagonal of (S, 8 K, 8 K)."""
    size = matrix.shape[1] // COMPONENTS
    each = torch.arange(size, device=matrix.device)
    return matrix.unflatten(1, (size, -1)).unflatten(3, (size, -1))[:, each, :, each].transpose(0, 1)


def _shock(gap: Tensor) -> Tensor:
    """Return (S, K, 8, 8) what an unforeseen hit adds to the covariance; it moved the object by ``gap``, (S, K, 3).

    At any time since the last frame it changed the velocity, and from then on the place: their correlation.
    """
    size = gap[..., :2].square().sum(-1)
    out = gap.new_zeros(*size.shape, COMPONENTS, COMPONENTS)
    for axis in (0, 1):
        out[..., axis, axis] = size
        out[..., axis, axis + 2] = out[..., axis + 2, axis] = 1.5 * size / FRAME_SECONDS
        out[..., axis + 2, axis + 2] = 3.0 * size / FRAME_SECONDS**2
    out[..., 4, 4], out[..., 5, 5] = 0.02, 1.0
    return out


def _roll(struck: Tensor, constants: Constants) -> Tensor:
    """Return (S, 8 K, 8 K) how :meth:`State.vector` changes where a hit takes slip off the (S, K) ``struck`` spheres.

    Like those that the simulator foresees, it takes ``Constants.rolled`` of it.
    """
    rolls = torch.eye(COMPONENTS, dtype=torch.float64, device=struck.device).repeat(*struck.shape, 1, 1)
    taken = constants.rolled * struck
    for axis in (0, 1):
        rolls[..., 6 + axis, 6 + axis] = 1 - taken
        rolls[..., 6 + axis, 2 + axis] = taken
    return spread_out(rolls)


def _slopes(state: State, reach: Tensor, constants: Constants, asked: Tensor | None) -> tuple[State, Tensor, Tensor]:
    """Move states on by a frame.

    Slopes are central differences of the simulator over the square root of ``reach`` (S, 8 K) either way: where it
    sees a hit, or where it is ``asked`` (S,), of all solids of a scene together, else of each by itself.

    Returns:
        the states after it; (S, 8 K, 8 K) float64 how they depend on those before; and (S, 8 K) the variances of
        what the simulator does not know.
    """
    after, hit = advance(state, constants)
    scenes, solids = hit.shape
    alone = torch.eye(COMPONENTS, dtype=reach.dtype, device=reach.device).repeat(scenes, solids, 1, 1)
    scene, solid = state.there.nonzero(as_tuple=True)
    own = reach.unflatten(1, (solids, -1))[scene, solid]
    alone[scene, solid] = _differences(state[scene, solid, None], own, constants)
    slope = spread_out(alone)
    struck = (hit.any(1) if asked is None else hit.any(1) | asked).nonzero()[:, 0]
    if len(struck):
        slope[struck] = _differences(state[struck], reach[struck], constants)
    drift, jolt = (reach.new_tensor(deviations).repeat(scenes, solids, 1) for deviations in (DRIFT, JOLT))
    drift[..., SPEEDS] *= reach.new_tensor(constants.drift)[state.shape.clamp_min(0)][..., None]
    jolt[..., SPEEDS] *= constants.hit_noise
    added = drift.square() + (jolt * hit.double()[..., None]).square()
    return after, slope, added.flatten(1)


def _differences(state: State, reach: Tensor, constants: Constants) -> Tensor:
    """Return (S, 8 K, 8 K) float64 slopes of :meth:`State.vector` a frame later; see :func:`_slopes`."""
    step = reach.clamp_min(1e-6).sqrt().float()  # (S, 8 K)
    mean = state.vector()
    count = step.shape[1]
    aside = torch.diag_embed(step).unflatten(2, mean.shape[1:])  # (S, 8 K, K, 8)
    tried = torch.cat((mean[:, None] + aside, mean[:, None] - aside), 1).flatten(0, 1)
    tried, _ = advance(state.repeat(2 * count).with_vector(tried), constants, substeps=SLOPE_SUBSTEPS)
    more, less = tried.vector().flatten(1).unflatten(0, (-1, 2 * count)).split(count, 1)
    return ((more - less).double() / (2 * step[..., None])).transpose(1, 2)
