"""The comparison of laws: both move alike where their constants are, and the command reads what it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.classes import SPHERE
from data_prep.scene import CLIP_FRAMES, FRAME_SECONDS
from data_prep.standin.engine import LAW, slide
from data_prep.standin.tracks import write_tracks
from solution import laws
from solution.kalman import observe
from solution.motion import errors, find_windows, foreseen
from solution.physics import PAIRS, Constants
from tests.conftest import assert_one_sentence, call, simulate_many

ALIKE = replace(
    Constants(),
    deceleration=LAW.deceleration,
    damping=LAW.damping,
    drag=LAW.drag,
    spin_deceleration=LAW.spin_deceleration,
    mass=LAW.mass,
    restitution=tuple(LAW.restitution[a][b] for a, b in PAIRS),
    dullness=LAW.dullness,
    friction=LAW.friction,
    rolled=0.0,
    size=LAW.size,
)
"""What the engine's law says, but for how hits turn spheres."""


@pytest.fixture(scope="module")
def videos():
    return simulate_many(2, 45)


def test_the_engine_and_the_simulator_agree_on_what_follows_from_the_same_state(videos):
    """MuJoCo in three dimensions and the planar simulator share nothing but the constants."""
    windows = find_windows(laws.true_tracks(videos))
    moved = laws.moved_by_engine(windows, replace(LAW, rolls=0.0))
    apart = (moved - foreseen(windows, [ALIKE])[0, ..., :2])[:, -1].norm(dim=-1)[windows.judged[:, -1]]
    assert len(windows) > 50
    assert apart.quantile(0.5) < 2e-3 and apart.quantile(0.9) < 0.02


def test_the_engine_foresees_its_own_videos(videos):
    windows = find_windows(laws.true_tracks(videos))
    found = errors(windows, laws.moved_by_engine(windows))
    assert np.median(found["free"]) < 0.01 and np.median(found["hit"]) < 0.03


def test_true_tracks_show_what_is_in_view(videos):
    tracks = laws.true_tracks(videos[:3])
    for row, video in enumerate(videos[:3]):
        count = len(video.class_ids)
        assert (tracks.classes[row, :count] == torch.from_numpy(video.class_ids.astype(int))).all()
        seen = tracks.visible[row, :, :count]
        assert seen.any() and not tracks.visible[row, :, count:].any()
        assert torch.equal(tracks.position[row, :, :count][seen], torch.from_numpy(video.position)[seen])


@pytest.mark.slow
def test_the_command_prints_every_law_and_refuses_what_is_no_tracks(videos, tmp_path):
    path = tmp_path / "tracks.npz"
    write_tracks(path, list(range(len(videos))), videos)
    found = call(laws.main, "--tracks", path, "--videos", "10")
    assert found.exit_code == 0, found.output
    for name in ("the stand-in's engine", "simulator, default constants", "simulator, fitted to the other half"):
        assert sum(line.startswith(name) for line in found.output.splitlines()) == 1
    assert_one_sentence(call(laws.main, "--tracks", tmp_path / "none.npz"), "none.npz", "missing")
    assert_one_sentence(call(laws.main, tmp_path / "nowhere"), "nowhere")
    assert call(laws.main).exit_code == 2


def test_a_window_starts_where_a_sphere_s_rolling_is_known():
    velocity = np.array([[1.4, 0.0]])
    position, _ = slide(np.array([SPHERE]), np.zeros((1, 2)), np.zeros(1), velocity, np.zeros(1), velocity, frames=3)
    assert 0 < 1.4 - (position[2, 0, 0] - position[1, 0, 0]) / FRAME_SECONDS < 0.05


def test_a_true_start_is_where_and_how_fast_solids_truly_are(videos):
    """After a filter that trusts nothing it sees, whose own speeds are far off."""
    tracks = laws.true_tracks(videos)
    vague = Constants(edge_noise=1e4)
    blurred = replace(tracks, covariance=tracks.covariance + 1e-6 * torch.eye(3))
    belief = observe(blurred.frames(slice(CLIP_FRAMES)), vague)
    started, told = laws.true_start(belief, tracks)
    assert told.sum() > 50 and not told[~tracks.visible[:, CLIP_FRAMES - 1]].any()
    around = tracks.position[:, CLIP_FRAMES] - tracks.position[:, CLIP_FRAMES - 2]
    velocity = around / (2 * FRAME_SECONDS)
    off = [(each.state.velocity - velocity)[told].norm(dim=-1) for each in (belief, started)]
    assert off[1].max() < 0.03 < off[0].max()
    assert (started.variance()[told][:, :4] == 0).all()
    assert torch.equal(started.variance()[~told], belief.variance()[~told])


def test_a_filter_that_is_too_sure_is_seen(videos):
    tracks = laws.true_tracks(videos)
    sure, unsure = (laws.deviations(tracks, Constants(drift=(drift,) * 3)) for drift in (1e-4, 0.05))
    for shape in ("cube", "cylinder"):
        assert np.median(sure[shape]) > 3 * np.median(unsure[shape]) > 0
