"""The main command, from raw folders to a leaderboard file: complete, resumable after any kill, clear about errors."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from solution.predictors import jepa
from solution.train import main as train
from tests.conftest import TINY_OPTIONS, assert_one_sentence, call, flip_a_bit, run_submit, run_validate
from tests.test_gpu import SMALL, SMALL_JEPA

ROOT = Path(__file__).resolve().parents[1]


def times(folder: Path) -> dict[str, int]:
    """Return when every stage was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "runs" / "stages").glob("*/done.json")}


def stages(folder: Path, name: str) -> list[Path]:
    """Return the markers of all finished stages of a name."""
    return list((folder / "runs" / "stages").glob(f"{name}-*/done.json"))


def stage(folder: Path, name: str) -> Path:
    (found,) = (folder / "runs" / "stages").glob(f"{name}-*")
    return found


@pytest.fixture
def data(raw_standin, tmp_path) -> Path:
    """The raw competition as hard links that a test may remove and replace."""
    return shutil.copytree(raw_standin, tmp_path / "data", copy_function=os.link)


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def replace_bytes(path: Path, content: bytes) -> None:
    path.unlink()  # never write through a hard link
    path.write_bytes(content)


def test_the_file_is_what_the_leaderboard_takes(workspace):
    masks = torch.load(workspace.submission, weights_only=True)
    assert masks.shape == (5, 160, 240) and masks.dtype == torch.uint8 and masks.is_contiguous() and masks.max() < 49
    digest = hashlib.sha256(workspace.submission.read_bytes()).hexdigest()
    for words in (digest, "(5, 160, 240) uint8", "background", "time per stage", "all background", "copy frame 11"):
        assert words in workspace.printed, words
    shares = f"  {(masks == 0).float().mean():.1%} background, {len(masks.unique()) - 1} of 48 object classes:"
    assert shares in workspace.printed
    profile = workspace.printed.rpartition("time per stage")[2].splitlines()[1:]
    profile = [line for line in profile if line.startswith("  ")]  # what training warns of comes after it
    shares = [int(line.rpartition(" ")[2].removesuffix("%")) for line in profile]
    assert shares == sorted(shares, reverse=True) and 90 < sum(shares) < 110 and len(shares) == 10
    assert any(line.startswith("  segmenter ") for line in profile) and "done before" not in profile[-1]
    assert sorted(os.listdir(workspace.folder)) == ["runs", "submission.pt"]
    leftovers = [path for path in workspace.folder.rglob("*") if path.suffix in (".partial", ".tmp", ".part", ".rows")]
    assert not leftovers and not list(workspace.folder.rglob("resume*.pt"))


def test_a_second_time_repeats_nothing(trained):
    before, first = times(trained.folder), trained.submission.read_bytes()
    assert_one_sentence(run_submit("--data", trained.data), "submission.pt exists", "--overwrite")
    found = run_submit("--data", trained.data, "--overwrite")
    assert found.exit_code == 0, found.output
    assert times(trained.folder) == before and len(before) == 9
    profile = found.output.rpartition("time per stage")[2]
    assert (
        "done before: mask_tracks, segmenter, " in profile
        and "packing, scoring and all else" in profile
        and "100%" in profile
    )
    assert trained.submission.read_bytes() == first


def test_copied_data_repeat_nothing_and_other_data_are_said(trained, tmp_path):
    before = times(trained.folder)
    copy = shutil.copytree(trained.data, tmp_path / "copy", copy_function=shutil.copyfile)
    found = run_submit("--data", copy, "--overwrite")
    assert found.exit_code == 0, found.output
    assert times(trained.folder) == before and "other data" not in found.output
    shutil.rmtree(next((copy / "Dataset_Student" / "train").iterdir()))
    found = call(train, "segmenter", "--data", copy, *TINY_OPTIONS)
    assert found.exit_code == 0, found.output
    said = "runs/quick/run.json was trained on other data and will be replaced; give --run another name to keep it."
    assert said in found.output and len(stages(trained.folder, "segmenter")) == 2


def test_a_change_of_config_repeats_only_what_depends_on_it(trained):
    before = times(trained.folder)
    found = run_submit("--data", trained.data, "--overwrite", "--set", "ensemble.decode=argmax")
    assert found.exit_code == 0, found.output
    made = {name.split("-")[0] for name in times(trained.folder).keys() - before.keys()}
    assert made == {"decoding", "predictions_hidden"}


