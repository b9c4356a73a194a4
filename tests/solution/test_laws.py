"""The comparison of laws of motion: each explains what it moved itself."""

import numpy as np
import pytest
from click.testing import CliRunner

from data_prep.standin.physics import simulate
from data_prep.standin.tracks import write_tracks
from solution.laws import deviations, main, moved_by_engine, true_tracks
from solution.motion import errors, find_windows, foreseen
from solution.physics import Constants
from tests.solution.test_motion import OTHER, throws


@pytest.fixture(scope="module")
def videos():
    return [simulate(seed) for seed in range(24)]


def test_the_engine_explains_what_it_moved(videos):
    windows = find_windows(true_tracks(videos))
    own = errors(windows, moved_by_engine(windows))
    assert min(len(own["hit"]), len(own["free"])) > 20
    assert np.median(own["free"]) < 0.01 and np.median(own["hit"]) < 0.03


def test_the_simulator_explains_what_it_moved():
    windows = find_windows(throws(OTHER, 18, noise=0.0))
    ours, engine = errors(windows, foreseen(windows, OTHER)), errors(windows, moved_by_engine(windows))
    assert np.median(ours["hit"]) < 0.5 * np.median(engine["hit"])


def test_a_filter_that_is_too_sure_is_seen(videos):
    tracks = true_tracks(videos)
    sure, unsure = (np.median(deviations(tracks, Constants(drift=drift))) for drift in (1e-4, 0.05))
    assert sure > 3 * unsure > 0


def test_the_command_prints_every_law_and_the_constants(videos, tmp_path):
    write_tracks(tmp_path / "some.npz", range(8), videos[:8])
    found = CliRunner().invoke(main, ["--tracks", str(tmp_path / "some.npz")])
    assert found.exit_code == 0, found.output
    for text in ("the stand-in's engine", "default constants", "fitted to these", "fitted:  deceleration"):
        assert text in found.output


@pytest.mark.parametrize("arguments", [["--tracks", "none.npz"], ["nowhere"], []])
def test_a_wrong_path_is_one_sentence(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2 and "Traceback" not in found.output
    assert all(argument in found.output for argument in arguments[-1:])
