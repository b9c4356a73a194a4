"""The filter and the foresight against what the simulator filmed."""

from dataclasses import replace

import pytest
import torch

from data_prep.scene import FRAME_SECONDS
from solution.kalman import observe
from solution.physics import Constants, State, advance
from solution.rollout import fit_constants, reconsidered, roll_out
from solution.tracks import Tracks, join
from tests.solution.test_physics import CUBE, SMOOTH, SPHERE, scene

EDGE_VARIANCE = (0.002 / Constants.edge_noise) ** 2


def filmed(state: State, constants: Constants, frames: int, noise: float) -> Tracks:
    """Return perfect tracks, but for noise, of what the simulator makes of a state."""
    position, yaw = [], []
    for _ in range(frames):
        position.append(state.position + noise * torch.randn_like(state.position))
        yaw.append(state.yaw)
        state, _ = advance(state, constants, FRAME_SECONDS, 8)
    position, yaw = torch.stack(position, 1), torch.stack(yaw, 1)
    seen = torch.ones_like(yaw, dtype=torch.bool)
    classes = 1 + 16 * state.shape
    covariance = EDGE_VARIANCE * torch.eye(3).expand(*yaw.shape, 3, 3)
    return Tracks(classes, seen, position, yaw, torch.zeros_like(seen), torch.ones_like(yaw), covariance)


def after_one_another(first: Tracks, second: Tracks) -> Tracks:
    """Return the frames of both."""
    timed = ("visible", "position", "yaw", "border", "shown", "covariance")
    return replace(first, **{n: torch.cat((getattr(first, n), getattr(second, n)), 1) for n in timed})


def test_the_filter_foresees_a_slide_and_a_collision():
    torch.manual_seed(0)
    constants = Constants()
    start = scene(
        [SPHERE, CUBE, SPHERE],
        [[-2.5, 0.0], [0.0, 0.02], [1.0, 3.0]],
        [[1.12, 0.0], [0.0, 0.0], [0.0, -0.8]],
        deceleration=constants.deceleration,
        elasticity=constants.elasticity,
    )
    film = filmed(start, constants, 22, 0.002)
    rollout = roll_out(film.frames(slice(11)), constants, 11, 5)
    assert (film.position[:, 21, 1] - film.position[:, 0, 1]).norm() > 0.1  # it was hit
    error = (rollout.path[:, :, 0, -1] - film.position[:, 21]).norm(dim=-1)
    assert error.max() < 0.08
    assert rollout.hit[0, 0, 0].sum() > 0 and rollout.hit[0, 2, 0].sum() == 0
    assert rollout.path.shape == (1, 3, 5, 11, 2)


def test_an_unforeseen_hit_is_believed_after_two_more_frames():
    constants = Constants()
    before = scene([SPHERE], [[0.0, 0.0]], [[1.0, 0.0]], deceleration=0.2)
    after = scene([SPHERE], [[1.2, 0.0]], [[0.0, 0.8]], deceleration=0.2)
    first, second = filmed(before, constants, 6, 0.0), filmed(after, constants, 4, 0.0)
    velocity = observe(after_one_another(first, second), constants).state.velocity[0, 0]
    assert abs(velocity[0]) < 0.1 and abs(velocity[1] - 0.65) < 0.1


@pytest.mark.parametrize("elasticity", [0.6, 0.8])
def test_a_hit_in_an_object_s_second_frame_is_understood(elasticity):
    """Nothing but where it got says how fast it came in; that, and what became of the other, needs the hit."""
    constants = Constants()
    at, speed = [[-0.62, 0.05], [0.0, 0.0]], [[1.4, 0.0], [0.0, 0.0]]
    start = scene([SPHERE, SPHERE], at, speed, deceleration=constants.deceleration, elasticity=elasticity)
    coming = filmed(start, constants, 2, 0.0)
    resting = filmed(scene([SPHERE, SPHERE], at, [[0.0, 0.0]] * 2), constants, 5, 0.0)
    resting.visible[:, :, 0] = False
    film = after_one_another(resting, coming)
    end, hit = advance(start, constants, FRAME_SECONDS, 96)
    assert hit.min() > 0.5
    state = observe(film, constants).state
    assert (state.velocity - end.velocity).norm(dim=-1).max() < 0.1
    unforeseen = coming.position[:, 1] - coming.position[:, 0]
    assert (unforeseen / FRAME_SECONDS - end.velocity).norm(dim=-1).min() > 0.3


def test_what_is_known_badly_moves_the_filter_less():
    film = filmed(scene([SPHERE], [[0.0, 0.0]], [[0.5, 0.0]], deceleration=0.2), SMOOTH, 8, 0.0)
    film.position[:, -1, 0, 1] += 0.04
    vague = film.covariance.clone()
    vague[:, -1] *= 400
    trusted, doubted = (
        observe(replace(film, covariance=c), Constants()).state.position[0, 0, 1] for c in (film.covariance, vague)
    )
    assert trusted > 0.03 and doubted.abs() < 0.005


def test_constants_are_found_from_films():
    torch.manual_seed(0)
    truth = Constants(deceleration=0.32)
    parts = [
        filmed(scene([SPHERE], [[0.0, 0.0]], [[1.0 + 0.05 * n, 0.3]], deceleration=0.32), truth, 22, 0.001)
        for n in range(6)
    ]
    films = join(parts)
    films.visible[:, :8] = False  # in three frames the filter sees no deceleration for itself
    found = fit_constants(films, slice(11, 22), Constants(edge_noise=3.0))
    assert 0.28 < found.deceleration < 0.36
    assert found.edge_noise == 3.0


@pytest.mark.parametrize("frames", [3, 8])
def test_another_prior_is_as_if_the_filter_had_begun_with_it(frames):
    old, new = Constants(deceleration=0.2), Constants(deceleration=0.3)
    film = filmed(scene([SPHERE], [[0.0, 0.0]], [[0.9, 0.3]], deceleration=0.25), Constants(), frames, 0.0)
    again = observe(film, new).state.deceleration
    assert torch.allclose(reconsidered(observe(film, old), old, new).deceleration, again, atol=0.005)
    assert (again - 0.25 < 0.01) == (frames == 8)
