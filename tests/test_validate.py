"""The validator against the organisers' metric, and one sentence for every file that is no prediction."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics import JaccardIndex

from solution.machine import commit
from solution.runs import last_run, read_run
from solution.train import main as train
from submit import main as submit
from tests.conftest import TINY_OPTIONS, assert_one_sentence, call, run_validate

slow = partial(pytest.param, marks=pytest.mark.slow)


def guess_at(truth: torch.Tensor) -> torch.Tensor:
    """Return a prediction that is partly right: the truth moved a little, some of its classes confused."""
    moved = truth.roll((2, 3), (1, 2))
    return torch.where(moved % 7 == 3, 48 - moved, moved)


def reference(prediction: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return the score by torchmetrics and by scikit-learn."""
    organisers = JaccardIndex(task="multiclass", num_classes=49)(prediction.long(), truth.long())
    flat = truth.numpy().reshape(-1), prediction.numpy().reshape(-1)
    return organisers.item(), jaccard_score(*flat, average="macro")


@pytest.fixture
def truth_file(workspace) -> Path:
    return workspace.data / "hidden_truth.pt"


@pytest.fixture
def prediction(truth_file, tmp_path) -> Path:
    torch.save(guess_at(torch.load(truth_file)), tmp_path / "prediction.pt")
    return tmp_path / "prediction.pt"


def only_object(text: str) -> dict:
    """Return the JSON object that is all of a text."""
    assert text.count("\n") == 1
    return json.loads(text)


def test_the_number_is_the_organisers(prediction, truth_file):
    found = run_validate(prediction, "--truth", truth_file, "--json")
    assert found.exit_code == 0 and found.stderr == ""
    result = only_object(found.stdout)
    organisers, scikit = reference(torch.load(prediction), torch.load(truth_file))
    assert 0.05 < organisers < 0.9
    assert result["jaccard"] == pytest.approx(organisers, abs=1e-6) and result["jaccard"] == pytest.approx(scikit)
    assert result["videos"] == 5 and result["per_class"]["background"] > 0.8 and 0 < result["object_iou"] < 1
    printed = run_validate(prediction, "--truth", truth_file).output
    assert f"Jaccard {organisers:.4f} on 5 videos (0 left out)" in printed
    assert all(name in printed for name in result["per_class"])


def test_truth_may_be_a_split_with_a_bad_video(workspace, tmp_path):
    val = shutil.copytree(workspace.data / "Dataset_Student" / "val", tmp_path / "val")
    truth = torch.from_numpy(np.stack([np.load(val / f"video_{number}" / "mask.npy")[-1] for number in (1000, 1001)]))
    torch.save(guess_at(truth), tmp_path / "prediction.pt")
    np.save(val / "video_1000" / "mask.npy", np.zeros((22, 160, 100), np.uint8))
    found = run_validate(tmp_path / "prediction.pt", "--truth", val, "--json")
    result = only_object(found.stdout)
    assert result["jaccard"] == pytest.approx(reference(guess_at(truth)[1:], truth[1:])[0], abs=1e-6)
    assert result["videos"] == 1 and result["videos_left_out"] == 1
    assert "left out: " in found.stderr and "video_1000" in found.stderr and "(22, 160, 100)" in found.stderr


def test_a_run_scores_every_method_and_does_so_again_alike(trained):
    options = ["--run", "quick", "--data", trained.data, "--device", "cpu"]
    found = run_validate(*options, "--json")
    assert found.exit_code == 0, found.output
    result = only_object(found.stdout)
    methods = result.pop("methods")
    assert list(methods) == [
        "all background",
        "copy frame 11",
        "damped velocity",
        "objects",
        "ensemble",
        "ensemble, from true masks",
        "U-Net on the true frame 22",
    ]
    assert methods["ensemble"] == result and result["videos"] == 2
    assert methods["ensemble, from true masks"]["object_iou"] > result["object_iou"] + 0.1  # its U-Net has seen little
    assert {"jaccard", "object_iou", "per_class", "videos"} <= result.keys()
    assert only_object(run_validate(*options, "--json").stdout)["methods"] == methods
    printed = run_validate(*options).output
    for name, score in methods.items():
        assert f"\n{name:32}{score['jaccard']:9.4f}" in printed


