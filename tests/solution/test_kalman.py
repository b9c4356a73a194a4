"""The filter and the foresight against what the simulator filmed."""

from dataclasses import replace

import pytest
import torch

from data_prep.classes import CUBE, CYLINDER, SPHERE
from data_prep.scene import FRAME_SECONDS
from solution.kalman import _slopes, observe
from solution.physics import COMPONENTS, Constants, State, advance
from solution.rollout import roll_out
from solution.tracks import Tracks, join
from tests.solution.test_physics import scene, smooth

EDGE_VARIANCE = (0.002 / Constants.edge_noise) ** 2


def filmed(state: State, constants: Constants, frames: int, noise: float, jolt: float = 0.0) -> Tracks:
    """Return perfect tracks, but for noise, of what the simulator makes of a state.

    Every component of the velocity after a hit has an error of ``jolt`` times the hit.
    """
    position, yaw = [], []
    for _ in range(frames):
        position.append(state.position + noise * torch.randn_like(state.position))
        yaw.append(state.yaw)
        state, hit = advance(state, constants, FRAME_SECONDS, 8)
        if jolt:
            error = jolt * hit[..., None] * torch.randn_like(state.velocity)
            state = replace(state, velocity=state.velocity + error)
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
        [[-3.1, 0.0], [0.0, 0.02], [1.0, 3.0]],
        [[1.3, 0.0], [0.0, 0.0], [0.0, -0.8]],
    )
    film = filmed(start, constants, 22, 0.002)
    position, yaw = roll_out(observe(film.frames(slice(11)), constants), constants, 11, 5)
    assert (film.position[:, 21, 1] - film.position[:, 0, 1]).norm() > 0.1  # it was hit
    assert (position[:, :, 0] - film.position[:, 21]).norm(dim=-1).max() < 0.08
    assert position.shape == (1, 3, 5, 2) and yaw.shape == (1, 3, 5)
    spread = position.std(2).norm(dim=-1)[0]
    assert spread[1] > 2 * spread[2], "what is hit is less sure than what is not"


def test_an_unforeseen_hit_is_believed_after_two_more_frames():
    constants = Constants()
    before = scene([CYLINDER], [[0.0, 0.0]], [[1.0, 0.0]])
    after = scene([CYLINDER], [[1.2, 0.0]], [[0.0, 0.8]])
    first, second = filmed(before, constants, 6, 0.0), filmed(after, constants, 4, 0.0)
    velocity = observe(after_one_another(first, second), constants).state.velocity[0, 0]
    assert abs(velocity[0]) < 0.1 and abs(velocity[1] - 0.65) < 0.1


@pytest.mark.parametrize("restitution", [0.3, 0.5])
def test_a_hit_in_an_object_s_second_frame_is_understood(restitution):
    """Nothing but where it got says how fast it came in; that, and what became of the other, needs the hit."""
    constants = Constants(restitution=(restitution,) * 6)
    at, speed = [[-0.62, 0.05], [0.0, 0.0]], [[1.4, 0.0], [0.0, 0.0]]
    start = scene([CYLINDER, CYLINDER], at, speed)
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
    constants = smooth(0.2)
    start = scene([SPHERE, CUBE], [[-2.0, -1.0], [0.0, 1.0]], [[1.6, 0.0], [0.0, 0.0]])
    film = filmed(start, constants, 5, 0.0)
    film.visible[:, 0, 0] = False
    film.position[:, 2:, 1, 1] += 0.1 * torch.arange(1, 4)
    state = observe(film, constants).state
    assert state.velocity[0, 1, 1] > 0.2  # it was hit
    assert abs(state.velocity[0, 0, 0] - (1.6 - 0.2 * 4 * FRAME_SECONDS)) < 0.05
    assert state.roll[0, 0, 0] < 0.75 * state.velocity[0, 0, 0]


@pytest.mark.parametrize("rolled", [0.0, 1.0])
def test_an_unforeseen_hit_makes_a_sphere_roll_as_a_foreseen_one_does(rolled):
    """With the slip of before it would be pushed on for seconds."""
    constants = smooth(0.2, rolled=rolled)
    before = scene([SPHERE], [[-1.5, 0.0]], [[1.5, 0.0]])
    after = scene([SPHERE], [[0.4, 0.1]], [[0.1, 0.6]])
    before = replace(before, roll=before.velocity)
    after = replace(after, roll=rolled * after.velocity + (1 - rolled) * before.velocity)
    film = after_one_another(filmed(before, constants, 6, 0.0), filmed(after, constants, 4, 0.0))
    state = observe(film, constants).state
    last = filmed(after, constants, 4, 0.0)
    assert (state.position[0, 0] - last.position[0, -1, 0]).norm() < 0.01
    slip = (state.velocity - state.roll)[0, 0]
    assert slip.norm() < 0.1 if rolled else slip[0] < -0.8


