"""Motion of the stand-in's solids: sliding, rolling and bouncing off each other, seen from above (pymunk).

Positions are on the floor in the units of ``data_prep.scene``; nothing here knows pixels beyond where the view ends.
Friction, damping, restitution and masses are those of eight real videos, looked at frame by frame: what slides loses
0.16 to 0.27 units/s², the faster the more; spheres, also those that have just been hit, a few hundredths only; and of a
cylinder and a sphere that hit each other the sphere's speed changes half as much again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pymunk

from data_prep.classes import CUBE, NUM_CLASSES, SHAPE_OF_CLASS, SPHERE
from data_prep.scene import (
    CAMERA,
    CENTRE,
    CLIP_FRAMES,
    FOCAL,
    FORWARD,
    FRAME_SECONDS,
    HEIGHT,
    MASS,
    MOMENT,
    NUM_FRAMES,
    RADIUS,
    UP,
    WIDTH,
)

SUBSTEPS = 16
DECELERATION = (0.12, 0.18)
"""Range of a cube's or cylinder's loss of speed while it slides, units/s²; spheres roll."""
ELASTICITY = (0.5, 0.7)
"""Range per object; the restitution of a pair is the product, 0.25 to 0.49."""
LINEAR_DAMPING = 0.06
"""Relative loss of speed per second, on top of friction."""
SIDE_FRICTION = 0.3
"""Per object; between two objects the product counts."""
CLEARANCE = 2**1.5 * RADIUS
"""Distance of two centres from which even two cubes cannot touch."""

MEAN_ARM = (2 / 3 * RADIUS, 0.7652 * RADIUS)
"""Mean distance of a disc's and of a square's points from the centre: the arm of evenly spread friction."""

RESTING = (0.03, 0.22, 0.44, 0.31)
"""Probability of 0, 1, 2, 3 objects that rest in view from the start."""
ENTERING = (0.116, 0.366, 0.384, 0.134)
"""Probability of 1, 2, 3, 4 objects that come in during the first half, or move in view from the start."""
LATE = 0.3
"""Probability of one more object that comes in during the second half."""
CLIP_ENTRY = 10.5
"""First frame at which a late entrant may begin to show."""
MAX_OBJECTS = 6
MOVING_AT_START = 0.22
"""Share of the entering objects that are already in view at frame 0."""
LAST_EARLY_ENTRY = 9.3
"""Frame by which the early entrants have begun to show."""
EDGES = (0.35, 0.35, 0.22, 0.08)
"""Shares of the left, right, top and bottom edge of the image among the entries."""
AIMED = 0.95
"""Share of the entering objects thrown at a resting one; the others cross the view anywhere."""
AIM_ERROR = 0.12
"""Standard deviation of where an aimed throw heads, units."""
ENTRY_SPEED = (1.2, 0.29)
"""Median (units/s) and log-deviation of the speed at the edge of the view."""
FIRST_HIT, LAST_HIT = 7.7, 15
"""Frames between which an aimed object reaches its target."""
CALM, STAYING = 0.6, 0.7
"""Least share of resting object-steps in the clip, and most share of its objects that stay until the end."""
STILL = 0.005
"""An object that moves less per frame (units, |dx| + |dy|) rests."""
MOST_THROWS = 8
"""After so many uneventful videos the next one is taken as it is."""
SPEED_LIMITS = (0.4, 2.8)
SPIN = 0.6
"""Standard deviation of a thrown object's spin, radians/s."""


@dataclass(frozen=True)
class Trajectories:
    """One video's truth: where every object is at each of the 22 frames, in view or not.

    class_ids: (K,) uint8, 1–48, all different.
    shape: (K,) int64 index into ``classes.SHAPES``.
    position: (22, K, 2) float32 world (x, y) of the axes.
    yaw: (22, K) float32 turn about z in radians.
    collided: (22, K) bool, touched another object since the previous frame.
    """

    class_ids: np.ndarray
    shape: np.ndarray
    position: np.ndarray
    yaw: np.ndarray
    collided: np.ndarray


def video_seed(seed: int, number: int) -> int:
    """Return the seed of one video of a competition; videos of different numbers are independent."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


def simulate(seed: int) -> Trajectories:
    """Invent one video: the objects, where they start and how they move; the same for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(MOST_THROWS):
        video = invent(random)
        if is_eventful(video.position):
            break
    return video


def invent(random: np.random.Generator) -> Trajectories:
    """Throw objects once and watch them."""
    class_ids = random.choice(np.arange(1, NUM_CLASSES), MAX_OBJECTS, replace=False)
    shape = SHAPE_OF_CLASS[class_ids]
    deceleration = np.where(shape == SPHERE, 0.0, random.uniform(*DECELERATION, MAX_OBJECTS))
    position, velocity, spin = throw(random, deceleration)
    count = len(position)
    class_ids, shape, deceleration = class_ids[:count], shape[:count], deceleration[:count]
    yaw = random.uniform(0, 2 * np.pi, count)
    elasticity = random.uniform(*ELASTICITY, count)
    return Trajectories(
        class_ids.astype(np.uint8), shape, *slide(shape, position, yaw, velocity, spin, deceleration, elasticity)
    )