def test_a_run_scores_a_competition_of_val_alone_and_its_bad_video_not(trained, tmp_path):
    alone = tmp_path / "alone"
    val = shutil.copytree(trained.data / "Dataset_Student" / "val", alone / "val")
    before = set((trained.folder / "runs" / "stages").iterdir())
    whole = only_object(run_validate("--run", "quick", "--data", alone, "--device", "cpu", "--json").stdout)
    assert whole["videos"] == 2
    made = {path.name.split("-")[0] for path in set((trained.folder / "runs" / "stages").iterdir()) - before}
    assert made == {"masks_val", "fates_val", "methods_val"}, "nothing is trained or segmented that is not scored"
    (val / "video_1001" / "image_7.png").write_text("text")
    found = run_validate("--run", "quick", "--data", alone, "--device", "cpu", "--json")
    result = only_object(found.stdout)
    assert result["videos"] == 1 and result["videos_left_out"] == 1 and "row kept, not scored" in found.stderr


def test_a_run_that_is_not_there_is_one_sentence(trained, tmp_path):
    assert_one_sentence(run_validate("--run", "quikc", "--data", trained.data), "quikc", "there are quick")
    (tmp_path / "nothing").mkdir()
    assert_one_sentence(run_validate("--run", "quick", "--data", tmp_path / "nothing"), "is empty")
    (stage,) = (trained.folder / "runs" / "quick" / "trained").glob("objects-*")
    shutil.rmtree(stage)
    found = run_validate("--run", "quick", "--data", trained.data)
    assert_one_sentence(found, stage.name, "run submit.py again")


def test_a_run_is_a_folder_too_that_was_copied_from_elsewhere(trained, tmp_path, monkeypatch):
    by_name = only_object(run_validate("--run", "quick", "--data", trained.data, "--device", "cpu", "--json").stdout)
    carried = shutil.copytree("runs/quick", tmp_path / "elsewhere" / "carried")
    (carried / "validation.json").unlink()
    monkeypatch.chdir(carried.parent)
    found = run_validate("--run", "carried", "--data", trained.data, "--device", "cpu", "--json")
    assert found.exit_code == 0 and only_object(found.stdout) == by_name
    scores = json.loads((carried / "validation.json").read_text())["scores"]
    assert scores == by_name["methods"] and not Path("runs/carried").exists()


def test_without_an_option_it_scores_the_run_that_is_here_else_checks_the_file(trained):
    assert_one_sentence(run_validate(), "expected FILE with --truth", "there is no finished run in ./runs, or no data")
    Path("data").mkdir()
    for split in ("Dataset_Student", "hidden"):
        Path("data", split).symlink_to(trained.data / split)
    found = run_validate("--device", "cpu", "--json")
    assert "Taken: --run runs/quick, --data data" in found.stderr
    for options in (["--run", "quick"], ["--data", "data"]):
        again = run_validate(*options, "--device", "cpu", "--json")
        assert again.exit_code == 0 and only_object(again.stdout) == only_object(found.stdout)
    Path("runs/quick").rename("elsewhere")
    found = run_validate()
    assert found.exit_code == 0 and "submission.pt has the right format for 5 hidden videos" in found.output
    truth = trained.data / "hidden_truth.pt"
    assert run_validate("--truth", truth).stdout == run_validate("submission.pt", "--truth", truth).stdout


