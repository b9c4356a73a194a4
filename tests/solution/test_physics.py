"""The simulator against closed forms, and against another one."""

import math
from dataclasses import replace

import pytest
import torch

from data_prep.classes import CUBE, CYLINDER, SPHERE
from data_prep.scene import FRAME_SECONDS, RADIUS
from solution.physics import PAIRS, Constants, State, advance, contact, stacked

MASS = (1.2, 0.7, 1.0)


def scene(shape, position, velocity, yaw=0.0):
    shape = torch.tensor([shape])
    k = shape.shape[1]
    return State(
        shape=shape,
        there=torch.ones(1, k, dtype=torch.bool),
        position=torch.tensor([position]),
        velocity=torch.tensor([velocity]),
        yaw=torch.full((1, k), yaw),
        spin=torch.zeros(1, k),
        roll=torch.zeros(1, k, 2),
    )


def smooth(deceleration=0.0, restitution=1.0, **others) -> Constants:
    """Return constants of round numbers: no air, no friction between solids, all shapes alike but for the mass."""
    simple = {"damping": 0.0, "drag": 0.0, "friction": 0.0, "spin_deceleration": 0.0, "dullness": 0.0, "rolled": 0.0}
    simple |= {"size": 1.0, "mass": MASS, "restitution": (restitution,) * 6, "deceleration": (deceleration,) * 3}
    return Constants(**simple | others)


def test_sliding_stops_where_uniform_deceleration_does():
    start = scene([CYLINDER], [[0.0, 0.0]], [[0.6, 0.8]])
    end, hit = advance(start, smooth(0.4), 4.0, 400)
    assert torch.allclose(end.position, torch.tensor([[[0.75, 1.0]]]), atol=0.01)  # v² / 2a = 1.25 along (0.6, 0.8)
    assert end.velocity.abs().max() == 0 and hit.max() == 0


def test_the_air_takes_the_more_the_faster():
    """dv/dt = -a v - b v² has v = a / ((a / v0 + b) exp(a t) - b)."""
    start = scene([CYLINDER], [[0.0, 0.0]], [[1.2, 1.6]])
    end, _ = advance(start, smooth(damping=0.2, drag=0.1), 3.0, 3000)
    expected = 0.2 / ((0.2 / 2 + 0.1) * math.exp(0.6) - 0.1)
    assert float(end.velocity.norm()) == pytest.approx(expected, rel=2e-3)


def test_a_thrown_sphere_slides_until_it_rolls_on():
    """It rolls at 5/7 of its speed after 2/7 of it is lost (Coriolis 1835)."""
    start = scene([SPHERE], [[0.0, 0.0]], [[0.84, 1.12]])
    end, _ = advance(start, smooth(0.4), 3.0, 300)
    rolling = torch.tensor([[[0.6, 0.8]]])
    assert torch.allclose(end.velocity, rolling, atol=1e-3) and torch.allclose(end.roll, rolling, atol=1e-3)
    # 1 s from 1.4 to 1 units/s, and 2 s at 1 unit/s.
    assert torch.allclose(end.position, 3.2 * rolling, atol=5e-3)


def test_a_rolling_sphere_that_was_stopped_sets_out_again():
    start = replace(scene([SPHERE], [[0.0, 0.0]], [[0.0, 0.0]]), roll=torch.tensor([[[0.7, 0.0]]]))
    end, _ = advance(start, smooth(0.4), 2.0, 200)
    assert torch.allclose(end.velocity, torch.tensor([[[0.2, 0.0]]]), atol=1e-3)