def test_too_little_memory_is_one_sentence_and_loses_nothing(raw_standin, empty, monkeypatch):
    def too_large(*_):
        torch.empty(2**60)

    monkeypatch.setattr("solution.pipeline.segment_split", too_large)
    assert_one_sentence(run_submit("--data", raw_standin), "masks_train needs more memory than cpu has", "smaller")
    assert len(stages(empty, "segmenter")) == 1 and not stages(empty, "masks_train")


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import submit
from data_prep import pack
from solution import ensemble, pipeline, training
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
calls = []
def kill_at(call, original):
    def counting(*arguments, **options):
        calls.append(call)
        return die() if len(calls) == call else original(*arguments, **options)
    return counting
training.CHECKPOINT_SECONDS = 0.0
{patch}
submit.main({options!r})
"""


def run_patched(folder: Path, patch: str, options: list[str]) -> subprocess.CompletedProcess:
    """Call ``submit.py`` in a process of its own, after a line of code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = KILLED.format(patch=patch, options=options)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


KILLS = {
    "packing": "pack.pack_video = kill_at(9, pack.pack_video)",
    "training": "training.State.save = kill_at(4, training.State.save)",
    "prediction": "pipeline.batch_size = lambda _: 4; ensemble.System.predict = kill_at(2, ensemble.System.predict)",
}


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_file(workspace, tmp_path, monkeypatch):
    """SIGKILL in the middle of packing, of training and of prediction, one after the other."""
    options = [*TINY_OPTIONS, "--data", str(workspace.data)]
    finished = {}
    for name, patch in KILLS.items():
        found = run_patched(tmp_path, patch, options)
        assert found.returncode == -signal.SIGKILL, (name, found.stdout, found.stderr)
        assert not (tmp_path / "submission.pt").exists()
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
        assert finished.items() <= kept.items(), name
        finished = kept
        if name == "packing":
            assert list(tmp_path.rglob("packing.jsonl"))
        if name == "training":
            newest = stage(tmp_path, "segmenter") / "resume.pt"
            flip_a_bit(newest)  # the next command must go on from the checkpoint before it
        if name == "prediction":
            assert f"{newest.name} is damaged" in found.stderr
    rows = stage(tmp_path, "predictions_hidden") / "predictions.rows"
    assert rows.read_text() == "4"
    monkeypatch.chdir(tmp_path)
    found = run_submit("--data", str(workspace.data))
    assert found.exit_code == 0, found.output
    assert (tmp_path / "submission.pt").read_bytes() == workspace.submission.read_bytes()
    assert finished.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}.items()


INTERRUPT = """
import solution.segmenter
training.CHECKPOINT_SECONDS = 60.0
whole = training.ema_update
def interrupting(*arguments):
    update = whole(*arguments)
    return lambda step: (update(step), step == 2 and os.kill(os.getpid(), signal.SIGINT))
training.ema_update = interrupting
"""


def test_ctrl_c_in_training_keeps_the_step_it_is_in(raw_standin, tmp_path):
    found = run_patched(tmp_path, INTERRUPT, [*TINY_OPTIONS, "--data", str(raw_standin)])
    assert found.returncode == 130, found.stderr
    assert found.stderr.endswith("Stopped; the same command goes on from here, finished work is kept.\n")
    assert "Traceback" not in found.stderr and "Aborted" not in found.stderr
    assert torch.load(stage(tmp_path, "segmenter") / "resume.pt", weights_only=True)["step"] == 3


def remove_split(data: Path, split: str) -> None:
    shutil.rmtree(data / split if split == "hidden" else data / "Dataset_Student" / split)


def text_frames(data: Path) -> None:
    for path in (data / "Dataset_Student" / "train").rglob("*.png"):
        replace_bytes(path, b"text")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: shutil.rmtree(data), ["data", "no existing folder"]),
        (lambda data: shutil.rmtree(data / "hidden" / "video_15002"), ["the first gap at 15002", "--allow-gaps"]),
        (text_frames, ["image_0.png", "not a PNG"]),
    ],
    ids=["no folder", "a gap", "text"],
)
def test_unusable_data_is_one_sentence(data, empty, spoil, words):
    """All kinds of such data are in ``test_competition.py`` and ``test_pack.py``."""
    spoil(data)
    assert_one_sentence(run_submit("--data", data), *words)
    left = [
        path
        for path in empty.rglob("*")
        if path.is_file() and path.name not in (".lock", "index.json", "frames.npy", "masks.npy")
    ]
    assert not left, "half-written files"
    assert not (empty / "submission.pt").exists()


