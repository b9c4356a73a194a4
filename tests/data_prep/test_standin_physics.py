"""The stand-in's motion against closed forms and conservation laws."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.classes import CUBE, CYLINDER, SPHERE
from data_prep.scene import FRAME_SECONDS, RADIUS
from data_prep.standin import physics
from data_prep.standin.engine import LAW, Course, slide
from tests.conftest import simulate_many

ICE = replace(LAW, deceleration=(1e-6,) * 3, damping=0.0, spin_damping=0.0, spin_deceleration=0.0, drag=0.0)
"""The floor and the air take nothing."""
SHAPES = (CUBE, SPHERE, CYLINDER)


def move(shape, position, velocity, yaw=0.0, spin=0.0, roll=None, frames=22, law=LAW):
    position, velocity = np.array(position, float), np.array(velocity, float)
    yaw, spin = (np.broadcast_to(np.array(each, float), len(shape)) for each in (yaw, spin))
    return slide(np.array(shape), position, yaw, velocity, spin, roll, frames, law)


def speeds(position):
    """Return (T - 1, K) mean speeds between frames."""
    return np.linalg.norm(np.diff(position.astype(float), axis=0), axis=-1) / FRAME_SECONDS


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("speed", [0.3, 0.8, 1.3, 1.7, 2.4])
def test_what_slides_loses_speed_by_friction_damping_and_drag(shape, speed):
    position, _ = move([shape], [[0.0, 1.0]], [[0.6 * speed, 0.8 * speed]], frames=4)
    found = speeds(position)[:, 0]
    wanted, law = speed, []
    for _ in range(3 * 1000):
        law.append(wanted)
        loss = LAW.deceleration[shape] + LAW.damping * wanted + LAW.drag * wanted**2
        wanted -= loss * FRAME_SECONDS / 1000
    lost, should = found[0] - found[2], np.mean(law[:1000]) - np.mean(law[2000:])
    assert lost == pytest.approx(should, rel=0.05)
    assert (position[-1, 0] - position[0, 0]) @ [0.8, -0.6] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("shape", [CUBE, CYLINDER])
def test_what_slides_comes_to_rest_and_stays_there(shape):
    position, yaw = move([shape], [[0.0, 1.0]], [[0.3, 0.0]], spin=1.0)
    assert 0.2 < position[-1, 0, 0] < 0.35
    assert (position[15:] == position[15]).all() and (yaw[15:] == yaw[15]).all()


@pytest.mark.parametrize("speed", [0.5, 1.1])
def test_a_thrown_sphere_slides_until_it_rolls(speed):
    """It rolls at 5/7 of its speed (Coriolis 1835) after 2/7 of it is lost."""
    law = replace(ICE, deceleration=LAW.deceleration)
    position, _ = move([SPHERE], [[0.0, 0.0]], [[speed, 0.0]], law=law)
    found = speeds(position)[:, 0]
    rolls = 2 / 7 * speed / LAW.deceleration[SPHERE] / FRAME_SECONDS
    frame = np.arange(len(found)) + 0.5
    wanted = np.maximum(speed - LAW.deceleration[SPHERE] * frame * FRAME_SECONDS, 5 / 7 * speed)
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert 3 < rolls < 17


def test_a_rolling_sphere_loses_next_to_nothing():
    velocity = np.array([[0.8, 0.0]])
    position, _ = move([SPHERE], [[0.0, 0.0]], velocity, roll=velocity)
    found = speeds(position)[:, 0]
    assert (np.diff(found) < 0).all()
    assert 0.02 < np.log(found[0] / found[-1]) / (20 * FRAME_SECONDS) < 0.06


@pytest.mark.parametrize("speed", [0.0, 1.2])
def test_a_spinning_cube_slows_down_evenly(speed):
    _, yaw = move([CUBE], [[0.0, 0.0]], [[speed, 0.0]], spin=2.0)
    spins = np.diff(yaw[:, 0]) / FRAME_SECONDS
    lost = np.diff(spins)[spins[1:] > LAW.spin_deceleration * FRAME_SECONDS] / FRAME_SECONDS
    assert len(lost) >= 2 and spins[-1] == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(lost, -LAW.spin_deceleration, rtol=0.1)


def first_moved(position: np.ndarray) -> int:
    """Return the first frame in which the (T, 2) places of a solid at rest have changed."""
    return int((np.abs(position - position[0]).max(-1) > 1e-5).argmax())


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.8])
@pytest.mark.parametrize("second", SHAPES)
@pytest.mark.parametrize("first", SHAPES)
def test_two_solids_part_as_the_restitution_of_their_shapes_says(first, second, speed):
    position, _ = move([first, second], [[-0.8, 0], [0, 0]], [[speed, 0], [0, 0]], law=ICE, frames=10)
    hit = first_moved(position[:, 1])
    assert hit
    after = (position[hit + 2] - position[hit + 1]) / FRAME_SECONDS
    mass = np.array([LAW.mass[first], LAW.mass[second]])
    assert mass @ after[:, 0] == pytest.approx(LAW.mass[first] * speed, rel=1e-3)
    parting = max(0.0, LAW.restitution[first][second] * speed - LAW.dullness)
    assert after[1, 0] - after[0, 0] == pytest.approx(parting, abs=0.01)
    np.testing.assert_allclose(after[:, 1], 0, atol=2e-3)


@pytest.mark.parametrize("pair", [(SPHERE, SPHERE), (SPHERE, CYLINDER), (CYLINDER, CYLINDER)])
def test_a_glancing_hit_turns_the_course_along_the_line_of_centres(pair):
    position, _ = move(pair, [[-1, 0], [0, 0.2]], [[1.5, 0], [0, 0]], law=replace(ICE, friction=1e-6))
    after = first_moved(position[:, 1]) + 1
    velocity = (position[after + 1] - position[after]) / FRAME_SECONDS
    sine = 0.2 / (2 * LAW.radius)
    line = np.array([np.sqrt(1 - sine**2), sine])
    assert velocity[1] @ [line[1], -line[0]] == pytest.approx(0, abs=0.02)
    parting = LAW.restitution[pair[0]][pair[1]] * 1.5 * line[0] - LAW.dullness
    assert (velocity[1] - velocity[0]) @ line == pytest.approx(max(0.0, parting), abs=0.03)


def test_a_cube_hit_off_its_middle_turns():
    _, yaw = move([SPHERE, CUBE], [[-1.0, 0.15], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    assert yaw[-1, 1] < -0.1


def test_cubes_and_cylinders_do_not_tip_over_when_they_are_hit():
    random = np.random.default_rng(0)
    for _ in range(30):
        kinds = tuple(sorted(random.choice(SHAPES, 3).tolist()))
        course = Course(kinds, LAW)
        place = np.array([[-0.9, random.uniform(-0.3, 0.3)], [0.0, 0.0], [0.45, random.uniform(-0.4, 0.4)]])
        velocity = np.array([[2.2, 0.0], [0.0, 0.0], [0.0, 0.0]])
        course.start(place[:, :2], random.uniform(0, 6, 3), velocity, np.zeros(3), None)
        for frame in range(1, 15):
            course.advance(frame * FRAME_SECONDS)
            upright = np.array([course.data.xmat[1 + k, 8] for k in range(3) if kinds[k] != SPHERE])
            assert (upright > 0.99).all() and (np.abs(course.place[:, 2] - LAW.radius) < 0.02).all()


def test_what_rests_does_not_move_until_it_is_hit():
    for video in simulate_many(1, 20):
        still = (np.abs(np.diff(video.position[:4], axis=0)).sum(-1) < 1e-5).all(0)
        apart = np.linalg.norm(video.position[:, :, None] - video.position[:, None], axis=-1)
        untouched = still & ((apart + 9 * np.eye(len(still))).min((0, 1)) > physics.CLEARANCE)
        assert (np.abs(video.position - video.position[0])[:, untouched] < 1e-3).all()
        assert (np.abs(video.yaw - video.yaw[0])[:, untouched] < 1e-3).all()


def test_videos_keep_the_rules():
    for video in simulate_many(3, 20):
        count = len(video.class_ids)
        assert 1 <= count <= physics.MAX_OBJECTS and len(set(video.class_ids)) == count
        assert video.class_ids.min() >= 1 and video.class_ids.max() <= 48
        assert video.position.shape == (22, count, 2) and video.position.dtype == np.float32
        assert video.yaw.shape == (22, count)
        apart = np.linalg.norm(video.position[:, :, None] - video.position[:, None], axis=-1) + 9 * np.eye(count)
        assert (apart[0] > physics.CLEARANCE - 1e-5).all()
        assert (apart > 2 * RADIUS - 0.03).all()


def test_a_video_depends_on_seed_and_number_alone():
    first, again = simulate_many(5, 4), simulate_many(5, 2, start=2)
    for one, other in zip(first[2:], again, strict=True):
        for name in ("class_ids", "shape", "position", "yaw"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert physics.video_seed(0, 1) != physics.video_seed(1, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frame", [0.0, 6.0, 18.5])
def test_entrants_reach_the_edge_when_they_should(shape, frame):
    border, target = np.array([0.0, 3.0]), np.array([0.0, 0.0])
    start, velocity = physics.approach(border, target, 1.2, frame, shape)
    foreseen = physics.foresee(np.array([shape]), start[None], velocity[None])
    position, _ = move([shape], [start], [velocity])
    at = int(frame)
    course = position[at, 0] + (frame - at) * (position[at + 1, 0] - position[at, 0])
    np.testing.assert_allclose(course, border, atol=0.03)
    assert speeds(position)[at, 0] == pytest.approx(1.2, abs=0.06)
    np.testing.assert_allclose(foreseen[:, 0], position[:11, 0], atol=0.03)