def test_the_last_finished_run_is_the_one_that_was_saved_last(trained, capsys):
    """That a run is of another commit is said of the run that is used, not of those that are looked at."""
    path = Path("runs/quick/run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0000000"}))
    shutil.copytree("runs/quick", "runs/older")
    os.utime("runs/older/run.json", (1, 1))
    assert last_run() == Path("runs/quick")
    os.utime("runs/quick/run.json", (0, 0))
    assert last_run() == Path("runs/older")
    Path("runs/older/run.json").write_text("{")
    assert last_run() == Path("runs/quick") and not capsys.readouterr().err
    read_run("quick")
    assert capsys.readouterr().err.count("run quick was made by commit 0000000") == (commit() != "unknown")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        slow("segmenter-*/weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        slow("masks_hidden-*/masks.npy", lambda path: path.write_bytes(b"")),
        slow("predictions_hidden-*/predictions.npy", Path.unlink),
        ("decoding-*/done.json", lambda path: path.write_text("")),
    ],
)
def test_a_stage_that_lost_a_file_is_one_sentence(trained, name, spoil):
    (path,) = (trained.folder / "runs" / "stages").glob(name)
    spoil(path)
    found = call(submit, "--data", trained.data, *TINY_OPTIONS, "--overwrite")
    assert_one_sentence(found, "/".join(path.parts[-2:]), f"delete runs/stages/{path.parent.name} and run")
    shutil.rmtree(path.parent)
    assert call(submit, "--data", trained.data, *TINY_OPTIONS, "--overwrite").exit_code == 0


def test_nothing_that_is_read_is_written_over(trained):
    truth = trained.data / "hidden_truth.pt"
    before = truth.read_bytes(), trained.submission.read_bytes()
    for report in (truth, trained.submission):
        found = run_validate(trained.submission, "--truth", truth, "--report", report)
        assert_one_sentence(found, report.name, "would be written over")
    assert (truth.read_bytes(), trained.submission.read_bytes()) == before
    assert only_object(run_validate(truth, "--truth", truth, "--json").stdout)["jaccard"] == 1


def test_truth_without_a_class_is_one_sentence(trained, tmp_path):
    nothing = tmp_path / "nothing.pt"
    torch.save(torch.full_like(torch.load(trained.submission, weights_only=True), 255), nothing)
    assert_one_sentence(run_validate(trained.submission, "--truth", nothing), "nothing.pt", "nothing to score on")


def test_a_stage_alone_takes_no_finished_run_s_name(trained):
    path = trained.folder / "runs" / "quick" / "run.json"
    before = path.read_text()
    found = call(train, "segmenter", "--data", trained.data, *TINY_OPTIONS)
    assert found.exit_code == 0 and "give --run another name" in found.output and path.read_text() == before
    assert call(train, "segmenter", "--data", trained.data, *TINY_OPTIONS, "--run", "part").exit_code == 0
    before = set((trained.folder / "runs" / "packed").iterdir())
    found = run_validate("--run", "part", "--data", trained.data / "Dataset_Student")
    assert_one_sentence(found, "part", "no stage decoding")
    assert set((trained.folder / "runs" / "packed").iterdir()) == before


@pytest.mark.parametrize("text", [slow("{"), '{"config": {"gone": 1}, "stages": {}}', slow("[]")])
def test_a_run_of_another_version_is_one_sentence(trained, text):
    (trained.folder / "runs" / "quick" / "run.json").write_text(text)
    found = run_validate("--run", "quick", "--data", trained.data)
    assert_one_sentence(found, "run.json", "damaged", "run submit.py again")
    assert call(submit, "--data", trained.data, *TINY_OPTIONS, "--overwrite").exit_code == 0
    assert run_validate("--run", "quick", "--data", trained.data).exit_code == 0


@pytest.mark.parametrize("name", ["../beside", "..", "stages", "file"])
def test_no_run_has_the_name_of_something_else(trained, name):
    (trained.folder / "runs" / "file").write_text("text")
    assert_one_sentence(run_validate("--run", name, "--data", trained.data), f"run {name}: expected the name of a run")
    found = call(submit, "--data", trained.data, *TINY_OPTIONS, "--overwrite", "--run", name)
    assert_one_sentence(found, f"--run {name}", "plain name")


@pytest.mark.parametrize("option", ["--report", "--picture", "--record"])
def test_where_nothing_can_be_written_is_said_before_the_work(trained, option):
    (trained.folder / "file").write_text("text")
    before = set((trained.folder / "runs" / "stages").iterdir())
    found = run_validate("--run", "quick", "--data", trained.data, option, "file/page.png")
    assert_one_sentence(found, "file/page.png", "is no folder")
    assert set((trained.folder / "runs" / "stages").iterdir()) == before


