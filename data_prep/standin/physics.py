"""Who is in a video of the stand-in, where everything starts and how fast; ``data_prep.standin.engine`` moves it.

Positions are on the floor in the units of ``data_prep.scene``; nothing here knows pixels beyond where the view ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from data_prep.classes import CYLINDER, NUM_CLASSES, SHAPE_OF_CLASS, SPHERE
from data_prep.scene import (
    CAMERA,
    CENTRE,
    CLIP_FRAMES,
    FOCAL,
    FORWARD,
    FRAME_SECONDS,
    HEIGHT,
    MOMENT,
    NUM_FRAMES,
    RADIUS,
    UP,
    WIDTH,
)
from data_prep.standin.engine import LAW, slide

CLEARANCE = 2**1.5 * RADIUS
"""Distance of two centres from which even two cubes cannot touch."""

RESTING = (0.03, 0.17, 0.42, 0.38)
"""Probability of 0, 1, 2, 3 objects that rest in view from the start."""
RESTING_ROWS = (14, 110)
"""Image rows between which their centres are: the part of the floor where throws end."""
ENTERING = (0.15, 0.42, 0.34, 0.09)
"""Probability of 1, 2, 3, 4 objects that come in during the first half, or move in view from the start."""
LATE = 0.34
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
ENTRY_SPEED = (1.15, 0.3)
"""Median (units/s) and log-deviation of the speed at the edge of the view."""
FIRST_HIT, LAST_HIT = 7.7, 15
"""Frames between which an aimed object reaches its target."""
CALM, STAYING = 0.6, 0.75
"""Least share of resting object-steps in the clip, and most share of its objects that stay until the end."""
STILL = 0.005
"""An object that moves less per frame (units, |dx| + |dy|) rests."""
MOST_THROWS = 8
"""After so many uneventful videos the next one is taken as it is."""
SPEED_LIMITS = (0.4, 2.8)
COURSE_STEPS = 8
"""Steps per frame of a throw's course before it enters."""


@dataclass(frozen=True)
class Trajectories:
    """One video's truth: where every object is at each of the 22 frames, in view or not.

    class_ids: (K,) uint8, 1–48, all different.
    shape: (K,) int64 index into ``classes.SHAPES``.
    position: (22, K, 2) float32 world (x, y) of the axes.
    yaw: (22, K) float32 turn about z in radians.
    """

    class_ids: np.ndarray
    shape: np.ndarray
    position: np.ndarray
    yaw: np.ndarray


def video_seed(seed: int, number: int) -> int:
    """Return the seed of one video of a competition; videos of different numbers are independent."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


def simulate(seed: int) -> Trajectories:
    """Invent one video: the objects, where they start and how they move; the same for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(MOST_THROWS - 1):
        video = invent(random, is_calm)
        if video is not None and is_eventful(video.position):
            return video
    return invent(random)


def invent(random: np.random.Generator, promising: Callable[[np.ndarray], bool] | None = None) -> Trajectories | None:
    """Throw objects once and watch them; None if what the clip shows, (11, K, 2) positions, is not ``promising``."""
    class_ids = random.choice(np.arange(1, NUM_CLASSES), MAX_OBJECTS, replace=False)
    shape = SHAPE_OF_CLASS[class_ids]
    position, velocity = throw(random, shape)
    class_ids, shape = class_ids[: len(position)], shape[: len(position)]
    yaw = random.uniform(0, 2 * np.pi, len(position))
    if promising and not promising(foresee(shape, position, velocity)):
        return None
    moved = slide(shape, position, yaw, velocity, np.zeros_like(yaw), promising=promising)
    return None if moved is None else Trajectories(class_ids.astype(np.uint8), shape, *moved)


def in_view(position: np.ndarray) -> np.ndarray:
    """Return (...) whether the centres of objects at (..., 2) are in the image."""
    row, column = image_point(position)
    return (np.abs(row - HEIGHT / 2) < HEIGHT / 2) & (np.abs(column - WIDTH / 2) < WIDTH / 2)


def is_calm(position: np.ndarray) -> bool:
    """Return whether enough rests in the (11, K, 2) positions of a clip; in real videos it mostly does."""
    seen = in_view(position)
    rests = np.abs(np.diff(position, axis=0)).sum(-1) < STILL
    both = seen[:-1] & seen[1:]
    return (rests & both).sum() >= CALM * both.sum()


def is_eventful(position: np.ndarray) -> bool:
    """Return whether enough changes place after the clip in a video's (22, K, 2) positions."""
    seen = in_view(position[CLIP_FRAMES - 1])
    stays = np.abs(position[-1] - position[CLIP_FRAMES - 1]).sum(-1) < 10 * STILL
    return (stays & seen).sum() <= STAYING * seen.sum()


