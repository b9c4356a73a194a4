"""How the stand-in's solids slide, roll and hit each other: MuJoCo's rigid bodies in three dimensions.

The constants are those of real videos, as the prior in ``solution.physics``. Who is thrown where is in
``data_prep.standin.physics``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np

from data_prep.classes import CUBE, SPHERE
from data_prep.scene import CLIP_FRAMES, FRAME_SECONDS, MOMENT, NUM_FRAMES, RADIUS

COARSE, FINE = FRAME_SECONDS / 24, FRAME_SECONDS / 160
"""Seconds of a step without and during hits."""
AT_ONCE = 4
"""Steps between two checks of distances."""
HIT_SECONDS = 10 * FINE
"""Contact time of a bounce, about."""
BARELY = 1e-5
"""Distance in units below which the direction between two solids is inexact."""
PRESSED = 5e-5
"""Seconds between the contact of two solids and the choice of the spring of their hit."""
SOFTEST = 12.0
"""Damping ratio of a hit without bounce."""
GRAVITY = 9.81
AIR = 1e-3
"""Density that scales the drag; too low for added mass."""
TOUCHING, QUIET = 5e-4, 0.01
"""Distance in units of solids in contact, and speed of approach in units/s for which coarse steps are exact enough."""
SLID = 0.03
"""Units that solids in contact slide until their distance is checked again."""
STICKING = (-9.0, -0.5 / COARSE)
"""Stiffness and damping, as MuJoCo wants them, between solids that touch and do not bounce."""
UPRIGHT = (
    '<joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/><joint type="slide" axis="0 0 1"/>'
    '<joint type="hinge" axis="0 0 1" frictionloss="{brake}"/>'
)


@dataclass(frozen=True)
class Law:
    """Of the floor and the solids; units, seconds, the mass of a cylinder. Triples: cubes, spheres, cylinders."""

    deceleration: tuple[float, float, float] = (0.14, 0.08, 0.138)
    """Loss of speed by Coulomb friction while a solid slides, units/s²."""
    damping: float = 0.035
    """Relative loss of speed per second."""
    spin_damping: float = 0.06
    """The same of spin."""
    spin_deceleration: float = 1.8
    """Loss of a cube's or cylinder's spin, radians/s²; in real videos as much while it slides as where it turns."""
    drag: float = 0.035
    """Relative loss of speed per second and per unit/s."""
    mass: tuple[float, float, float] = (0.95, 0.8, 1.0)
    restitution: tuple[tuple[float, float, float], ...] = ((0.27, 0.13, 0.4), (0.13, 0.37, 0.18), (0.4, 0.18, 0.38))
    """Of fast hits, by the shapes of both."""
    dullness: float = 0.08
    """Loss of separation speed in a hit, units/s."""
    friction: float = 0.035
    """Between two solids."""
    rolls: float = 1.0
    """Share of its slip that a sphere loses in a hit; in real videos all of it, for an unknown reason."""
    size: float = 1.015
    """Of the solids in contact, relative to what is seen of them."""

    @property
    def radius(self) -> float:
        return self.size * RADIUS


LAW = Law()


@lru_cache(maxsize=128)
def compile_model(kinds: tuple[int, ...], law: Law) -> mujoco.MjModel:
    """Return the floor and solids of these shapes, which sleep when at rest; the first K pairs are the floor's.

    Cubes and cylinders stay upright, so a cylinder can collide as a ball of its radius, and one contact point
    stands for its base, whose friction while it turns is that of its joint.
    """
    bodies, floor, hits = [], [], []
    for i, kind in enumerate(kinds):
        mass, rub = law.mass[kind], law.deceleration[kind] / GRAVITY
        drag = law.drag * mass / (AIR * math.pi * law.radius**2)
        inertia = MOMENT[kind] * mass * law.radius**2
        joints = "<freejoint/>" if kind == SPHERE else UPRIGHT.format(brake=law.spin_deceleration * inertia)
        box = f'<geom name="{i}" type="box" size="{law.radius} {law.radius} {law.radius}"/>' if kind == CUBE else ""
        foot = f"foot{i}" if box else f"{i}"
        bodies.append(
            f'<body>{joints}<inertial pos="0 0 0" mass="{mass}" diaginertia="{inertia} {inertia} {inertia}"/>{box}'
            f'<geom name="{foot}" size="{law.radius}" fluidshape="ellipsoid" fluidcoef="{drag} 0 0 0 0"/></body>'
        )
        floor.append(
            f'<pair geom1="floor" geom2="{foot}" condim="3" friction="{rub} {rub} 0 0 0"'
            f' solref="{2 * COARSE} 1" solimp="0.99 0.99 0.001"/>'
        )
        hits += [
            f'<pair geom1="{i}" geom2="{j}" condim="3" friction="{law.friction} {law.friction} 0 0 0"'
            ' solimp="0.999 0.999 0.001"/>'
            for j in range(i + 1, len(kinds))
        ]
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><size memory="1M"/><option cone="elliptic" density="{AIR}" gravity="0 0 {-GRAVITY}"/>'
        '<default><geom type="sphere" contype="0" conaffinity="0"/></default>'
        '<worldbody><geom name="floor" type="plane" size="0 0 1"/>'
        f"{''.join(bodies)}</worldbody><contact>{''.join(floor + hits)}</contact></mujoco>"
    )
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP
    for body in range(1, model.nbody):
        first, count = model.body_dofadr[body], model.body_dofnum[body]
        model.dof_damping[first : first + 3] = law.damping * model.body_mass[body]
        model.dof_damping[first + 3 : first + count] = law.spin_damping * model.body_inertia[body, 0]
    return model


@lru_cache(maxsize=1)
def bounces() -> tuple[np.ndarray, np.ndarray]:
    """Return damping ratios of a spring, descending, and the restitutions of hits on it.

    Integrated in MuJoCo's few steps, whose discretisation error would be a quarter of a slow bounce.
    """
    ratio = np.concatenate((np.linspace(SOFTEST, 1.5, 100), np.linspace(1.5, 0.02, 300)))[:, None]
    rate = spring_rate(ratio)
    depth, speed = np.full_like(ratio, PRESSED), np.ones_like(ratio)
    for _ in range(round(3 * HIT_SECONDS / FINE)):
        push = np.where(depth > 0, rate * (rate * depth + 2 * ratio * speed), 0)
        speed = speed - FINE * push.clip(0)
        depth = depth + FINE * speed
    restitution = np.maximum.accumulate(-speed[:, 0])
    return ratio[:, 0], restitution


def spring_rate(ratio: np.ndarray) -> np.ndarray:
    """Return the natural frequency (radians/s) of the spring of a damping ratio, low enough for stable steps."""
    return np.minimum(math.pi / HIT_SECONDS, 0.5 / (FINE * ratio))


def slide(
    shape: np.ndarray,
    position: np.ndarray,
    yaw: np.ndarray,
    velocity: np.ndarray,
    spin: np.ndarray,
    roll: np.ndarray | None = None,
    frames: int = NUM_FRAMES,
    law: Law = LAW,
    promising: Callable[[np.ndarray], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Move K solids from their state at frame 0 through T frames.

    Args:
        shape: (K,) index into ``classes.SHAPES``.
        position: (K, 2) units.
        yaw: (K,) radians.
        velocity: (K, 2) units/s.
        spin: (K,) radians/s.
        roll: (K, 2) units/s, the velocity at which a sphere's spin rolls without slip; None: spheres do not spin.
        frames: T.
        law: the constants.
        promising: tells from the (11, K, 2) positions of a clip whether to go on.

    Returns:
        position (T, K, 2) float32 and yaw (T, K) float32 as in ``Trajectories``; None if not ``promising``.
    """
    order = np.argsort(shape, kind="stable")
    course = Course(tuple(int(kind) for kind in shape[order]), law)
    course.start(position[order], yaw[order], velocity[order], spin[order], None if roll is None else roll[order])
    count = len(shape)
    positions, yaws = np.empty((frames, count, 2), np.float32), np.empty((frames, count), np.float32)
    for frame in range(frames):
        if frame == CLIP_FRAMES and promising and not promising(positions[:CLIP_FRAMES]):
            return None
        if frame:
            course.advance(frame * FRAME_SECONDS)
        positions[frame, order] = course.place[:, :2]
        yaws[frame, order] = course.yaw
    return positions, np.where(shape == SPHERE, yaw.astype(np.float32), yaws)


