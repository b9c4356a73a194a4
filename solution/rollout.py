"""What the simulator expects of a clip, in many versions, and the fit of its constants to whole videos' tracks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from data_prep.classes import CUBE, SHAPES
from data_prep.scene import MOMENT, RADIUS
from solution.kalman import Belief, observe
from solution.physics import Constants, State, advance
from solution.tracks import Tracks

SEARCHED = {"cube_deceleration": 1.1, "cylinder_deceleration": 1.1, "elasticity": 1.1, "friction": 2.0}
"""Constants that are searched for, and the factor by which they are first changed. The error of the mean path hardly
tells the others: how spheres slow down and how cubes stop turning is read off, the rest was chosen for the IoU of
objects on stand-in and rendered videos."""
OPEN = 0.1
"""Standard deviation of decelerations, units/s², for a filter that shall find out what is usual."""
FEWEST = 4
"""Objects of a shape whose decelerations must be known to call any usual."""
RUBBING = 0.3826 * 2 / (MOMENT[CUBE] * RADIUS)
"""Radians/s² by which a turning cube slows down, per unit/s² of a sliding one: points of a square are on average .3826
of its edge away from its middle."""
MOST_STEPS = 4
"""In one direction: few videos may not tell a constant at all."""
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
    videos = len(history)
    state = belief.state
    if versions > 1:
        drawn = belief.sample(versions - 1)
        pairs = {f.name: (getattr(state, f.name), getattr(drawn, f.name)) for f in fields(State)}
        join = {n: torch.cat((a[:, None], b.unflatten(0, (videos, -1))), 1) for n, (a, b) in pairs.items()}
        state = State(**{name: tensor.flatten(0, 1) for name, tensor in join.items()})
    state, path, hits = simulate(state, constants, frames)
    split = lambda x: x.unflatten(0, (videos, versions)).transpose(1, 2)  # noqa: E731  (B, K, M, ...)
    doubt = belief.variance()[..., [0, 2, 4]].sqrt()
    return Rollout(split(path), split(state.yaw), split(hits), belief.state.velocity, doubt)


def simulate(state: State, constants: Constants, frames: int) -> tuple[State, Tensor, Tensor]:
    """Return the states after so many frames, and per frame (S, K, F, 2) positions and (S, K, F) hits."""
    path, hits = [], []
    for _ in range(frames):
        state, hit = advance(state, constants)
        path.append(state.position)
        hits.append(hit)
    return state, torch.stack(path, 2), torch.stack(hits, 2)


def fit_constants(tracks: Tracks, future: slice, start: Constants) -> Constants:
    """Return the constants that foresee best where objects are in the frames ``future``, by a coordinate search.

    It starts from the decelerations that objects turn out to have in all frames. How cubes stop turning follows from
    theirs, as they were found: the search also makes up for what the simulator lacks.

    Args:
        tracks: of whole videos; the first ``FITTED_ON`` are looked at. The search observes what is before ``future``.
        future: the last frames of the videos.
        start: what is taken of shapes of which too few are known, and of all that is neither read off nor searched for.
    """
    tracks = tracks[slice(FITTED_ON)]
    history, coming = tracks.frames(slice(future.start)), tracks.frames(future)
    known = coming.visible & history.visible.any(1)[:, None]

    def quality(constants: Constants) -> float:
        state = reconsidered(belief, believed_with, constants)
        _, path, _ = simulate(state, constants, coming.visible.shape[1])
        error = (path.transpose(1, 2) - coming.position).norm(dim=-1)
        # About the share of the silhouette that is met.
        return float((1 - error / (1.5 * RADIUS)).clamp_min(0)[known].mean())

    best = with_usual_decelerations(start, observe(tracks, replace(start, deceleration_spread=OPEN)))
    for shrink in (1.0, 0.5):
        belief, believed_with = observe(history, best), best
        reached = quality(best)
        for name, factor in SEARCHED.items():
            for step in (factor**shrink, factor**-shrink):
                for _ in range(MOST_STEPS):
                    tried = replace(best, **{name: getattr(best, name) * step})
                    found = quality(tried)
                    if found <= reached:
                        break
                    best, reached = tried, found
    return best


def with_usual_decelerations(constants: Constants, belief: Belief) -> Constants:
    """Return the constants with the medians of the decelerations that an ``OPEN`` filter was told of every shape.

    Those of cubes also say how fast their turning ends.
    """
    state = belief.state
    told = state.there & (belief.variance()[..., 4] < (OPEN / 4) ** 2)
    usual = {}
    for kind, shape in enumerate(SHAPES):
        some = told & (state.shape == kind)
        if some.sum() >= FEWEST:
            usual[f"{shape}_deceleration"] = float(state.deceleration[some].median())
    if "cube_deceleration" in usual:
        usual["spin_deceleration"] = RUBBING * usual["cube_deceleration"]
    return replace(constants, **usual)


def reconsidered(belief: Belief, old: Constants, new: Constants) -> State:
    """Return the mean state had all objects been taken for such as the ``new`` constants say before they were seen.

    What was seen of an object has pulled it away from what is usual by one minus the share of the variance left.
    """
    shape = belief.state.shape
    left = belief.variance()[..., [4, 7]]
    share = left / left.new_tensor((old.deceleration_spread, old.elasticity_spread)).square()
    return replace(
        belief.state,
        deceleration=belief.state.deceleration
        + (new.usual_deceleration(shape) - old.usual_deceleration(shape)) * share[..., 0],
        elasticity=belief.state.elasticity + (new.elasticity - old.elasticity) * share[..., 1],
    )
