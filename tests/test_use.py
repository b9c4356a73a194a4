"""A trained run predicts new videos: without its training data, from a copy of its folder, one video alone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import submit
from solution.pipeline import MAKERS, MEMBERS
from solution.presets import PRESETS
from tests.conftest import assert_one_sentence, call, run_submit


@pytest.fixture
def elsewhere(workspace, tmp_path, monkeypatch) -> Path:
    """A current folder that holds nothing but a copy of a run's folder, called ``carried``."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(workspace.folder / "runs" / "quick", folder / "carried")
    monkeypatch.chdir(folder)
    return folder


def use(*options: object):
    return call(submit.main, "--use", "carried", "--device", "cpu", *options)


def masks_in(path: str) -> torch.Tensor:
    return torch.load(path, weights_only=True)


def test_a_copied_run_predicts_what_the_run_that_was_trained_did(workspace, elsewhere):
    size = sum(path.stat().st_size for path in (elsewhere / "carried").rglob("*") if path.is_file())
    names = {path.name.partition("-")[0] for path in (elsewhere / "carried" / "trained").iterdir()}
    assert names == {"segmenter", "objects", "decoding"} and size < 64 * 2**20
    assert str(workspace.folder) not in (elsewhere / "carried" / "run.json").read_text()
    data = elsewhere / "data"
    shutil.copytree(workspace.data / "hidden", data / "hidden", copy_function=os.link)
    found = use("--data", data, "--out", "new.pt", "--picture", "new.png")
    assert found.exit_code == 0, found.output
    assert torch.equal(masks_in("new.pt"), masks_in(workspace.submission))
    assert sorted(path.name.partition("-")[0] for path in Path("runs/stages").iterdir()) == [
        "masks_hidden",
        "predictions_hidden",
    ]
    with Image.open("new.png") as picture:
        assert picture.width > 4 * 240 and picture.height > 4 * 160

    shutil.rmtree(data / "hidden" / "video_15004")
    found = use("--data", data, "--out", "fewer.pt")
    assert found.exit_code == 0, found.output
    assert torch.equal(masks_in("fewer.pt"), masks_in("new.pt")[:4])


def test_training_data_beside_hidden_are_not_packed(workspace, elsewhere):
    found = use("--data", workspace.data, "--out", "new.pt")
    assert found.exit_code == 0, found.output
    assert torch.equal(masks_in("new.pt"), masks_in(workspace.submission))
    (packed,) = Path("runs/packed").iterdir()
    assert not (packed / "train").exists() and "5 hidden videos" in found.output


def test_one_video_is_a_folder_of_frames(workspace, elsewhere):
    found = use("--data", workspace.data / "hidden" / "video_15002", "--out", "one.pt", "--picture", "one.jpg")
    assert found.exit_code == 0, found.output
    assert torch.equal(masks_in("one.pt"), masks_in(workspace.submission)[2:3])
    assert Path("one.jpg").stat().st_size > 1000
    whole = next((workspace.data / "Dataset_Student" / "val").iterdir())
    found = use("--data", whole, "--out", "first_eleven.pt")
    assert found.exit_code == 0, found.output
    assert masks_in("first_eleven.pt").shape == (1, 160, 240)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "quick"], ["as it was trained", "leave out --preset"]),
        (["--set", "seed=1", "--members", "objects"], ["leave out --set, --members"]),
        (["--run", "other"], ["leave out --run"]),
        (["--use", "absent"], ["run absent", "the name of a run or a folder with run.json"]),
        (["--picture", "new.gif"], ["new.gif", ".png or .jpg"]),
    ],
)
def test_a_wrong_option_is_one_sentence(workspace, elsewhere, options, words):
    assert_one_sentence(use("--data", workspace.data, *options), *words)
    assert os.listdir(elsewhere) == ["carried"]


def test_use_needs_data_and_a_picture_needs_use(workspace, elsewhere):
    assert_one_sentence(use(), "expected --data")
    assert_one_sentence(run_submit("--data", workspace.data, "--picture", "new.png"), "expected --use RUN")


def test_a_run_of_other_code_says_so(workspace, elsewhere):
    path = elsewhere / "carried" / "run.json"
    record = json.loads(path.read_text())
    assert record["videos"] == {"hidden": 5, "val": 2, "train": 7}  # nobody reads the unlabeled ones
    path.write_text(json.dumps(record | {"commit": "0000000"}))
    found = use("--data", workspace.data, "--out", "new.pt")
    assert found.exit_code == 0 and "was made by commit 0000000" in found.output
    path.write_text(json.dumps(record | {"versions": record["versions"] | {"stages": 0}}))
    assert_one_sentence(use("--data", workspace.data), "is of version 0 of the stages")
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "trained"}))
    assert_one_sentence(use("--data", workspace.data), "another version of the kit")
    path.write_text("{")
    assert_one_sentence(use("--data", workspace.data), "run.json is damaged")


def test_a_run_that_lost_a_file_says_which(workspace, elsewhere):
    (path,) = (elsewhere / "carried").rglob("physics.json")
    path.unlink()
    assert_one_sentence(use("--data", workspace.data), "physics.json is missing or was changed")


def test_a_run_trained_anew_keeps_what_it_needs_only(trained):
    before = set(Path("runs/quick/trained").iterdir())
    found = run_submit("--data", trained.data, "--overwrite", "--set", "ensemble.decode=argmax")
    assert found.exit_code == 0, found.output
    after = set(Path("runs/quick/trained").iterdir())
    assert len(after) == len(before) == 3 and len(after - before) == 1


def test_help_names_every_member():
    printed = " ".join(call(submit.main, "--help").output.split())
    assert ", ".join(MEMBERS) in printed and "smoke" in printed


@pytest.mark.slow
def test_smoke_runs_every_stage(raw_standin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = call(submit.main, "--preset", "smoke", "--device", "cpu", "--data", raw_standin)
    assert found.exit_code == 0, found.output
    made = {path.name.partition("-")[0] for path in Path("runs/stages").iterdir()}
    assert set(MAKERS) <= made and set(PRESETS["smoke"].ensemble.members) == set(MEMBERS)
    found = call(submit.main, "--use", "smoke", "--device", "cpu", "--data", raw_standin, "--out", "again.pt")
    assert found.exit_code == 0, found.output
    assert torch.equal(masks_in("again.pt"), masks_in("submission.pt"))