def test_what_is_known_badly_moves_the_filter_less():
    film = filmed(scene([CYLINDER], [[0.0, 0.0]], [[0.5, 0.0]]), Constants(), 8, 0.0)
    film.position[:, -1, 0, 1] += 0.04
    vague = film.covariance.clone()
    vague[:, -1] *= 400
    trusted, doubted = (
        observe(replace(film, covariance=c), Constants()).state.position[0, 0, 1] for c in (film.covariance, vague)
    )
    assert trusted > 0.03 and doubted.abs() < 0.005


def test_the_filter_sees_that_a_sphere_has_begun_to_roll():
    constants = smooth(0.25, drift=(0.001,) * 3)
    film = filmed(scene([SPHERE], [[0.0, 0.0]], [[0.9, 0.3]]), constants, 22, 0.0)
    position, _ = roll_out(observe(film.frames(slice(11)), constants), constants, 11, 2)
    assert (position[0, 0, 0] - film.position[0, -1, 0]).norm() < 0.03
    velocity = observe(film.frames(slice(11)), constants).state.velocity
    slid = scene([SPHERE], film.position[:, 10].tolist()[0], velocity.tolist()[0])
    for _ in range(11):
        slid, _ = advance(slid, constants)
    assert (slid.position[0, 0] - film.position[0, -1, 0]).norm() > 0.3


def test_slopes_of_a_slide_are_those_of_its_formula():
    """While it slides, a frame of uniform deceleration turns no speed and shortens what is aside of the course."""
    speed, deceleration, dt = 1.2, 0.4, FRAME_SECONDS
    state = scene([CYLINDER], [[0.0, 0.0]], [[speed, 0.0]])
    reach = torch.full((1, COMPONENTS), 1e-4, dtype=torch.float64)
    after, slope, added = _slopes(state, reach, smooth(deceleration, drift=(0.01,) * 3), None)
    aside = 1 - deceleration * dt / speed
    assert float(after.velocity[0, 0, 0]) == pytest.approx(speed - deceleration * dt, abs=1e-5)
    assert float(slope[0, 2, 2]) == pytest.approx(1.0, abs=1e-3)
    assert float(slope[0, 0, 2]) == pytest.approx(dt, abs=1e-3)
    assert float(slope[0, 3, 3]) == pytest.approx(aside, abs=1e-3)
    assert float(slope[0, 4, 5]) == pytest.approx(dt, abs=1e-4)
    assert float(added[0, 2]) == pytest.approx(0.01**2)


def test_slopes_of_solids_apart_are_those_of_each_alone():
    torch.manual_seed(0)
    state = scene([SPHERE, CUBE, CYLINDER], [[-2.0, 0.0], [0.0, 2.0], [1.5, -1.0]], torch.randn(3, 2).tolist())
    reach = torch.full((1, 3 * COMPONENTS), 1e-4, dtype=torch.float64)
    _, alone, _ = _slopes(state, reach, Constants(), None)
    _, together, _ = _slopes(state, reach, Constants(), torch.tensor([True]))
    assert torch.allclose(alone, together, atol=1e-3)


def test_deviations_are_as_large_as_errors():
    """Errors of the velocity over their stated deviations follow a normal law where the constants are right."""
    torch.manual_seed(0)
    constants = smooth(0.15, edge_noise=1.0, drift=(1e-4,) * 3)
    starts = [scene([CYLINDER], [[0.0, 0.0]], [[0.8 + 0.02 * n, 0.2]]) for n in range(40)]
    film = join([filmed(start, constants, 11, 0.004) for start in starts])
    belief = observe(replace(film, covariance=0.004**2 * torch.eye(3).expand(40, 11, 1, 3, 3)), constants)
    truth = torch.cat([advance(start, constants, 10 * FRAME_SECONDS, 80)[0].velocity for start in starts])
    error = ((belief.state.velocity - truth) / belief.variance()[..., 2:4].sqrt()).abs().flatten()
    for share, normal in ((0.5, 0.674), (0.75, 1.15), (0.9, 1.645)):
        assert float(error.quantile(share)) == pytest.approx(normal, rel=0.3)
