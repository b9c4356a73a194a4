"""The filter and the foresight against what the simulator filmed."""

from dataclasses import replace

import pytest
import torch

from data_prep.classes import CUBE, CYLINDER, SPHERE
from data_prep.scene import FRAME_SECONDS
from solution.kalman import _slopes, observe
from solution.physics import COMPONENTS, Constants, State, advance
from solution.rollout import FEWEST, OPEN, fit_constants, reconsidered, roll_out, with_usual_decelerations
from solution.tracks import Tracks, join
from tests.solution.test_physics import SMOOTH, scene

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
    whole = torch.ones_like(yaw)
    return Tracks(classes, seen, position, yaw, torch.zeros_like(seen), whole, 500 * whole, covariance)


def after_one_another(first: Tracks, second: Tracks) -> Tracks:
    """Return the frames of both."""
    timed = ("visible", "position", "yaw", "border", "shown", "pixels", "covariance")
    return replace(first, **{n: torch.cat((getattr(first, n), getattr(second, n)), 1) for n in timed})


def test_the_filter_foresees_a_slide_and_a_collision():
    torch.manual_seed(0)
    constants = Constants()
    start = scene(
        [CYLINDER, CUBE, CYLINDER],
        [[-2.5, 0.0], [0.0, 0.02], [1.0, 3.0]],
        [[1.12, 0.0], [0.0, 0.0], [0.0, -0.8]],
        deceleration=constants.cylinder_deceleration,
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
    before = scene([CYLINDER], [[0.0, 0.0]], [[1.0, 0.0]], deceleration=0.2)
    after = scene([CYLINDER], [[1.2, 0.0]], [[0.0, 0.8]], deceleration=0.2)
    first, second = filmed(before, constants, 6, 0.0), filmed(after, constants, 4, 0.0)
    velocity = observe(after_one_another(first, second), constants).state.velocity[0, 0]
    assert abs(velocity[0]) < 0.1 and abs(velocity[1] - 0.65) < 0.1


@pytest.mark.parametrize("elasticity", [0.5, 0.7])
def test_a_hit_in_an_object_s_second_frame_is_understood(elasticity):
    """Nothing but where it got says how fast it came in; that, and what became of the other, needs the hit."""
    constants = Constants()
    at, speed = [[-0.62, 0.05], [0.0, 0.0]], [[1.4, 0.0], [0.0, 0.0]]
    start = scene([CYLINDER, CYLINDER], at, speed, deceleration=constants.cylinder_deceleration, elasticity=elasticity)
    coming = filmed(start, constants, 2, 0.0)
    resting = filmed(scene([CYLINDER, CYLINDER], at, [[0.0, 0.0]] * 2), constants, 5, 0.0)
    resting.visible[:, :, 0] = False
    film = after_one_another(resting, coming)
    end, hit = advance(start, constants, FRAME_SECONDS, 96)
    assert hit.min() > 0.5
    state = observe(film, constants).state
    assert (state.velocity - end.velocity).norm(dim=-1).max() < 0.1
    unforeseen = coming.position[:, 1] - coming.position[:, 0]
    assert (unforeseen / FRAME_SECONDS - end.velocity).norm(dim=-1).min() > 0.3


def test_an_unforeseen_hit_elsewhere_does_not_make_a_newcomer_roll():
    """What comes in is at first believed to stand, and from a stand every sphere would be rolling a frame later."""
    constants = Constants(sphere_deceleration=0.2)
    start = scene([SPHERE, CUBE], [[-2.0, -1.0], [0.0, 1.0]], [[1.6, 0.0], [0.0, 0.0]], deceleration=0.2)
    film = filmed(start, constants, 5, 0.0)
    film.visible[:, 0, 0] = False
    film.position[:, 2:, 1, 1] += 0.1 * torch.arange(1, 4)
    state = observe(film, constants).state
    assert state.velocity[0, 1, 1] > 0.2  # it was hit
    assert abs(state.velocity[0, 0, 0] - 1.33) < 0.05
    assert state.roll[0, 0, 0] < 0.6


def test_what_is_known_badly_moves_the_filter_less():
    film = filmed(scene([CYLINDER], [[0.0, 0.0]], [[0.5, 0.0]], deceleration=0.2), SMOOTH, 8, 0.0)
    film.position[:, -1, 0, 1] += 0.04
    vague = film.covariance.clone()
    vague[:, -1] *= 400
    trusted, doubted = (
        observe(replace(film, covariance=c), Constants()).state.position[0, 0, 1] for c in (film.covariance, vague)
    )
    assert trusted > 0.03 and doubted.abs() < 0.005


def test_constants_are_found_from_films():
    torch.manual_seed(0)
    truth = Constants(cylinder_deceleration=0.32)
    parts = [
        filmed(scene([CYLINDER], [[0.0, 0.0]], [[1.0 + 0.05 * n, 0.3]], deceleration=0.32), truth, 22, 0.001)
        for n in range(6)
    ]
    films = join(parts)
    films.visible[:, :8] = False  # what is left before frame 11 does not tell, the whole film does
    found = fit_constants(films, slice(11, 22), Constants(edge_noise=2.5))
    assert 0.28 < found.cylinder_deceleration < 0.36
    assert found.edge_noise == 2.5


@pytest.mark.parametrize("deceleration", [0.12, 0.2])
def test_what_too_few_objects_tell_is_searched_for(deceleration):
    torch.manual_seed(0)
    truth = Constants(cylinder_deceleration=deceleration)
    starts = [
        scene([CYLINDER], [[0.0, 0.0]], [[1.0 + 0.05 * n, 0.3]], deceleration=deceleration) for n in range(FEWEST - 1)
    ]
    films = join([filmed(start, truth, 22, 0.001) for start in starts])
    films.visible[:, :8] = False
    found = fit_constants(films, slice(11, 22), Constants())
    assert found.cylinder_deceleration == pytest.approx(deceleration, abs=0.01)


def test_usual_decelerations_are_those_that_most_objects_have():
    torch.manual_seed(0)
    constants = Constants(damping=0.0)
    usual, scatter = {CUBE: 0.3, SPHERE: 0.1, CYLINDER: 0.4}, 0.03
    films = []
    for n in range(30):
        kind = list(usual)[n % 3]
        start = scene([kind], [[0.0, 0.0]], [[1.3, 0.3]], deceleration=usual[kind] + scatter * float(torch.randn(())))
        films.append(filmed(start, constants, 11, 0.001))
    films[0].position[:, 6:] += 0.3  # what is hit without notice does not count
    found = with_usual_decelerations(constants, observe(join(films), replace(constants, deceleration_spread=OPEN)))
    assert found.cube_deceleration == pytest.approx(usual[CUBE], abs=0.02)
    assert found.sphere_deceleration == pytest.approx(usual[SPHERE], abs=0.02)
    assert found.cylinder_deceleration == pytest.approx(usual[CYLINDER], abs=0.02)
    cells = (torch.arange(200) + 0.5) / 500 - 0.2  # of the cube's floor
    arm = torch.cartesian_prod(cells, cells).norm(dim=1).mean()
    inertia = 0.4**2 / 6  # per mass
    assert found.spin_deceleration == pytest.approx(float(arm / inertia) * found.cube_deceleration, rel=1e-3)
    few = join(films[:9])
    assert with_usual_decelerations(constants, observe(few, replace(constants, deceleration_spread=OPEN))) == constants


def test_the_filter_sees_that_a_sphere_has_begun_to_roll():
    constants = Constants(sphere_deceleration=0.25)
    film = filmed(scene([SPHERE], [[0.0, 0.0]], [[0.9, 0.3]], deceleration=0.25), constants, 22, 0.0)
    rollout = roll_out(film.frames(slice(11)), constants, 11, 2)
    assert (rollout.path[0, 0, 0, -1] - film.position[0, -1, 0]).norm() < 0.03
    slid = scene([SPHERE], film.position[:, 10].tolist()[0], rollout.velocity.tolist()[0], deceleration=0.25)
    for _ in range(11):
        slid, _ = advance(slid, constants)
    assert (slid.position[0, 0] - film.position[0, -1, 0]).norm() > 0.3


def test_slopes_of_free_motion_are_the_simulator_s():
    torch.manual_seed(0)
    count = 200
    velocity = torch.randn(count, 1, 2)
    some = {"shape": torch.full((count, 1), SPHERE), "there": torch.ones(count, 1, dtype=torch.bool)}
    still, zero = torch.zeros(count, 1, 2), torch.zeros(count, 1)
    roll = velocity * torch.rand(count, 1, 1)
    state = State(
        **some,
        position=still,
        velocity=velocity,
        yaw=zero,
        spin=zero,
        deceleration=zero + 0.3,
        elasticity=zero + 0.5,
        roll=roll,
    )
    reach = torch.full((count, COMPONENTS), 1e-6, dtype=torch.float64)
    _, by_formula, _ = _slopes(state, reach, SMOOTH, None)
    _, by_trying, _ = _slopes(state, reach, SMOOTH, torch.ones(count, dtype=torch.bool))
    slip = (velocity - roll).norm(dim=-1)[:, 0]
    until_rolling = slip / (3.5 * 0.3)
    clear = (slip > 0.05) & ((until_rolling - FRAME_SECONDS).abs() > 0.01)  # there the simulator's steps show
    assert clear.sum() > 150 and (until_rolling < FRAME_SECONDS)[clear].sum() > 20
    assert torch.allclose(by_formula[clear], by_trying[clear], atol=0.01)


@pytest.mark.parametrize("frames", [3, 8])
def test_another_prior_is_as_if_the_filter_had_begun_with_it(frames):
    old, new = Constants(cylinder_deceleration=0.2), Constants(cylinder_deceleration=0.3)
    film = filmed(scene([CYLINDER], [[0.0, 0.0]], [[0.9, 0.3]], deceleration=0.25), Constants(), frames, 0.0)
    again = observe(film, new).state.deceleration
    assert torch.allclose(reconsidered(observe(film, old), old, new).deceleration, again, atol=0.005)
    assert (again - 0.25 < 0.01) == (frames == 8)
