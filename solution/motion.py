"""Pieces of real motion to judge a law of motion by: where solids are now, and where some frames later.

They are read off tracks of whole videos. The constants of the simulator are fitted to them here, and how sure the
filter is to where it foresees solids; what is made of that is in ``solution.kalman`` and ``solution.rollout``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from statistics import NormalDist

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from data_prep.classes import CUBE, SPHERE
from data_prep.scene import CLIP_FRAMES, FRAME_SECONDS, RADIUS
from solution.kalman import observe, own_blocks
from solution.physics import Constants, State, advance, stacked
from solution.tracks import Tracks, least_turn

HORIZON = 5
"""Frames that a window looks ahead."""
BEFORE = 4
"""Frames before a window of which a sphere's deceleration is read off: does it slide or roll?"""
SHOWN = 0.6
"""Least share of an outline that shows, for a place exact enough to be differentiated."""
RESTING = 0.004
"""Units per two frames below which a solid rests."""
SMOOTH = 0.012
"""Units by which a step may differ from what friction makes of the one before."""
MOST_LOSS = 0.4
"""Units/s² that friction and air take off the fastest."""
BROKEN = 0.03
"""Units per frame² that no friction explains: a hit."""
NEAR = 3.2 * RADIUS
"""Between the centres of solids of which one may have been hit by the other between two frames."""


@dataclass(frozen=True)
class Windows:
    """W scenes of K solids, measured at their start and in the ``HORIZON`` frames after it."""

    shape: Tensor
    """(W, K) int64 index into ``classes.SHAPES``."""
    there: Tensor
    """(W, K) bool."""
    position: Tensor
    """(W, K, 2) units."""
    velocity: Tensor
    """(W, K, 2) units/s, the mean of the two steps before the start, which is the velocity one frame before it."""
    yaw: Tensor
    """(W, K) radians."""
    spin: Tensor
    """(W, K) radians/s, as ``velocity``."""
    slides: Tensor
    """(W, K) bool: not a sphere that rolls."""
    future: Tensor
    """(W, HORIZON, K, 3) x, y and yaw."""
    judged: Tensor
    """(W, HORIZON, K) bool: measured, and not near anything that the scene lacks."""
    hit: Tensor
    """(W, K) bool: the course breaks on the way, near another solid."""

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, windows) -> Windows:
        return Windows(**{f.name: getattr(self, f.name)[windows] for f in fields(self)})

    @property
    def end(self) -> Tensor:
        """(W, K, 2) places in the last frame."""
        return self.future[:, -1, :, :2]

    def start(self, constants: Constants) -> State:
        """Return the states at the start, which a frame of friction separates from what was measured."""
        speed = self.velocity.norm(dim=-1, keepdim=True)
        loss = self.velocity.new_tensor(constants.deceleration)[self.shape.clamp_min(0)][..., None]
        lost = loss * self.slides[..., None] + (constants.damping + constants.drag * speed) * speed
        velocity = self.velocity * (1 - FRAME_SECONDS * lost / speed.clamp_min(1e-6)).clamp_min(0)
        roll = velocity * ((self.shape == SPHERE) & ~self.slides)[..., None]
        spin = self.spin - self.spin.sign() * (FRAME_SECONDS * constants.spin_deceleration)
        spin = torch.where(spin * self.spin > 0, spin, 0.0)
        return State(self.shape, self.there, self.position, velocity, self.yaw, spin, roll)


def clear_places(tracks: Tracks) -> Tensor:
    """Return (V, T, K) bool: a place is exact enough to be differentiated."""
    return tracks.visible & ~tracks.border & (tracks.shown > SHOWN)


def gaps(tracks: Tracks) -> Tensor:
    """Return (V, T, K, K) units between the centres of solids, infinite to what is not seen and to itself."""
    position, solids = tracks.position, tracks.position.shape[2]
    apart = (position[:, :, :, None] - position[:, :, None]).norm(dim=-1)
    return torch.where(tracks.visible[:, :, None] & ~torch.eye(solids, dtype=torch.bool), apart, math.inf)