@pytest.mark.slow
def test_masks_without_any_object_are_one_sentence(data, empty):
    for path in (data / "Dataset_Student" / "train").glob("*/mask.npy"):
        nothing = np.zeros_like(np.load(path))
        path.unlink()
        np.save(path, nothing)
    assert_one_sentence(run_submit("--data", data), "masks of the train videos show no whole object")


@pytest.mark.slow
def test_a_few_bad_files_are_reported_and_done_without(data, empty):
    train = data / "Dataset_Student" / "train"
    replace_bytes(train / "video_1" / "image_3.png", b"text")
    replace_bytes(data / "hidden" / "video_15001" / "image_0.png", b"")
    found = run_submit("--data", data)
    assert found.exit_code == 0, found.output
    assert "6 train, 2 val, 5 hidden" in found.output and "2 problems" in found.output
    assert "1 × not a PNG: video left out" in found.output
    assert "1 × empty file: nearest readable frame repeated" in found.output
    assert torch.load("submission.pt", weights_only=True).shape == (5, 160, 240)


@pytest.mark.slow
def test_two_train_videos_one_hidden_and_nothing_else_are_enough(data, empty):
    for split in ("val", "unlabeled"):
        remove_split(data, split)
    (data / "hidden_truth.pt").unlink()
    for folder in [
        *sorted((data / "Dataset_Student" / "train").iterdir())[2:],
        *sorted((data / "hidden").iterdir())[1:],
    ]:
        shutil.rmtree(folder)
    found = run_submit("--data", data)
    assert found.exit_code == 0, found.output
    assert "2 train, 1 hidden videos" in found.output
    assert torch.load("submission.pt", weights_only=True).shape == (1, 160, 240)
    shutil.rmtree(next((data / "Dataset_Student" / "train").iterdir()))
    assert_one_sentence(run_submit("--data", data, "--overwrite"), "1 usable train videos", "at least 2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "segmenter.stepz=3"], ["segmenter.stepz", "the nearest is segmenter.steps"]),
        (["--set", "segmenter.steps=many"], ["expected a valid integer", "'many'"]),
        (["--set", "segmenter.encoder=resnet19"], ["segmenter.encoder=resnet19", "cannot be built", "resnet19"]),
        (["--set", "masks.size=16,20,4,2", "--members", "masks"], ["masks.size=16,20", "cannot be built"]),
        (["--set", "segmenter.crop=200,300"], ["segmenter.crop=200,300", "frames of 160 by 240", "(200, 300)"]),
        (["--set", "frames.downscale=3", "--members", "frames"], ["frames.downscale=3", "downscale × patch divides"]),
        (["--members", "objects,luck"], ["different members of objects, masks, frames", "luck"]),
        (["--members", "objects,objects"], ["different members"]),
        (["--members", ""], ["ensemble.members", "at least 1"]),
        (["--device", "abacus"], ["--device abacus", "expected cpu or cuda"]),
        (["--device", "meta"], ["--device meta", "expected cpu or cuda"]),
        (["--members", "masks", "--set", "masks.patch=3"], ["patch divides 160 and 240, 6 does not"]),
        (["--out", "."], ["is a folder"]),
        (["--out", "a_file/submission.pt"], ["cannot be written", "a_file"]),
        (["--record", "."], ["is a folder"]),
        (["--record", "a_file/record.json"], ["cannot be written", "a_file"]),
        (["--out", "one.pt", "--record", "./one.pt"], ["one.pt would be written over"]),
        (["--set", "seed=99999999999999999999"], ["seed", "less than 2147483648"]),
    ],
)
def test_a_wrong_option_is_one_sentence_before_any_work(raw_standin, empty, options, words):
    (empty / "a_file").touch()
    assert_one_sentence(run_submit("--data", raw_standin, *options), *words)
    assert os.listdir(empty) == ["a_file"]


