"""Windows of motion and the fit of constants to them, against films of known laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.classes import CUBE, CYLINDER, SPHERE
from data_prep.scene import FRAME_SECONDS
from solution.motion import (
    LEAST_DRIFT,
    PRIOR,
    doubted,
    errors,
    find_windows,
    fit_beliefs,
    fit_constants,
    fit_drift,
    foreseen,
    thrown_spheres,
)
from solution.physics import Constants, State
from solution.tracks import join
from tests.solution.test_kalman import after_one_another, filmed
from tests.solution.test_physics import scene

OTHER = Constants(
    deceleration=(0.19, 0.02, 0.1),
    drag=0.06,
    spin_deceleration=0.9,
    mass=(0.8, 1.0, 1.0),
    restitution=(0.2, 0.5, 0.1, 0.2, 0.2, 0.7),
    dullness=0.05,
)
"""A law that differs from what is believed beforehand."""


def throws(law: Constants, count: int, noise: float = 0.001):
    """Return the tracks of films in which one solid hits another, of all pairs of shapes, at several speeds."""
    torch.manual_seed(0)
    films = []
    kinds = [(a, b) for a in (CUBE, SPHERE, CYLINDER) for b in (CUBE, SPHERE, CYLINDER)]
    for n in range(count):
        aside = float(0.2 * torch.rand(()) - 0.1)
        at, speed = [[-1.6, aside], [0.0, 0.0]], [[0.9 + 0.8 * float(torch.rand(())), 0.0], [0.0, 0.0]]
        films.append(filmed(scene(kinds[n % len(kinds)], at, speed), law, 22, noise))
    return join(films)


@pytest.fixture(scope="module")
def tracks():
    return throws(OTHER, 54)


def test_windows_begin_in_the_states_that_were_filmed(tracks):
    windows = find_windows(throws(OTHER, 9, noise=0.0))
    places = errors(windows, foreseen(windows, [OTHER])[0])
    assert len(places["free"]) > 20 and len(places["hit"]) > 10
    assert np.median(places["free"]) < 0.002 and np.median(places["hit"]) < 0.01


def test_what_another_solid_may_have_moved_is_not_judged():
    start = scene([CYLINDER, CYLINDER], [[-2.4, 0.0], [0.0, 0.0]], [[1.6, 0.0], [0.0, 0.0]])
    film = filmed(start, Constants(), 14, 0.0)
    alone = find_windows(film)
    film.border[:, :, 1] = True  # where the other one is, is not known exactly
    beside = find_windows(film)
    assert 0 < int(beside.judged[..., 0].sum()) < int(alone.judged[..., 0].sum()) and bool(alone.hit.any())
    away = (film.position[0, 0, 1] - beside.future[..., 0, :2]).norm(dim=-1)
    assert bool((away[beside.judged[..., 0]] > 0.6).all())


def test_what_is_hit_by_one_that_another_solid_may_have_moved_is_not_judged():
    start = scene([CYLINDER] * 3, [[-1.6, 0.0], [0.0, 0.0], [0.8, 0.0]], [[1.6, 0.0], [0.0, 0.0], [0.0, 0.0]])
    film = filmed(start, Constants(), 14, 0.0)
    for known in (True, False):
        film.border[:, :, 0] = not known
        windows = find_windows(film)
        moved = (windows.end - windows.position)[:, 2].norm(dim=-1) > 0.1
        assert bool((windows.judged[:, -1, 2] & moved).any()) == known


def test_a_sphere_s_rolling_is_read_off_its_course():
    rolling = scene([SPHERE], [[-2.0, 0.0]], [[0.8, 0.0]])
    thrown = scene([SPHERE], [[-2.0, 0.0]], [[2.0, 0.0]])
    law = Constants(deceleration=(0.145, 0.145, 0.145))
    for start, slides in ((State(**vars(rolling) | {"roll": rolling.velocity}), False), (thrown, True)):
        windows = find_windows(filmed(start, law, 12, 0.0))
        assert len(windows) and bool(windows.slides[0, 0]) == slides


def test_what_a_sphere_hits_is_judged_if_the_sphere_rolls():
    """How far one that slides has begun to turn, and so how hard it goes on pushing, is not seen."""
    start = scene([SPHERE, CYLINDER], [[-1.7, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
    law = Constants(deceleration=(0.14, 0.14, 0.14))
    for roll, judged in ((0.0, False), (1.0, True)):
        windows = find_windows(filmed(State(**vars(start) | {"roll": roll * start.velocity}), law, 16, 0.0))
        assert len(windows) and bool(windows.hit.any())
        assert bool((windows.judged[:, -1] & windows.hit).any()) == judged


def test_a_shape_that_veers_drifts_more_than_one_that_does_not():
    """Cubes are pushed aside all the way, alternately to the left and right; cylinders are not."""
    films = []
    for n in range(60):
        kind = (CUBE, CYLINDER)[n % 2]
        film = filmed(scene([kind], [[-2.0, 0.0]], [[1.0 + 0.01 * n, 0.0]]), Constants(), 16, 0.0005)
        seconds = FRAME_SECONDS * torch.arange(16.0)
        film.position[0, :, 0, 1] += (kind == CUBE) * (-1) ** (n // 2) * 0.03 * seconds**2 / 2
        films.append(film)
    cube, sphere, cylinder = fit_drift(find_windows(join(films)), Constants())
    assert 0.007 < cube < 0.03 and LEAST_DRIFT <= cylinder < Constants.drift[CYLINDER]
    assert sphere == pytest.approx(Constants.drift[SPHERE])  # none was seen


def test_doubted_laws_lie_to_both_sides_of_the_constants_and_are_possible():
    law = Constants(restitution=(0.0,) * 6, rolled=1.0)
    several = doubted(law, 47)
    assert len(several) == 47 and several == doubted(law, 47)
    for one, other in zip(several[:-1:2], several[1::2], strict=True):
        assert one.deceleration[0] + other.deceleration[0] == pytest.approx(2 * law.deceleration[0])
    spread = np.std([each.mass[0] for each in several])
    assert 0.25 * PRIOR["mass"] < spread < PRIOR["mass"]
    assert {each.mass[CYLINDER] for each in several} == {1.0}  # the unit
    assert min(min(each.restitution) for each in several) == 0 and max(each.rolled for each in several) == 1


@pytest.mark.slow
def test_the_fit_finds_the_constants_of_another_law(tracks):
    windows = find_windows(tracks)
    found = fit_constants(windows, Constants())
    before, after = (errors(windows, foreseen(windows, [law])[0]) for law in (Constants(), found))
    for kind in ("hit", "free"):
        assert np.median(after[kind]) < 0.6 * np.median(before[kind])
    for name in ("deceleration", "mass", "restitution"):
        # Cylinders are the unit of mass; of spheres that slide little is seen.
        parts = {"deceleration": (0, 2), "mass": (0, 1), "restitution": (1, 2, 5)}[name]
        for part in parts:
            believed, true, fitted = (getattr(law, name)[part] for law in (Constants(), OTHER, found))
            assert abs(fitted - true) < 0.6 * abs(believed - true) + 0.02, (name, part, believed, true, fitted)
    assert abs(found.spin_deceleration - OTHER.spin_deceleration) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("rolled", [0.0, 1.0])
def test_the_fit_finds_whether_a_sphere_rolls_after_a_hit(rolled):
    law = Constants(deceleration=(0.14, 0.14, 0.14), rolled=rolled)
    found = fit_constants(find_windows(throws(law, 54)), replace(law, rolled=0.5))
    assert abs(found.rolled - rolled) < 0.3


SLIPPERY = Constants(deceleration=(0.14, 0.14, 0.14))
"""Where it matters whether a sphere rolls."""


def entries(share: float, count: int):
    """Return films of spheres that come into view in frame 3 and roll as fast as ``share`` of their speed."""
    torch.manual_seed(0)
    films = []
    for n in range(count):
        start = scene([SPHERE, CYLINDER], [[-4.0, 0.0], [0.0, 3.0]], [[1.2 + 0.08 * n, 0.0], [0.0, 0.0]])
        film = filmed(State(**vars(start) | {"roll": share * start.velocity}), SLIPPERY, 16, 0.001)
        before = filmed(scene([SPHERE, CYLINDER], [[-6.0, 0.0], [0.0, 3.0]], [[0.0, 0.0]] * 2), SLIPPERY, 2, 0.0)
        before.visible[:, :, 0] = False
        films.append(after_one_another(before, film))
    return join(films)


@pytest.mark.parametrize("share", [0.0, 0.75])
def test_how_thrown_spheres_roll_is_found(share):
    found, _ = fit_beliefs(entries(share, 10), SLIPPERY).first_roll
    assert abs(found - share) < 0.2


def test_thrown_spheres_are_followed_from_where_they_show_unless_they_meet_something():
    film = entries(0.3, 4)
    found = thrown_spheres(film)
    assert len(found) == 4 and found.shape.flatten().tolist() == [SPHERE] * 4
    assert found.visible.all() and torch.equal(found.position[:, 0, 0], film.position[:, 2, 0])
    film.position[1, 8:, 1] = film.position[1, 8:, 0] + 0.3  # a cylinder beside it
    film.visible[2, 10, 0] = False
    film.position[3, :, 0] = film.position[3, 2, 0]
    assert torch.equal(thrown_spheres(film).position, found.position[:1])
    nothing = thrown_spheres(film[3:])
    assert len(nothing) == 0 and fit_beliefs(film[3:], SLIPPERY).first_roll == SLIPPERY.first_roll


@pytest.mark.parametrize(
    ("noise", "jolt", "name", "more"),
    [
        (0.001, 0.045, "edge_noise", False),
        (0.005, 0.045, "edge_noise", True),
        (0.002, 0.0, "hit_noise", False),
        (0.002, 0.15, "hit_noise", True),
    ],
)
def test_how_sure_places_and_hits_are_is_found(noise, jolt, name, more):
    """Films state an error of .002 units and the law one of .045 after hits."""
    torch.manual_seed(0)
    law = Constants(drift=(1e-3,) * 3)
    films = []
    for n in range(20):
        at, speed = [[-3.4, 0.1 - 0.01 * n], [0.0, 0.0]], [[1.4 + 0.02 * n, 0.0], [0.0, 0.0]]
        films.append(filmed(scene([CYLINDER, CYLINDER], at, speed), law, 16, noise, jolt))
    found = getattr(fit_beliefs(join(films), law), name)
    assert found > getattr(law, name) if more else found < getattr(law, name)


def test_nothing_seen_leaves_what_was_believed(tracks):
    assert fit_beliefs(tracks[:0], OTHER) == OTHER


@pytest.mark.slow
def test_few_windows_leave_what_was_believed():
    found = fit_constants(find_windows(throws(Constants(), 2, noise=0.003)), Constants())
    for name, deviation in PRIOR.items():
        assert np.all(np.abs(np.subtract(getattr(found, name), getattr(Constants(), name))) < deviation), name
    assert found.drift == pytest.approx(Constants.drift, rel=0.2)
    assert found == replace(Constants(), **{name: getattr(found, name) for name in (*PRIOR, "drift")})


def test_no_windows_are_no_fault():
    resting = filmed(scene([CYLINDER], [[0.0, 0.0]], [[0.0, 0.0]]), Constants(), 22, 0.0)
    windows = find_windows(resting)
    assert len(windows) == 0 and fit_constants(windows, Constants()) == Constants()