def image_point(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image rows and columns of the centres of objects at (..., 2) floor positions."""
    depth = 5.0 + FORWARD[0] * position[..., 0] + FORWARD[2] * RADIUS
    row = CENTRE[1] - FOCAL * (UP[0] * position[..., 0] + UP[2] * RADIUS) / depth
    return row, CENTRE[0] + FOCAL * position[..., 1] / depth


def throw(random: np.random.Generator, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose the start of every object of one video, at most as many as there are shapes; in real videos none spins.

    Returns:
        (K, 2) positions and (K, 2) velocities in units/s at frame 0; no two overlap.
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
        place(lambda: (floor_point(random.uniform(12, WIDTH - 12), random.uniform(*RESTING_ROWS)), np.zeros(2)))
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
            start, velocity = approach(border, target, speed, entry, shape[len(starts)])
        travel = travel_frames(np.hypot(*(target - border)), speed)
        if aimed and not FIRST_HIT < entry + travel < LAST_HIT:
            return None
        return start, velocity

    def tardy() -> tuple[np.ndarray, np.ndarray]:
        entry = random.uniform(CLIP_ENTRY, NUM_FRAMES - 1)
        return approach(entry_point(random), across(), draw_speed(random), entry, shape[len(starts)])

    for n in range(min(entering, MAX_OBJECTS - len(starts))):
        aimed = bool(targets) and random.random() < AIMED
        target = targets[n % len(targets)] if aimed else across()
        place(partial(early, target, aimed))
    if late and len(starts) < MAX_OBJECTS:
        place(tardy)
    if not starts:
        return throw(random, shape)
    return np.stack(starts), np.stack(velocities)


def draw_speed(random: np.random.Generator) -> float:
    """Return a speed at the edge of the view, units/s."""
    median, deviation = ENTRY_SPEED
    return float(np.clip(median * np.exp(random.normal(0, deviation)), *SPEED_LIMITS))


def foresee(shape: np.ndarray, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return the (11, K, 2) positions in the clip of K thrown objects that hit nothing."""
    speed = np.hypot(*velocity.T)
    way = np.empty((CLIP_FRAMES, len(shape)))
    for k in range(len(shape)):
        start, _, ways = throws(bool(shape[k] == SPHERE))
        way[:, k] = [np.interp(speed[k], start, each) for each in ways[: CLIP_FRAMES * COURSE_STEPS : COURSE_STEPS]]
    return position + way[..., None] * velocity / np.maximum(speed, 1e-9)[:, None]


def travel_frames(distance: float, speed: float) -> float:
    """Return how many frames a sliding object takes for a distance, about; ``inf`` where it stops before."""
    loss = LAW.deceleration[CYLINDER] + LAW.damping * speed + LAW.drag * speed**2
    left = speed**2 - 2 * loss * distance
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
    border: np.ndarray, target: np.ndarray, speed: float, frame: float, shape: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (2,) position and velocity at frame 0 of an object that is at ``border`` at ``frame``.

    It has ``speed`` there and heads for ``target``; before, it slid along the same line and was faster.
    """
    heading = unit(target - border)
    start, speeds, ways = throws(bool(shape == SPHERE))
    time = max(frame, 0.0) * COURSE_STEPS
    now = min(int(time), len(speeds) - 2)
    speeds, ways = ((1 - time + now) * each[now] + (time - now) * each[now + 1] for each in (speeds, ways))
    thrown = np.interp(speed, speeds, start)
    return border - np.interp(thrown, start, ways) * heading, thrown * heading


@cache
def throws(sphere: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (S,) speeds of throws, and (T, S) how fast an object still is and how far at every ``COURSE_STEPS``th of
    a frame; spheres slide until they roll."""
    kind = SPHERE if sphere else CYLINDER
    start = np.linspace(0, 12, 481)
    speed, roll, way = start, np.zeros_like(start), np.zeros_like(start)
    speeds, ways = [speed], [way]
    seconds = FRAME_SECONDS / COURSE_STEPS
    for _ in range(NUM_FRAMES * COURSE_STEPS):
        slip = speed - roll if sphere else speed
        lost = np.minimum(LAW.deceleration[kind] * seconds, slip / (1 + sphere / MOMENT[SPHERE]))
        kept = 1 - seconds * (LAW.damping + LAW.drag * speed)
        slower = (speed - lost) * kept
        way = way + seconds * (speed + slower) / 2
        speed, roll = slower, (roll + lost / MOMENT[SPHERE]) * (1 - seconds * LAW.spin_damping)
        speeds.append(speed)
        ways.append(way)
    return start, np.stack(speeds), np.stack(ways)


def floor_point(column: float, row: float) -> np.ndarray:
    """Return the (2,) float64 floor position of an object whose centre is seen at (column, row)."""
    right, down = (column - CENTRE[0]) / FOCAL, (row - CENTRE[1]) / FOCAL
    direction = np.array([FORWARD[0] - down * UP[0], right, FORWARD[2] - down * UP[2]])
    return np.array(CAMERA[:2]) + (RADIUS - CAMERA[2]) / direction[2] * direction[:2]


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a (2,) vector's direction."""
    return vector / max(np.hypot(*vector), 1e-9)
