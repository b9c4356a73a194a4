"""A stand-in of masks only goes the same way as frames do, but for the segmenter and what looks at frames."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.pack import open_packed
from data_prep.standin.writer import Settings, make_standin
from solution.evaluation import FORESIGHT, foresight
from solution.train import main as train
from tests.conftest import assert_one_sentence, call, run_validate


@pytest.fixture(scope="module")
def masks_only(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exact") / "masks"
    make_standin(folder, Settings(18, 4, 3, 0, 5, "masks"))
    return folder


@pytest.mark.slow
def test_masks_only_is_trained_on_and_scored_like_any_competition(masks_only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = call(train, "decoding", "--data", masks_only, "--run", "exact")
    assert made.exit_code == 0 and "segmenter" not in made.output, made.output
    found = run_validate("--run", "exact", "--data", masks_only, "--json", "--report", "exact.html")
    assert found.exit_code == 0, found.output
    methods = json.loads(found.stdout)["methods"]
    score = {name: values["object_iou"] for name, values in methods.items()}
    assert 0 < score["copy frame 11"] < score["objects"] < score[FORESIGHT]
    assert "U-Net on the true frame 22" not in score
    assert "masks only, no frames" in Path("exact.html").read_text()


def test_one_train_video_is_too_few(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_standin(tmp_path / "masks", Settings(1, 1, 0, 0, 5, "masks"))
    found = call(train, "decoding", "--data", tmp_path / "masks")
    assert_one_sentence(found, "masks.npy has 1 usable train videos", "at least 2")


@pytest.mark.parametrize("stage", ["segmenter", "edges", "frames", "jepa"])
def test_what_looks_at_frames_is_refused(masks_only, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    found = call(train, stage, "--data", masks_only)
    assert found.exit_code == 2
    assert_one_sentence(found, str(masks_only / "train"), "no frames")
    assert not list((tmp_path / "runs").glob("stages/*/done.json"))


def test_foresight_misses_nothing_but_what_was_never_seen(masks_only):
    masks = open_packed(masks_only)["val"].masks
    seen = np.array(masks)
    for video in seen:
        video[-1][~np.isin(video[-1], np.unique(video[:11]))] = 0
    found = foresight(seen)
    assert found.object_iou > 0.9 and found.jaccard > 0.9
    late = np.array(seen)
    late[:, :11] = 0
    assert foresight(late).object_iou == 0
