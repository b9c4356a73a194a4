"""The simulator against closed forms, and against another one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.classes import CUBE, CYLINDER, SPHERE
from data_prep.scene import FRAME_SECONDS, MASS, RADIUS
from data_prep.standin.physics import SIDE_FRICTION, slide
from solution.physics import Constants, State, advance, contact


def scene(shape, position, velocity, yaw=0.0, deceleration=0.0, elasticity=1.0):
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
        elasticity=torch.full((1, k), elasticity),
        roll=torch.zeros(1, k, 2),
    )


SMOOTH = Constants(damping=0.0, friction=0.0, spin_deceleration=0.0)


def test_sliding_stops_where_uniform_deceleration_does():
    start = scene([CYLINDER], [[0.0, 0.0]], [[0.6, 0.8]], deceleration=0.4)
    end, hit = advance(start, SMOOTH, 4.0, 400)
    assert torch.allclose(end.position, torch.tensor([[[0.75, 1.0]]]), atol=0.01)  # v² / 2a = 1.25 along (0.6, 0.8)
    assert end.velocity.abs().max() == 0 and hit.max() == 0


def test_a_thrown_sphere_slides_until_it_rolls_on():
    """It rolls at 5/7 of its speed after 2/7 of it is lost (Coriolis 1835)."""
    start = scene([SPHERE], [[0.0, 0.0]], [[0.84, 1.12]], deceleration=0.4)
    end, _ = advance(start, SMOOTH, 3.0, 300)
    rolling = torch.tensor([[[0.6, 0.8]]])
    assert torch.allclose(end.velocity, rolling, atol=1e-3) and torch.allclose(end.roll, rolling, atol=1e-3)
    # 1 s from 1.4 to 1 units/s, and 2 s at 1 unit/s.
    assert torch.allclose(end.position, 3.2 * rolling, atol=5e-3)


def test_a_rolling_sphere_that_was_stopped_sets_out_again():
    start = replace(scene([SPHERE], [[0.0, 0.0]], [[0.0, 0.0]], deceleration=0.4), roll=torch.tensor([[[0.7, 0.0]]]))
    end, _ = advance(start, SMOOTH, 2.0, 200)
    assert torch.allclose(end.velocity, torch.tensor([[[0.2, 0.0]]]), atol=1e-3)


@pytest.mark.parametrize("kinds", [(CYLINDER, SPHERE), (CUBE, CYLINDER)])
def test_the_lighter_one_flies_off(kinds):
    first, second = (MASS[kind] for kind in kinds)
    start = scene(kinds, [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    end, _ = advance(start, SMOOTH, 1.5, 150)
    after = torch.tensor([[first - second, 2 * first]]) / (first + second)
    assert torch.allclose(end.velocity[..., 0], after, atol=1e-4)


@pytest.mark.parametrize("shape", [SPHERE, CUBE])
@pytest.mark.parametrize("restitution", [1.0, 0.5])
def test_head_on_exchange(shape, restitution):
    start = scene([shape] * 2, [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]], elasticity=restitution**0.5)
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
        elasticity=torch.full((scenes, k), 0.6**0.5),
        roll=torch.zeros(scenes, k, 2),
    )
    end, hit = advance(state, Constants(damping=0.0, spin_deceleration=0.0), 1.0, 100)
    assert (hit > 0).float().mean() > 0.1
    mass = torch.tensor(MASS)[state.shape][..., None]
    assert torch.allclose((mass * end.velocity).sum(1), (mass * state.velocity).sum(1), atol=1e-4)
    energy = lambda s: (mass * s.velocity.square()).sum((1, 2))  # noqa: E731
    assert (energy(end) <= energy(state) + 1e-4).all()


def test_where_a_hit_leads_does_not_depend_on_when_a_step_of_the_simulator_ends():
    start = scene([SPHERE, CUBE], [[-0.57, 0.05], [0.0, 0.0]], [[1.3, 0.0], [0.0, 0.0]], elasticity=0.7)
    coarse, fine = (advance(start, SMOOTH, FRAME_SECONDS, substeps)[0] for substeps in (6, 400))
    assert fine.velocity[0, 1, 0] > 0.5
    assert (coarse.position - fine.position).abs().max() < 1e-3  # in one of 6 steps the ball goes 0.05


def test_after_a_hit_a_square_recedes_as_elasticity_says_where_it_was_hit_off_its_middle():
    start = scene([CUBE, SPHERE], [[0.0, 0.0], [0.4, 0.12]], [[0.0, 0.0], [-1.0, 1.2]], elasticity=0.8)
    end, hit = advance(start, Constants(damping=0.0, spin_deceleration=0.0, friction=0.1), 2e-4, 1)
    arm = torch.tensor([[RADIUS, 0.12], [-RADIUS, 0.0]])
    there = end.velocity[0] + end.spin[0][:, None] * torch.stack((-arm[:, 1], arm[:, 0]), 1)
    parting = there[1] - there[0]
    assert parting[0] == pytest.approx(0.8**2, abs=2e-3)
    assert 0 < parting[1] < 1.2  # rubs, and slides on
    assert end.velocity[0, 0, 1] == pytest.approx(0.1 * float(hit[0, 0]), abs=1e-4)


@pytest.mark.parametrize("kinds", [(CYLINDER, CYLINDER), (SPHERE, CUBE), (CUBE, CUBE)])
def test_hits_like_the_stand_in_s(kinds):
    """That one is simulated by pymunk, which shares nothing with this."""
    random = np.random.default_rng(0)
    errors = []
    for _ in range(30):
        position = np.array([[-0.8, 0.0], [0.0, random.uniform(-0.25, 0.25)]])
        velocity, yaw = np.array([[1.5, 0.0], [0.0, 0.0]]), random.uniform(0, 6, 2)
        loss, alike = np.where(np.equal(kinds, SPHERE), 0.0, 0.2), np.full(2, 0.7)
        places, _, _ = slide(np.array(kinds), position, yaw, velocity, np.zeros(2), loss, alike)
        state = scene(kinds, position.tolist(), velocity.tolist(), elasticity=0.7)
        told = {"yaw": yaw, "deceleration": loss}
        state = replace(state, **{name: torch.tensor(each, dtype=torch.float32)[None] for name, each in told.items()})
        for _ in range(5):
            state, _ = advance(state, Constants(friction=SIDE_FRICTION**2))
        errors.append(np.linalg.norm(state.position[0].numpy() - places[5], axis=1).max())
    assert np.median(errors) < 0.01


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