@pytest.mark.parametrize(
    "options",
    [
        ["file.pt"],
        ["file.pt", "--truth", "a.pt", "--hidden", "hidden"],
        ["file.pt", "--truth", "a.pt", "--data", "data"],
        ["file.pt", "--hidden", "hidden", "--json"],
    ],
)
def test_options_that_make_no_sense_are_one_sentence(options):
    assert_one_sentence(run_validate(*options), "expected FILE with --truth", "--run with --data")


def test_without_anything_here_there_is_nothing_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--run", "quick"], ["--data", "."], ["--truth", "a.pt"], ["--hidden", "."]):
        assert_one_sentence(run_validate(*options), "expected FILE with --truth", "--run with --data")


def test_the_format_of_a_right_file(workspace):
    found = run_validate(workspace.submission, "--hidden", workspace.data)
    assert found.exit_code == 0 and "right format for 5 hidden videos" in found.output


def test_a_prediction_of_another_type_is_scored_and_said(prediction, truth_file, tmp_path):
    guess = torch.load(prediction)
    expected = only_object(run_validate(prediction, "--truth", truth_file, "--json").stdout)
    np.save(tmp_path / "guess.npy", guess.numpy().astype(">f4")[..., None])
    found = run_validate(tmp_path / "guess.npy", "--truth", truth_file, "--json")
    assert only_object(found.stdout) == expected
    assert found.stderr.splitlines() == [
        f"{tmp_path / 'guess.npy'}: float32 taken as uint8",
        f"{tmp_path / 'guess.npy'}: shape (5, 160, 240, 1) taken as (5, 160, 240)",
    ]
    found = run_validate(tmp_path / "guess.npy", "--hidden", truth_file.parent)
    assert (
        found.exit_code == 1 and "found a NumPy array" in found.output and "a dimension of 1 too many" in found.output
    )


def test_the_format_check_says_where_hidden_has_a_gap(workspace, tmp_path):
    hidden = shutil.copytree(workspace.data / "hidden", tmp_path / "hidden")
    shutil.rmtree(hidden / "video_15002")
    torch.save(torch.load(workspace.submission)[1:], tmp_path / "four.pt")
    found = run_validate(tmp_path / "four.pt", "--hidden", hidden)
    assert (
        found.exit_code == 0
        and "4 hidden videos (4 videos numbered 15000 to 15004, the first gap at 15002)" in found.output
    )


def test_every_problem_of_the_format_is_listed(workspace, tmp_path):
    wrong = torch.zeros(4, 160, 240)
    wrong[0, 0, 0], wrong[1, 1, 1] = 49, -1
    torch.save(wrong, tmp_path / "wrong.pt")
    found = run_validate(tmp_path / "wrong.pt", "--hidden", workspace.data / "hidden")
    assert found.exit_code == 1
    problems = found.output.splitlines()
    assert len(problems) == 4 and all(line.startswith(f"{tmp_path / 'wrong.pt'}: ") for line in problems)
    for words in ("expected (5, 160, 240), found (4, 160, 240)", "found 49 as the", "found -1 as the", "float32"):
        assert words in found.output, words


@pytest.mark.parametrize("keep", [None, 0.5])
def test_what_is_no_prediction_is_one_sentence(truth_file, workspace, tmp_path, keep):
    """All kinds of such files are in ``test_submission.py``."""
    path, words = tmp_path / "bad.pt", "truncated or damaged" if keep else "is missing"
    if keep:
        whole = workspace.submission.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole))])
    assert_one_sentence(run_validate(path, "--truth", truth_file), "bad.pt", words)
    found = run_validate(path, "--hidden", workspace.data)
    assert found.exit_code == 1 and words in found.output


def test_a_truth_without_masks_is_one_sentence(workspace):
    found = run_validate(workspace.submission, "--truth", workspace.data / "hidden")
    assert_one_sentence(found, "hidden", "mask.npy", "val")
    assert_one_sentence(run_validate(workspace.submission, "--truth", "val"), "val is missing", "a split's folder")
