"""The stand-in's motion against closed forms and conservation laws."""

import numpy as np
import pytest

from data_prep.scene import FRAME_SECONDS
from data_prep.standin import physics
from tests.conftest import simulate_many


def slide(shape, position, velocity, spin=None, deceleration=None, elasticity=None):
    count = len(shape)
    return physics.slide(
        np.array(shape),
        np.array(position, float),
        np.zeros(count),
        np.array(velocity, float),
        np.zeros(count) if spin is None else np.array(spin),
        np.zeros(count) if deceleration is None else np.array(deceleration),
        np.full(count, 0.7) if elasticity is None else np.array(elasticity),
    )


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_speed_falls_as_friction_and_damping_say_until_it_stops(shape):
    speed, loss, damping = 0.8, 0.2, physics.LINEAR_DAMPING
    position, _, collided = slide([shape], [[0.0, 1.0]], [[0.6 * speed, 0.8 * speed]], deceleration=[loss])
    stop = np.log1p(damping * speed / loss) / damping
    time = np.minimum(np.arange(22) * FRAME_SECONDS, stop)
    way = (speed + loss / damping) * (1 - np.exp(-damping * time)) / damping - loss / damping * time
    np.testing.assert_allclose(position[:, 0], [0.0, 1.0] + way[:, None] * np.array([0.6, 0.8]), atol=0.01)
    assert stop < 21 * FRAME_SECONDS and (position[-1] == position[-2]).all() and not collided.any()


def test_a_spinning_cube_slows_down_evenly():
    _, yaw, _ = slide([0], [[0.0, 0.0]], [[0.0, 0.0]], spin=[2.0], deceleration=[0.2])
    steps = np.diff(yaw[:, 0])
    moving = steps > 0.01
    assert (np.diff(steps) <= 1e-6).all() and steps[-1] < 1e-3
    np.testing.assert_allclose(np.diff(steps[moving][:-1], 2), 0, atol=5e-3)


@pytest.mark.parametrize("elasticity", [(0.6, 0.6), (0.8, 0.7)])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_a_hit_keeps_momentum_and_takes_the_restitution_s_part(elasticity, offset):
    position, _, collided = slide([1, 1], [[-1.0, 0.0], [0.0, offset]], [[1.0, 0.0], [0.0, 0.0]], elasticity=elasticity)
    hit = int(collided.any(1).argmax())
    assert 0 < hit < 6 and collided[hit].all() and not collided[hit + 1 :].any()
    after = hit + 2
    velocity = (position[after + 1] - position[after]) / FRAME_SECONDS
    left = np.exp(-physics.LINEAR_DAMPING * (after + 0.5) * FRAME_SECONDS)
    np.testing.assert_allclose(velocity.sum(0), [left, 0], atol=0.01)
    line = np.array([np.sqrt(0.16 - offset**2), offset]) / 0.4  # from centre to centre as they touch
    parting = (velocity[1] - velocity[0]) @ line
    assert parting == pytest.approx(np.prod(elasticity) * line[0] * left, abs=0.05)


def test_of_a_cylinder_and_a_sphere_the_sphere_s_speed_changes_half_as_much_again():
    start, velocity = [[-0.7, 0.0], [0.0, 0.1]], [[1.0, 0.0], [0.0, 0.0]]
    position, _, collided = slide([2, 1], start, velocity)
    after = int(collided.any(1).argmax()) + 2
    left = np.exp(-physics.LINEAR_DAMPING * (after + 0.5) * FRAME_SECONDS)
    change = (position[after + 1] - position[after]) / FRAME_SECONDS - left * np.array(velocity)
    np.testing.assert_allclose(change[1], -1.5 * change[0], atol=0.01)
    assert np.linalg.norm(change[1]) > 0.5


def test_spheres_roll_on():
    random = np.random.default_rng(0)
    for _ in range(10):
        video = physics.invent(random)
        speed = np.linalg.norm(np.diff(video.position, axis=0), axis=-1) / FRAME_SECONDS
        alone = ~video.collided.any(0)
        lost = (speed[0] - speed[-1]) / (21 * FRAME_SECONDS) - physics.LINEAR_DAMPING * (speed[0] + speed[-1]) / 2
        rolled, slid = alone & (video.shape == 1), alone & (video.shape != 1) & (speed[-1] > 0.1)
        np.testing.assert_allclose(lost[rolled], 0, atol=0.01)
        assert (lost[slid] > 0.1).all()


def test_a_cube_hit_off_its_middle_turns():
    _, yaw, _ = slide([1, 0], [[-1.0, 0.15], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    assert yaw[-1, 1] < -0.1


def test_videos_keep_the_rules():
    for video in simulate_many(3, 20):
        count = len(video.class_ids)
        assert 1 <= count <= physics.MAX_OBJECTS and len(set(video.class_ids)) == count
        assert video.class_ids.min() >= 1 and video.class_ids.max() <= 48
        assert video.position.shape == (22, count, 2) and video.position.dtype == np.float32
        assert video.yaw.shape == video.collided.shape == (22, count) and not video.collided[0].any()
        apart = np.linalg.norm(video.position[:, :, None] - video.position[:, None], axis=-1) + 9 * np.eye(count)
        assert (apart[0] > physics.CLEARANCE - 1e-5).all()
        assert (apart > 2 * physics.RADIUS - 0.03).all()


def test_a_video_depends_on_seed_and_number_alone():
    first, again = simulate_many(5, 4), simulate_many(5, 2, start=2)
    for one, other in zip(first[2:], again, strict=True):
        for name in ("class_ids", "shape", "position", "yaw", "collided"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert physics.video_seed(0, 1) != physics.video_seed(1, 0)


def test_entrants_reach_the_edge_when_they_should():
    border, target = np.array([0.0, 3.0]), np.array([0.0, 0.0])
    loss = float(np.mean(physics.DECELERATION))
    start, velocity = physics.approach(border, target, 1.0, 6.0, loss)
    position, _, _ = slide([1], [start], [velocity], deceleration=[loss])
    np.testing.assert_allclose(position[6, 0], border, atol=0.02)
    assert np.linalg.norm(position[7, 0] - position[6, 0]) / FRAME_SECONDS == pytest.approx(1.0, abs=0.05)
