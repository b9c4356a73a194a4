"""The simulator against closed forms, and the filter against what it simulated."""

import math
from dataclasses import replace

import pytest
import torch

from data_prep.scene import FRAME_SECONDS, RADIUS
from solution.physics import Constants, State, advance, contact, fit_constants, observe, roll_out
from solution.tracks import Tracks, join

SPHERE, CUBE = 1, 0


def scene(shape, position, velocity, yaw=0.0, deceleration=0.0, restitution=1.0):
    shape = torch.tensor([shape])
    k = shape.shape[1]
    return State(
        shape=shape,
        there=torch.ones(1, k, dtype=torch.bool),
        position=torch.tensor([position]),
        velocity=torch.tensor([velocity]),
        yaw=torch.full((1, k), yaw),
        spin=torch.zeros(1, k),
        deceleration=torch.full((1, k), deceleration),
        restitution=torch.tensor([restitution]),
    )


EDGE_VARIANCE = (0.002 / Constants.edge_noise) ** 2
SMOOTH = Constants(damping=0.0, friction=0.0, spin_deceleration=0.0)


def test_sliding_stops_where_uniform_deceleration_does():
    start = scene([SPHERE], [[0.0, 0.0]], [[0.6, 0.8]], deceleration=0.4)
    end, hit = advance(start, SMOOTH, 4.0, 400)
    assert torch.allclose(end.position, torch.tensor([[[0.75, 1.0]]]), atol=0.01)  # v² / 2a = 1.25 along (0.6, 0.8)
    assert end.velocity.abs().max() == 0 and hit.max() == 0


@pytest.mark.parametrize("shape", [SPHERE, CUBE])
@pytest.mark.parametrize("restitution", [1.0, 0.5])
def test_head_on_exchange(shape, restitution):
    start = scene([shape] * 2, [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]], restitution=restitution)
    end, hit = advance(start, SMOOTH, 1.5, 150)
    first, second = (1 - restitution) / 2, (1 + restitution) / 2
    assert torch.allclose(end.velocity, torch.tensor([[[first, 0.0], [second, 0.0]]]), atol=1e-4)
    assert (hit > 0).all()


def test_a_hit_keeps_momentum_and_never_adds_energy():
    torch.manual_seed(0)
    scenes, k = 64, 4
    state = State(
        shape=torch.randint(0, 3, (scenes, k)),
        there=torch.ones(scenes, k, dtype=torch.bool),
        position=torch.randn(scenes, k, 2) * 0.2 + torch.tensor([[-0.6, -0.6], [0.6, -0.6], [-0.6, 0.6], [0.6, 0.6]]),
        velocity=torch.randn(scenes, k, 2),
        yaw=torch.rand(scenes, k) * 6,
        spin=torch.zeros(scenes, k),
        deceleration=torch.zeros(scenes, k),
        restitution=torch.full((scenes,), 0.6),
    )
    end, hit = advance(state, Constants(damping=0.0, spin_deceleration=0.0), 1.0, 100)
    assert (hit > 0).float().mean() > 0.1
    assert torch.allclose(end.velocity.sum(1), state.velocity.sum(1), atol=1e-4)
    energy = lambda s: s.velocity.square().sum((1, 2))  # noqa: E731
    assert (energy(end) <= energy(state) + 1e-4).all()


def test_contact_is_the_same_seen_from_either_side_and_from_a_turned_floor():
    torch.manual_seed(1)
    n = 200
    p_i, p_j = torch.randn(n, 2) * 0.05, torch.randn(n, 2) * 0.05 + torch.tensor([0.36, 0.1])
    yaw_i, yaw_j = torch.rand(n) * 3, torch.rand(n) * 3
    disc_i, disc_j = torch.rand(n) < 0.5, torch.rand(n) < 0.5
    normal, depth, point = contact(p_i, yaw_i, disc_i, p_j, yaw_j, disc_j)
    back, same, there = contact(p_j, yaw_j, disc_j, p_i, yaw_i, disc_i)
    assert torch.allclose(depth, same, atol=1e-5)
    assert torch.allclose(normal, -back, atol=1e-4) and torch.allclose(point, there, atol=1e-4)
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned, same, there = contact(p_i @ turn, yaw_i + angle, disc_i, p_j @ turn, yaw_j + angle, disc_j)
    assert torch.allclose(depth, same, atol=1e-5) and torch.allclose(normal @ turn, turned, atol=1e-3)
    assert torch.allclose(point @ turn, there, atol=1e-3)


def test_two_squares_touch_at_the_distance_of_their_half_edges():
    p_i, p_j = torch.zeros(2, 2), torch.tensor([[2 * RADIUS, 0.0], [RADIUS * (1 + 2**0.5), 0.0]])
    disc = torch.tensor([False, False])
    normal, depth, point = contact(p_i, torch.zeros(2), disc, p_j, torch.tensor([0.0, math.pi / 4]), disc)
    assert torch.allclose(depth, torch.zeros(2), atol=1e-6)
    assert torch.allclose(normal, torch.tensor([1.0, 0.0]).expand(2, 2), atol=1e-6)
    assert torch.allclose(point, torch.tensor([RADIUS, 0.0]).expand(2, 2), atol=5e-3)


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


def test_the_filter_foresees_a_slide_and_a_collision():
    torch.manual_seed(0)
    constants = Constants()
    start = scene(
        [SPHERE, CUBE, SPHERE],
        [[-2.5, 0.0], [0.0, 0.02], [1.0, 3.0]],
        [[1.12, 0.0], [0.0, 0.0], [0.0, -0.8]],
        deceleration=constants.deceleration,
        restitution=constants.restitution,
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
    joined = Tracks(
        first.classes,
        *(
            torch.cat((getattr(first, n), getattr(second, n)), 1)
            for n in ("visible", "position", "yaw", "border", "shown", "covariance")
        ),
    )
    velocity = observe(joined, constants).state.velocity[0, 0]
    assert abs(velocity[0]) < 0.1 and abs(velocity[1] - 0.65) < 0.1


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
    found = fit_constants(join(parts), slice(11, 22), Constants()).deceleration
    # What the filter reads off the clips themselves need not be put right by the constant.
    assert 0.23 < found < 0.4
    assert fit_constants(join(parts), slice(11, 22), Constants(edge_noise=3.0)).edge_noise == 3.0