class Course:
    """Solids of these shapes on their way."""

    def __init__(self, kinds: tuple[int, ...], law: Law):
        self.kinds, self.law = np.array(kinds), law
        self.model = compile_model(kinds, law)
        self.data = mujoco.MjData(self.model)
        geoms = np.arange(self.model.ngeom)
        self.geom = np.array([geoms[self.model.geom(str(i)).id] for i in range(len(kinds))])
        bodies = slice(1, len(kinds) + 1)
        joints = self.model.body_jntadr[bodies]
        self.at = self.model.jnt_qposadr[joints][:, None] + np.arange(3)
        self.going = self.model.body_dofadr[bodies][:, None] + np.arange(3)
        self.first, self.second = np.triu_indices(len(kinds), 1)
        self.reach = np.where(self.kinds == CUBE, 2**0.5, 1.0) * law.radius
        self.elastic = np.array(law.restitution)[self.kinds[self.first], self.kinds[self.second]]
        self.springs = np.tile(STICKING, (len(self.first), 1))
        self.over = np.zeros(len(self.first))
        self.hit = np.zeros(len(kinds), bool)

    @property
    def place(self) -> np.ndarray:
        """(K, 3) of the centres."""
        return self.data.qpos[self.at]

    @property
    def velocity(self) -> np.ndarray:
        """(K, 3)."""
        return self.data.qvel[self.going]

    @property
    def yaw(self) -> np.ndarray:
        """(K,), 0 of spheres."""
        return np.where(self.kinds == SPHERE, 0.0, self.data.qpos[self.at[:, 0] + 3])

    @property
    def spin(self) -> np.ndarray:
        """(K,), 0 of spheres."""
        return np.where(self.kinds == SPHERE, 0.0, self.data.qvel[self.going[:, 0] + 3])

    def start(self, position, yaw, velocity, spin, roll) -> None:
        """Put everything where it is; for the arguments see :func:`slide`."""
        place, motion, upright = self.data.qpos, self.data.qvel, self.kinds != SPHERE
        place[self.at] = np.concatenate((position, np.full((len(position), 1), self.law.radius)), 1)
        motion[self.going[:, :2]] = velocity
        place[self.at[upright, 0] + 3], motion[self.going[upright, 0] + 3] = yaw[upright], spin[upright]
        for k in np.flatnonzero(~upright):
            place[self.at[k, 0] + 3 : self.at[k, 0] + 7] = (1, 0, 0, 0)
            if roll is not None:
                turn = (-roll[k, 1] / self.law.radius, roll[k, 0] / self.law.radius, 0)
                motion[self.going[k] + 3] = turn
        self.part()
        mujoco.mj_forward(self.model, self.data)

    def part(self) -> None:
        """Move overlapping solids apart, since measured positions are inexact and springs would fling them."""
        ends = np.empty(6)
        for i, j in zip(self.first, self.second, strict=True):
            if np.hypot(*(self.place[j] - self.place[i])[:2]) < self.reach[i] + self.reach[j]:
                mujoco.mj_kinematics(self.model, self.data)
                gap = mujoco.mj_geomDistance(self.model, self.data, self.geom[i], self.geom[j], 9.0, ends)
                if gap < -BARELY:
                    way = (ends[3:5] - ends[:2]) * (1 - 10 * BARELY / gap) / 2
                    self.data.qpos[self.at[i, :2]] += way
                    self.data.qpos[self.at[j, :2]] -= way

    def advance(self, until: float) -> None:
        """Move on to a time in seconds."""
        model, data, floors = self.model, self.data, len(self.kinds)
        while (left := until - data.time) > 1e-9:
            before, self.hit[:] = self.hit.copy(), False
            free, hitting = self.look(left)
            if (over := before & ~self.hit).any():
                self.roll_on(over)
            if hitting and free > 0:
                step, count = free, 1
            elif hitting:
                step, model.pair_solref[floors:] = FINE, self.springs
                count = AT_ONCE
            else:
                step, model.pair_solref[floors:] = COARSE, STICKING
                count = max(1, int(free / COARSE))
            count = min(count, max(1, math.ceil(left / step - 1e-6)))
            model.opt.timestep = min(step, left / count)
            mujoco.mj_step(model, data, count)

    def look(self, left: float) -> tuple[float, bool]:
        """Return seconds for which nothing touches anything, at most ``left``, and whether there is a hit then.

        Of what will hit, sets the spring from the speed.
        """
        first, second = self.first, self.second
        away, relative = ((each[second] - each[first])[:, :2] for each in (self.place, self.velocity))
        speed = np.sqrt((relative * relative).sum(1))
        arm = self.reach - self.law.radius
        turning = np.abs(self.spin) * 2 * self.law.radius * (arm > 0)
        speed += turning[first] + turning[second]
        apart = np.sqrt((away * away).sum(1)) - self.reach[first] - self.reach[second]
        close = np.flatnonzero((apart < speed * left) & (speed > 0))
        if not len(close):
            return left, False
        mujoco.mj_kinematics(self.model, self.data)
        free, meeting, hitting, ends = left, left, False, np.empty(6)
        for pair in close:
            i, j = int(first[pair]), int(second[pair])
            gap = mujoco.mj_geomDistance(self.model, self.data, self.geom[i], self.geom[j], 9.0, ends)
            time = (gap - TOUCHING) / speed[pair]
            if time > COARSE:
                free = min(free, time)
                continue
            approach = self.approach(i, j, gap, ends)
            if self.data.time < self.over[pair] and (gap < TOUCHING or approach > 0):
                hitting = self.hit[[i, j]] = True
            elif approach > QUIET and gap > PRESSED * approach:
                meeting = min(meeting, gap / approach + PRESSED)
            elif approach > QUIET:
                self.set_spring(pair, approach if gap > -TOUCHING else 0.0)
                self.hit[[i, j]] = hitting = True
            else:
                free = min(free, AT_ONCE * COARSE, SLID / speed[pair])
        return (0.0, True) if hitting else (meeting, True) if meeting < COARSE else (min(free, meeting), False)

    def approach(self, i: int, j: int, gap: float, ends: np.ndarray) -> float:
        """Return the speed at which the nearest points of two solids approach each other."""
        if self.kinds[i] != CUBE and self.kinds[j] != CUBE or abs(gap) < BARELY:
            (x, y, _), sign = self.place[j] - self.place[i], 1
        else:
            x, y, sign = ends[3] - ends[0], ends[4] - ends[1], math.copysign(1, gap)
        length = sign * math.hypot(x, y)
        x, y = x / length, y / length
        total, place, velocity, spin = 0.0, self.place, self.velocity, self.spin
        for k, at, way in ((i, 0, 1), (j, 3, -1)):
            turns = spin[k] if self.kinds[k] == CUBE else 0.0
            over = velocity[k, 0] - turns * (ends[at + 1] - place[k, 1])
            along = velocity[k, 1] + turns * (ends[at] - place[k, 0])
            total += way * (over * x + along * y)
        return total

    def roll_on(self, over: np.ndarray) -> None:
        """Let spheres roll whose hit is over."""
        turn, inverse, seen = np.empty(3), np.empty(4), np.empty(3)
        for k in np.flatnonzero(over):
            if self.kinds[k] != SPHERE:
                continue
            quaternion, turning = self.data.qpos[self.at[k, 0] + 3 : self.at[k, 0] + 7], self.going[k] + 3
            vx, vy, _ = self.velocity[k]
            mujoco.mju_rotVecQuat(turn, self.data.qvel[turning], quaternion)
            turn[0] += self.law.rolls * (-vy / self.law.radius - turn[0])
            turn[1] += self.law.rolls * (vx / self.law.radius - turn[1])
            mujoco.mju_negQuat(inverse, quaternion)
            mujoco.mju_rotVecQuat(seen, turn, inverse)
            self.data.qvel[turning] = seen

    def set_spring(self, pair: int, approach: float) -> None:
        """Choose stiffness and damping with which two solids part as the law says after they met at a speed."""
        ratio, restitution = bounces()
        wanted = max(0.0, self.elastic[pair] - self.law.dullness / max(approach, 1e-6))
        damping = np.interp(wanted, restitution, ratio)
        rate = spring_rate(damping)
        self.springs[pair] = -(rate**2), -2 * damping * rate
        self.over[pair] = self.data.time + 1.5 * HIT_SECONDS