def test_packed_data_without_a_needed_split_is_one_sentence(trained, empty):
    (packed,) = (trained.folder / "runs" / "packed").iterdir()
    shutil.rmtree(packed / "hidden")
    assert_one_sentence(run_submit("--data", packed), "no packed hidden split")
    (packed / "train" / "masks.npy").unlink()
    assert_one_sentence(run_submit("--data", packed), "masks.npy is missing")
    assert os.listdir(empty) == []


def test_a_diverging_loss_is_one_sentence_and_the_disk_keeps_the_last_good_state(trained):
    found = run_submit("--data", trained.data, "--overwrite", "--set", "segmenter.learning_rate=1e30")
    assert_one_sentence(found, "the loss is", "at step", "learning rate 2.50e+", "resume.pt", "lower learning rate")
    assert "going on from there once, at half the rate" in found.stderr


def fill(folder: Path, leave: int) -> Path:
    """Fill a disk but for some bytes."""
    filler, free = folder / "filler", shutil.disk_usage(folder).free
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - leave)
    return filler


@pytest.mark.slow
def test_a_full_disk_loses_nothing(workspace, small_disk, monkeypatch):
    monkeypatch.chdir(small_disk)
    options = ["--data", workspace.data]
    filler = fill(small_disk, 2**20)
    assert_one_sentence(run_submit(*options), "No space left on device", "finished work is kept")
    filler.unlink()
    shutil.copytree(workspace.folder / "runs", small_disk / "runs", dirs_exist_ok=True)
    for name, leave in (("segmenter", 2**16), ("tracks", 0), ("objects", 2**14), ("predictions_hidden", 2**14)):
        shutil.rmtree(stage(small_disk, name))
        filler = fill(small_disk, leave)
        found = run_submit(*options)
        assert_one_sentence(found, "No space left on device")
        assert not (small_disk / "submission.pt").exists(), name
        filler.unlink()
    found = run_submit(*options)
    assert found.exit_code == 0, found.output
    assert (small_disk / "submission.pt").read_bytes() == workspace.submission.read_bytes()


@pytest.mark.slow
def test_copies_are_trained_from_other_seeds_and_known_to_validation(trained):
    options = ["--data", trained.data, "--overwrite", "--run", "two", "--set", "ensemble.copies=2"]
    found = run_submit(*options)
    assert found.exit_code == 0, found.output
    before = times(trained.folder)
    assert all(f"  {name}: " in found.output for name in ("segmenter", "segmenter.2", "objects.2", "masks_hidden.2"))
    seeds = sorted(json.loads(path.read_text())["decided_by"]["seed"] for path in stages(trained.folder, "segmenter"))
    assert seeds == [0, 1] and len(stages(trained.folder, "objects")) == 2
    single = run_submit("--data", trained.data, "--overwrite", "--set", "seed=1")
    assert single.exit_code == 0, single.output
    made = {name.split("-")[0] for name in times(trained.folder).keys() - before.keys()}
    assert made == {"decoding", "predictions_hidden"}, "the second copy is what seed 1 is by itself"
    before = times(trained.folder)
    found = run_validate("--run", "two", "--data", trained.data)
    assert found.exit_code == 0, found.output
    made = sorted(name.split("-")[0] for name in times(trained.folder).keys() - before.keys())
    assert made == ["fates_val", "masks_val", "masks_val", "methods_val"]


@pytest.mark.slow
def test_all_members_together(trained, monkeypatch):
    monkeypatch.setitem(jepa.SIZES, "quick", SMALL_JEPA)
    settings = [f"--set={setting}" for setting in SMALL]
    found = run_submit("--data", trained.data, "--overwrite", "--members", "objects,masks,frames,jepa", *settings)
    assert found.exit_code == 0, found.output
    for name in ("objects", "masks", "frames", "jepa"):
        assert f"\n  {name}: " in found.output
    for name in ("damped velocity", "submission", "mask decoder on true frame 22"):
        assert f"\n{name} " in found.output
    again = trained.submission.read_bytes()
    found = run_submit("--data", trained.data, "--overwrite", "--members", "objects,masks,frames,jepa", *settings)
    assert found.exit_code == 0 and trained.submission.read_bytes() == again