@pytest.mark.parametrize("kinds", [(CYLINDER, SPHERE), (CUBE, CYLINDER)])
def test_the_lighter_one_flies_off(kinds):
    first, second = (MASS[kind] for kind in kinds)
    start = scene(kinds, [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    end, _ = advance(start, smooth(), 1.5, 150)
    after = torch.tensor([[first - second, 2 * first]]) / (first + second)
    assert torch.allclose(end.velocity[..., 0], after, atol=1e-4)


@pytest.mark.parametrize("shape", [SPHERE, CUBE])
@pytest.mark.parametrize("restitution", [1.0, 0.5])
def test_head_on_exchange(shape, restitution):
    start = scene([shape] * 2, [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    end, hit = advance(start, smooth(restitution=restitution), 1.5, 150)
    first, second = (1 - restitution) / 2, (1 + restitution) / 2
    assert torch.allclose(end.velocity, torch.tensor([[[first, 0.0], [second, 0.0]]]), atol=1e-4)
    assert (hit > 0).all()


@pytest.mark.parametrize("which", range(len(PAIRS)))
def test_how_solids_part_depends_on_both_and_on_their_speed(which):
    """They part at the restitution times the speed of approach, less the dullness, but never negative."""
    restitution = [0.9] * 6
    restitution[which] = 0.5
    law = replace(smooth(dullness=0.2), restitution=tuple(restitution))
    for speed, parting in ((1.0, 0.3), (0.3, 0.0)):
        start = scene(PAIRS[which], [[-0.5, 0.0], [0.5, 0.0]], [[speed, 0.0], [0.0, 0.0]])
        end, _ = advance(start, law, 1.5 / speed, 150)
        assert float(end.velocity[0, 1, 0] - end.velocity[0, 0, 0]) == pytest.approx(parting, abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_sphere_that_is_hit_may_roll_at_once(share):
    start = scene([CYLINDER, SPHERE], [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    end, _ = advance(start, smooth(rolled=share), 1.5, 150)
    assert torch.allclose(end.roll[0, 1], share * end.velocity[0, 1], atol=1e-5) and end.velocity[0, 1, 0] > 0.5


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_hit_takes_slip_off_a_sphere_that_slid_before(share):
    """As much as it changes the velocity, times the share, but never more than there is."""
    start = scene([SPHERE, CYLINDER], [[-0.5, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    end, _ = advance(start, smooth(restitution=0.0, rolled=share), 1.5, 150)
    velocity, roll = float(end.velocity[0, 0, 0]), float(end.roll[0, 0, 0])
    assert 0 < velocity < 0.5 and roll == pytest.approx(min(velocity, share * (1.0 - velocity)), abs=1e-3)


def test_solids_touch_at_the_size_they_are_said_to_have():
    start = scene([SPHERE, SPHERE], [[-0.5, 0.0], [0.0, 0.0]], [[0.4, 0.0], [0.0, 0.0]])
    for size, meets in ((1.1, True), (0.9, False)):
        _, hit = advance(start, smooth(size=size), 0.3, 30)  # 0.12 nearer: from 0.5 to 0.38
        assert bool(hit.any()) == meets


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
        roll=torch.zeros(scenes, k, 2),
    )
    end, hit = advance(state, smooth(restitution=0.6, friction=0.1), 1.0, 100)
    assert (hit > 0).float().mean() > 0.1
    mass = torch.tensor(MASS)[state.shape][..., None]
    assert torch.allclose((mass * end.velocity).sum(1), (mass * state.velocity).sum(1), atol=1e-4)
    energy = lambda s: (mass * s.velocity.square()).sum((1, 2))  # noqa: E731
    assert (energy(end) <= energy(state) + 1e-4).all()


def test_scenes_of_several_laws_move_as_those_of_each_alone():
    torch.manual_seed(0)
    shapes, where = torch.randint(3, (6, 4)), torch.tensor([[0.0, 0.0], [0.42, 0.05], [0.0, 0.45], [0.4, 0.5]])
    still = torch.zeros(6, 4)
    state = State(shapes, still == 0, where.repeat(6, 1, 1), torch.randn(6, 4, 2), still, still, torch.zeros(6, 4, 2))
    other = Constants(
        (0.3, 0.1, 0.2), 0.1, 0.2, 0.9, (1.3, 0.7, 1.0), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), 0.01, 0.3, 0.2, 1.1
    )
    laws = [Constants(), other]
    both = State(**{name: torch.cat((part, part)) for name, part in vars(state).items()})
    end, hit = advance(both, stacked(laws, 6))
    assert (hit.view(2, -1) > 0).any(1).all()
    for n, law in enumerate(laws):
        alone, struck = advance(state, law)
        assert torch.allclose(end[6 * n : 6 * n + 6].vector(), alone.vector(), atol=1e-5)
        assert torch.allclose(hit[6 * n : 6 * n + 6], struck, atol=1e-5)


def test_where_a_hit_leads_does_not_depend_on_when_a_step_of_the_simulator_ends():
    start = scene([SPHERE, CUBE], [[-0.57, 0.05], [0.0, 0.0]], [[1.3, 0.0], [0.0, 0.0]])
    law = smooth(restitution=0.5)
    coarse, fine = (advance(start, law, FRAME_SECONDS, substeps)[0] for substeps in (6, 400))
    assert fine.velocity[0, 1, 0] > 0.5
    assert (coarse.position - fine.position).abs().max() < 1e-3  # in one of 6 steps the ball goes 0.05


def test_after_a_hit_a_square_recedes_as_restitution_says_where_it_was_hit_off_its_middle():
    start = scene([CUBE, SPHERE], [[0.0, 0.0], [0.4, 0.12]], [[0.0, 0.0], [-1.0, 1.2]])
    end, hit = advance(start, smooth(restitution=0.64, friction=0.1), 2e-4, 1)
    arm = torch.tensor([[RADIUS, 0.12], [-RADIUS, 0.0]])
    there = end.velocity[0] + end.spin[0][:, None] * torch.stack((-arm[:, 1], arm[:, 0]), 1)
    parting = there[1] - there[0]
    assert parting[0] == pytest.approx(0.64, abs=2e-3)
    assert 0 < parting[1] < 1.2  # rubs, and slides on
    assert end.velocity[0, 0, 1] == pytest.approx(0.1 * float(hit[0, 0]), abs=1e-4)


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