def is_eventful(position: np.ndarray) -> bool:
    """Return whether (22, K, 2) positions are calm enough at first and change enough later; real videos mostly do."""
    row, column = image_point(position)
    seen = (np.abs(row - HEIGHT / 2) < HEIGHT / 2) & (np.abs(column - WIDTH / 2) < WIDTH / 2)
    last = CLIP_FRAMES - 1
    rests = np.abs(np.diff(position, axis=0)).sum(-1) < STILL
    stays = np.abs(position[-1] - position[last]).sum(-1) < 10 * STILL
    early, late = seen[:last] & seen[1 : last + 1], seen[last]
    return (rests[:last] & early).sum() >= CALM * early.sum() and (stays & late).sum() <= STAYING * late.sum()


def image_point(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image rows and columns of the centres of objects at (..., 2) floor positions."""
    depth = 5.0 + FORWARD[0] * position[..., 0] + FORWARD[2] * RADIUS
    row = CENTRE[1] - FOCAL * (UP[0] * position[..., 0] + UP[2] * RADIUS) / depth
    return row, CENTRE[0] + FOCAL * position[..., 1] / depth


def throw(random: np.random.Generator, deceleration: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose the start of every object of one video, at most as many as there are decelerations (units/s²).

    Returns:
        (K, 2) positions, (K, 2) velocities in units/s and (K,) spins in radians/s at frame 0; no two overlap.
    """
    resting = random.choice(len(RESTING), p=RESTING)
    entering = 1 + random.choice(len(ENTERING), p=ENTERING)
    late = int(random.random() < LATE)
    starts: list[np.ndarray] = []
    velocities: list[np.ndarray] = []

    def place(draw: Callable[[], tuple[np.ndarray, np.ndarray] | None]) -> None:
        for _ in range(200):
            drawn = draw()
            if drawn is not None and all(np.hypot(*(drawn[0] - other)) > CLEARANCE for other in starts):
                starts.append(drawn[0])
                velocities.append(drawn[1])
                return

    for _ in range(resting):
        place(lambda: (floor_point(random.uniform(12, WIDTH - 12), random.uniform(14, HEIGHT - 25)), np.zeros(2)))
    targets = [start + random.normal(0, AIM_ERROR, 2) for start in starts]

    def across() -> np.ndarray:
        return floor_point(random.uniform(40, WIDTH - 40), random.uniform(20, HEIGHT - 30))

    def early(target: np.ndarray, aimed: bool) -> tuple[np.ndarray, np.ndarray] | None:
        speed = draw_speed(random)
        if random.random() < MOVING_AT_START:
            entry = 0.0
            start = border = floor_point(random.uniform(5, WIDTH - 5), random.uniform(8, HEIGHT - 15))
            velocity = speed * unit(target - start)
        else:
            entry = random.uniform(-1, LAST_EARLY_ENTRY)
            border = entry_point(random)
            start, velocity = approach(border, target, speed, entry, deceleration[len(starts)])
        travel = travel_frames(np.hypot(*(target - border)), speed, deceleration[len(starts)])
        if aimed and not FIRST_HIT < entry + travel < LAST_HIT:
            return None
        return start, velocity

    def tardy() -> tuple[np.ndarray, np.ndarray]:
        entry = random.uniform(CLIP_ENTRY, NUM_FRAMES - 1)
        return approach(entry_point(random), across(), draw_speed(random), entry, deceleration[len(starts)])

    for n in range(min(entering, MAX_OBJECTS - len(starts))):
        aimed = bool(targets) and random.random() < AIMED
        target = targets[n % len(targets)] if aimed else across()
        place(partial(early, target, aimed))
    if late and len(starts) < MAX_OBJECTS:
        place(tardy)
    if not starts:
        return throw(random, deceleration)
    velocity = np.stack(velocities)
    moves = np.abs(velocity).sum(1) > 0
    return np.stack(starts), velocity, np.where(moves, random.normal(0, SPIN, len(moves)), 0.0)


def draw_speed(random: np.random.Generator) -> float:
    """Return a speed at the edge of the view, units/s."""
    median, deviation = ENTRY_SPEED
    return float(np.clip(median * np.exp(random.normal(0, deviation)), *SPEED_LIMITS))


def travel_frames(distance: float, speed: float, deceleration: float) -> float:
    """Return how many frames a sliding object takes for a distance, ``inf`` where it stops before."""
    left = speed**2 - 2 * deceleration * distance
    return 2 * distance / (speed + left**0.5) / FRAME_SECONDS if left > 0 else float("inf")


def entry_point(random: np.random.Generator) -> np.ndarray:
    """Return a (2,) floor position just outside the view."""
    edge = random.choice(4, p=EDGES)
    along = random.uniform(0, 1)
    if edge < 2:
        row = 15 + along * (HEIGHT - 45)
        reach = 0.5 * (13 + 0.23 * row)
        return floor_point(-reach if edge == 0 else WIDTH + reach, row)
    return floor_point(20 + along * (WIDTH - 40), -7 if edge == 2 else HEIGHT + 24)


def approach(
    border: np.ndarray, target: np.ndarray, speed: float, frame: float, deceleration: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (2,) position and velocity at frame 0 of an object that is at ``border`` at ``frame``.

    It has ``speed`` there and heads for ``target``; before, it slid along the same line and was faster.
    """
    heading = unit(target - border)
    seconds = max(frame, 0.0) * FRAME_SECONDS
    loss = deceleration / LINEAR_DAMPING
    growth = np.exp(LINEAR_DAMPING * seconds)
    start_speed = (speed + loss) * growth - loss
    distance = (speed + loss) * (growth - 1) / LINEAR_DAMPING - loss * seconds
    return border - distance * heading, start_speed * heading


def slide(
    shape: np.ndarray,
    position: np.ndarray,
    yaw: np.ndarray,
    velocity: np.ndarray,
    spin: np.ndarray,
    deceleration: np.ndarray,
    elasticity: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move K objects from their state at frame 0 through all frames.

    Floor friction is a joint to the floor of limited force, which takes speed off linearly and never turns it round;
    its torque limit is that of a square or disc pressing evenly.

    Returns:
        position (22, K, 2) float32, yaw (22, K) float32 and collided (22, K) bool as in ``Trajectories``.
    """
    space = pymunk.Space()
    space.damping = np.exp(-LINEAR_DAMPING)
    space.iterations = 15
    space.collision_slop = 0.002
    space.collision_bias = 1e-4
    bodies: list[pymunk.Body] = []
    index: dict[pymunk.Shape, int] = {}
    for k in range(len(shape)):
        is_cube = shape[k] == CUBE
        mass = MASS[shape[k]]
        body = pymunk.Body(mass, MOMENT[shape[k]] * mass * RADIUS**2)
        body.position, body.angle = tuple(position[k]), float(yaw[k])
        body.velocity, body.angular_velocity = tuple(velocity[k]), float(spin[k])
        side = pymunk.Poly.create_box(body, (2 * RADIUS, 2 * RADIUS)) if is_cube else pymunk.Circle(body, RADIUS)
        side.elasticity, side.friction = float(elasticity[k]), SIDE_FRICTION
        drag = pymunk.PivotJoint(space.static_body, body, tuple(position[k]), (0, 0))
        drag.max_bias, drag.max_force = 0, float(mass * deceleration[k])
        brake = pymunk.GearJoint(space.static_body, body, 0, 1)
        brake.max_bias, brake.max_force = 0, float(mass * deceleration[k]) * MEAN_ARM[int(is_cube)]
        space.add(body, side, drag, brake)
        bodies.append(body)
        index[side] = k

    touching: set[frozenset[int]] = set()
    touched: set[int] = set()

    def begin(arbiter: pymunk.Arbiter, *_) -> None:
        pair = frozenset(index[side] for side in arbiter.shapes)
        touching.add(pair)
        touched.update(pair)

    def separate(arbiter: pymunk.Arbiter, *_) -> None:
        touching.discard(frozenset(index[side] for side in arbiter.shapes))

    space.on_collision(begin=begin, separate=separate)
    positions = np.empty((NUM_FRAMES, len(shape), 2), np.float32)
    yaws = np.empty((NUM_FRAMES, len(shape)), np.float32)
    collided = np.zeros((NUM_FRAMES, len(shape)), bool)
    for frame in range(NUM_FRAMES):
        if frame:
            touched.clear()
            touched.update(*touching)
            for _ in range(SUBSTEPS):
                space.step(FRAME_SECONDS / SUBSTEPS)
            collided[frame, list(touched)] = True
        positions[frame] = [body.position for body in bodies]
        yaws[frame] = [body.angle for body in bodies]
    return positions, yaws, collided


def floor_point(column: float, row: float) -> np.ndarray:
    """Return the (2,) float64 floor position of an object whose centre is seen at (column, row)."""
    right, down = (column - CENTRE[0]) / FOCAL, (row - CENTRE[1]) / FOCAL
    direction = np.array([FORWARD[0] - down * UP[0], right, FORWARD[2] - down * UP[2]])
    return np.array(CAMERA[:2]) + (RADIUS - CAMERA[2]) / direction[2] * direction[:2]


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a (2,) vector's direction."""
    return vector / max(np.hypot(*vector), 1e-9)