def find_windows(tracks: Tracks) -> Windows:
    """Return the windows of whole videos: every start at which all that is seen moves smoothly, or rests."""
    position, dt = tracks.position, FRAME_SECONDS
    frames = position.shape[1]
    clear, gap = clear_places(tracks), gaps(tracks)
    step = position[:, 1:] - position[:, :-1]
    change = (step[:, 1:] - step[:, :-1]).norm(dim=-1)  # (V, T - 2, K) around frames 1 to T - 2
    exact = clear[:, :-2] & clear[:, 1:-1] & clear[:, 2:]
    close = gap.amin(-1) < NEAR
    broken = exact & (change > BROKEN) & (close[:, :-2] | close[:, 1:-1] | close[:, 2:])
    parts = []
    for start in range(BEFORE, frames - HORIZON):
        window = slice(start + 1, start + 1 + HORIZON)
        ago = slice(start - 2, start + 1)
        measured = clear[:, ago].all(1)
        mean = (position[:, start] - position[:, start - 2]) / (2 * dt)
        speed = mean.norm(dim=-1)
        rests = speed * 2 * dt < RESTING
        along = step[:, start - 1] - step[:, start - 2]
        heading = mean / speed.clamp_min(1e-6)[..., None]
        slowed = -(along * heading).sum(-1)
        excess = along + slowed.clamp(0, MOST_LOSS * dt**2)[..., None] * heading
        steady = measured & ((excess.norm(dim=-1) < SMOOTH) | rests)
        rubs = [_rubbing(position[:, t - BEFORE : t + 1]) for t in (start, start + HORIZON)]
        sphere = tracks.shape == SPHERE
        unbroken = clear[:, start - BEFORE : start + 1].all(1) & (change[:, start - BEFORE : start - 1] < BROKEN).all(1)
        told = unbroken | ~sphere | rests
        slides = ~sphere | rests | (rubs[0] > Constants.deceleration[SPHERE] / 2)
        there = steady & told
        turned = least_turn(tracks.yaw[:, start] - tracks.yaw[:, start - 2])
        # How a sphere that slides turns, and so how it goes on after a hit or pushes on, nothing tells, nor when it
        # will roll: it is judged by itself, and while it slides.
        of_unknown_roll = sphere & ~rests & slides
        known = there & (~of_unknown_roll | (rubs[1] > 0.75 * rubs[0]))
        # Such a sphere, and anything that the scene lacks, may hit what is judged, and whom they hit the next.
        unknown = ~there | of_unknown_roll
        met, met_by = torch.zeros_like(there), []
        for frame in range(start, start + 1 + HORIZON):
            of_other = (unknown | met) & tracks.visible[:, frame]
            met = met | ((gap[:, frame] < NEAR) & (of_other[:, None] | of_unknown_roll[..., None])).any(-1)
            met_by.append(met)
        judged = clear[:, window] & known[:, None] & ~torch.stack(met_by[1:], 1)
        moving = ~rests[..., None]
        values = {
            "shape": tracks.shape,
            "there": there,
            "position": position[:, start],
            "velocity": mean * moving,
            "yaw": tracks.yaw[:, start],
            "spin": turned / (2 * dt) * (tracks.shape == CUBE) * moving[..., 0],
            "slides": slides,
            "future": tracks.where[:, window],
            "judged": judged,
            "hit": broken[:, start - 1 : start + HORIZON - 1].any(1),
        }
        happens = there & (~rests | values["hit"])
        chosen = (judged & happens[:, None]).any((1, 2))
        parts.append({name: value[chosen] for name, value in values.items()})
    return Windows(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _rubbing(course: Tensor) -> Tensor:
    """Return (V, K) units/s² that friction with the floor takes off in (V, BEFORE + 1, K, 2) places."""
    way = course[:, BEFORE] - course[:, 0]
    distance = way.norm(dim=-1)
    speed = distance / (BEFORE * FRAME_SECONDS)
    change = (course[:, BEFORE] - 2 * course[:, BEFORE // 2] + course[:, 0]) / (BEFORE / 2 * FRAME_SECONDS) ** 2
    slowed = -(change * way).sum(-1) / distance.clamp_min(1e-6)
    return slowed - (Constants.damping + Constants.drag * speed) * speed


def foreseen(windows: Windows, laws: Sequence[Constants]) -> Tensor:
    """Return (L, W, HORIZON, K, 3) x, y and yaw of the solids as the simulator foresees them by each of the laws."""
    starts, frames = [windows.start(law) for law in laws], []
    state = State(**{f.name: torch.cat([getattr(start, f.name) for start in starts]) for f in fields(State)})
    constants = stacked(laws, len(windows))
    for _ in range(HORIZON):
        state, _ = advance(state, constants)
        where = torch.cat((state.position, state.yaw[..., None]), -1)
        frames.append(where.unflatten(0, (len(laws), len(windows))))
    return torch.stack(frames, 2)


def errors(windows: Windows, places: Tensor) -> dict[str, np.ndarray]:
    """Return the distances (n,) between foreseen and measured places in the last frame, of solids that move."""
    error = (places[:, -1, :, :2] - windows.end).norm(dim=-1)
    judged = windows.judged[:, -1]
    return {"hit": error[judged & windows.hit].numpy(), "free": error[judged & unhit(windows)].numpy()}


def unhit(windows: Windows) -> Tensor:
    """Return (W, K) bool: the solid moves and nothing hits it."""
    moved = (windows.end - windows.position).norm(dim=-1) > RADIUS / 4
    return moved & ~windows.hit


PRIOR = {
    "deceleration": 0.02,
    "damping": 0.02,
    "drag": 0.015,
    "spin_deceleration": 0.8,
    "mass": 0.15,
    "restitution": 0.15,
    "dullness": 0.05,
    "friction": 0.05,
    "rolled": 0.5,
    "size": 0.01,
}
"""Constants that are fitted, and the standard deviation of what is believed of them beforehand."""
FIXED = {"mass": (2,)}
"""Parts of them that are not: a cylinder is the unit."""
PARTS = [
    (name, i) for name in PRIOR for i in range(np.size(getattr(Constants(), name))) if i not in FIXED.get(name, ())
]
DEVIATIONS = np.array([PRIOR[name] for name, _ in PARTS])
MOST = np.array([1.0 if name == "rolled" else np.inf for name, _ in PARTS])
"""A hit takes no more slip than it gives to what rests; and no constant is negative."""
LEFT = 0.5
"""Share of these deviations that is doubted after the fit still, since no law is quite right."""
FREE, STRUCK = 0.005, 0.015
"""Standard deviations, about, of errors of solids that nothing hits in a window, and of others, units."""
TURNED = 0.15
"""The same of a cube's yaw, radians."""
JUDGED_FRAMES = (1, 2, 4)
MOST_WINDOWS = 500
STEP = 0.3
"""Deviations of the prior by which constants are changed to find slopes."""
MOST_ITERATIONS = 12
GAIN = 0.002
"""Share of the cost that an iteration takes off; less is not worth another."""


def values_of(constants: Constants) -> np.ndarray:
    """Return the ``PARTS`` of constants."""
    return np.array([np.ravel(getattr(constants, name))[i] for name, i in PARTS])


def with_values(constants: Constants, values: np.ndarray) -> Constants:
    """Return constants with other ``PARTS``."""
    new = {name: list(np.ravel(getattr(constants, name))) for name in PRIOR}
    for (name, i), value in zip(PARTS, values, strict=True):
        new[name][i] = float(value)
    return replace(constants, **{n: tuple(map(float, v)) if len(v) > 1 else float(v[0]) for n, v in new.items()})


def doubted(constants: Constants, count: int) -> list[Constants]:
    """Return so many laws that may as well be right, in pairs to either side of the constants, always the same."""
    one_side = np.random.default_rng(0).standard_normal((count // 2 + 1, len(PARTS)))
    aside = LEFT * DEVIATIONS * np.stack((one_side, -one_side), 1).reshape(-1, len(PARTS))[:count]
    return [with_values(constants, values) for values in (values_of(constants) + aside).clip(0, MOST)]


def fit_motion(tracks: Tracks, windows: Windows, prior: Constants) -> Constants:
    """Return the constants found on tracks of whole videos and their windows: of the laws, then of the filter."""
    return fit_beliefs(tracks, fit_constants(windows, prior))


def fit_constants(windows: Windows, prior: Constants) -> Constants:
    """Return the constants most likely after what was seen in windows, and before (maximum a posteriori).

    Errors of places, and of the yaw of cubes, are least squares of a robust loss (Huber's, smoothed: scipy's
    ``soft_l1``), so that what no law explains, such as a hit by something unseen, does not decide. See
    :func:`fit_drift` for the drift.
    """
    windows = windows[torch.linspace(0, len(windows) - 1, min(len(windows), MOST_WINDOWS)).round().long().unique()]
    mean = values_of(prior)
    judged = windows.judged[:, JUDGED_FRAMES]
    weight = torch.where(windows.hit, 1 / STRUCK, 1 / FREE)[:, None, :, None].repeat(1, 1, 1, 3)
    weight[..., 2] = (windows.shape == CUBE)[:, None] / TURNED

    def residuals(scaled: np.ndarray) -> np.ndarray:
        """Map (L, P) constants to (L, n): many small simulations at once cost hardly more than one."""
        laws = [with_values(prior, mean + DEVIATIONS * each) for each in scaled]
        error = foreseen(windows, laws)[:, :, JUDGED_FRAMES] - windows.future[:, JUDGED_FRAMES]
        error[..., 2] = least_turn(error[..., 2])
        error = (error * weight)[:, judged]
        return np.concatenate((error.flatten(1).double().numpy(), scaled), 1)

    def slopes(scaled: np.ndarray) -> np.ndarray:
        """Hits make the errors rough: the steps are as wide as what is unknown, and one-sided ones get stuck."""
        steps = STEP * np.eye(len(scaled))
        more, less = np.split(residuals(np.concatenate((scaled + steps, scaled - steps))), 2)
        return (more - less).T / (2 * STEP)

    bounds = -mean / DEVIATIONS, (MOST - mean) / DEVIATIONS
    found = least_squares(
        lambda scaled: residuals(scaled[None])[0],
        np.zeros(len(mean)),
        slopes,
        bounds,
        ftol=GAIN,
        loss="soft_l1",
        max_nfev=MOST_ITERATIONS,
    )
    constants = with_values(prior, mean + DEVIATIONS * found.x)
    return replace(constants, drift=fit_drift(windows, constants))


LASTING = 2.0
"""What drives a solid off its course does so for many frames, which as a drift by chance counts so many times."""
BELIEVED = 40
"""Errors that what is believed of the drift beforehand counts for."""
LEAST_DRIFT = 0.004
"""Units/s; with less the filter clings to a course that a hit by something unseen has changed."""


def fit_drift(windows: Windows, constants: Constants) -> tuple[float, ...]:
    """Return ``Constants.drift`` after what was seen of solids that nothing hits, and before.

    A velocity that changes by chance in every frame leads astray by the drift times the time of a frame times the root
    of 1² + 2² + … A median of errors tells it, which a few hits by something unseen do not move.
    """
    error = (foreseen(windows, [constants])[0, :, -1, :, :2] - windows.end).abs()
    astray = FRAME_SECONDS * math.sqrt(sum(n * n for n in range(1, HORIZON + 1)))
    free, drift = windows.judged[:, -1] & unhit(windows), []
    for kind, before in enumerate(constants.drift):
        own = error[free & (windows.shape == kind)].flatten()
        seen = LASTING * float(own.median()) / NormalDist().inv_cdf(0.75) / astray if len(own) else before
        share = len(own) / (BELIEVED + len(own))
        drift.append(before ** (1 - share) * max(seen, LEAST_DRIFT) ** share)
    return tuple(drift)


ENTRY, AHEAD = 6, 6
"""Frames in which a sphere that came into view is followed, and after which it is looked where it is."""
THROWN = 0.5
"""Least speed of spheres that are thrown, units/s."""
SHARES, DOUBTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9), (0.1, 0.3)
"""Of ``Constants.first_roll``, those that are tried."""
NOISES = ("hit_noise", "edge_noise")
FACTORS, DOUBTED_FACTOR = (2 / 3, 1.0, 3 / 2), 3 / 2
"""By which noises are multiplied, and one that lies a standard deviation from what is believed of them beforehand."""
MOST_CLIPS = 100
"""Videos, at most, that noises are fitted to; in forty chance decides."""
FREEDOM = 4.0
"""Degrees of freedom of the t distribution of errors, which has longer tails than a normal law: some solids are hit by
what is not seen."""


def fit_beliefs(tracks: Tracks, constants: Constants) -> Constants:
    """Return constants with the ``first_roll`` and ``NOISES`` most likely after where solids of tracks got, and before.

    How sure the filter is of where they will be counts as much as where that is; see :func:`disbelief`. When a thrown
    sphere will roll is hardly seen while it slides; how long others slid tells.
    """
    thrown = thrown_spheres(tracks)
    clips = tracks[:: max(1, math.ceil(len(tracks) / MOST_CLIPS))].frames(slice(CLIP_FRAMES + HORIZON))

    @cache
    def cost(law: Constants, of_thrown: bool) -> float:
        film, seen = (thrown, ENTRY) if of_thrown else (clips, CLIP_FRAMES)
        return disbelief(film, law, seen) + _believed(law, constants)

    found = constants
    if len(thrown):
        tried = [replace(found, first_roll=roll) for roll in itertools.product(SHARES, DOUBTS)]
        found = min(tried, key=partial(cost, of_thrown=True))
    for name in NOISES:
        tried = [replace(found, **{name: getattr(found, name) * factor}) for factor in FACTORS]
        found = min(tried, key=partial(cost, of_thrown=False))
    return found


def _believed(law: Constants, prior: Constants) -> float:
    """Return minus the log of how likely :func:`fit_beliefs` holds a law beforehand, but for a constant."""
    (share, doubt), (mean, deviation) = law.first_roll, prior.first_roll
    factors = [doubt / deviation, *(getattr(law, name) / getattr(prior, name) for name in NOISES)]
    far = [(share - mean) / deviation, *(math.log(factor) / math.log(DOUBTED_FACTOR) for factor in factors)]
    return sum(each**2 for each in far) / 2


def disbelief(tracks: Tracks, constants: Constants, seen: int) -> float:
    """Return how little the filter, given the first ``seen`` frames, expects solids where they are in the last one.

    It is minus the log likelihood of a multivariate t distribution, but for a constant, summed over solids that move.
    """
    visible = tracks.visible.clone()
    visible[:, seen:] = False
    belief = observe(replace(tracks, visible=visible), constants)
    moved = (tracks.position[:, -1] - tracks.position[:, seen - 1]).norm(dim=-1) > RADIUS / 4
    judged = belief.state.there & moved & clear_places(tracks)[:, -1]
    error = (belief.state.position - tracks.position[:, -1])[judged].double()
    covariance = own_blocks(belief.covariance)[judged][:, :2, :2]
    distance = (error[:, None] @ torch.linalg.solve(covariance, error[..., None]))[:, 0, 0]
    surprise = (FREEDOM + 2) / 2 * torch.log1p(distance / FREEDOM)
    return float((surprise + torch.logdet(covariance) / 2).sum())


def thrown_spheres(tracks: Tracks) -> Tracks:
    """Return tracks of one sphere each, from where it first shows, of those that are thrown and meet nothing."""
    length = ENTRY + AHEAD
    frames = tracks.visible.shape[1]
    first = tracks.visible.int().argmax(1)  # (V, K)
    whole = (tracks.shape == SPHERE) & (first + length <= frames)
    video, solid = whole.nonzero(as_tuple=True)
    frame = first[video, solid, None] + torch.arange(length)  # (N, L)
    place = video[:, None], frame, solid[:, None]
    way = (tracks.position[place][:, 1] - tracks.position[place][:, 0]).norm(dim=-1)
    alone = (tracks.visible & (gaps(tracks).amin(-1) > NEAR))[place].all(1) & clear_places(tracks)[place][:, -1]
    chosen = alone & (way > THROWN * FRAME_SECONDS)
    place = tuple(part[chosen] for part in (video[:, None], frame, solid[:, None]))
    timed = {f.name: getattr(tracks, f.name)[place][:, :, None] for f in fields(Tracks) if f.name != "classes"}
    return Tracks(classes=tracks.classes[video, solid][chosen, None], **timed)
