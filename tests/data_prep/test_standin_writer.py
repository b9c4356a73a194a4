"""The stand-in on disk: layouts agree, interrupted runs end as uninterrupted ones, other folders stay untouched."""

import errno
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from data_prep import pack
from data_prep.competition import find_competition
from data_prep.errors import UserError
from data_prep.standin import renderer, writer
from data_prep.standin.__main__ import main
from data_prep.standin.physics import video_seed
from data_prep.standin.writer import Settings, make_standin
from tests.conftest import simulate_many

SIZES = {"train": 2, "val": 1, "unlabeled": 1, "hidden": 2, "seed": 4}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("standin") / "raw"
    assert make_standin(out, Settings(**SIZES, kind="raw")) == 4 * 22 + 2 * 11
    return out


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("standin") / "packed"
    make_standin(out, Settings(**SIZES, kind="packed"))
    return out


def test_the_raw_layout_is_the_real_one(raw):
    competition = find_competition(raw)
    numbers = {split: list(videos) for split, videos in competition.splits.items()}
    assert numbers == {"train": [0, 1], "val": [1000], "unlabeled": [2000], "hidden": [15000, 15001]}
    assert not any(competition.problems.values())
    hidden = {path.name for path in (raw / "hidden" / "video_15000").iterdir()}
    assert hidden == {f"image_{t}.png" for t in range(11)}
    train = {path.name for path in (raw / "Dataset_Student" / "train" / "video_0").iterdir()}
    assert train == {f"image_{t}.png" for t in range(22)} | {"mask.npy"}


def test_packed_equals_the_packed_raw_one(raw, packed, tmp_path):
    from_raw, straight = pack.pack(raw, tmp_path / "from_raw"), pack.open_packed(packed)
    assert list(from_raw) == list(straight)
    for split, arrays in straight.items():
        assert arrays.videos == from_raw[split].videos and not arrays.problems
        np.testing.assert_array_equal(arrays.frames, from_raw[split].frames)
        assert (arrays.masks is None) == (from_raw[split].masks is None)
        if arrays.masks is not None:
            np.testing.assert_array_equal(arrays.masks, from_raw[split].masks)
    assert (raw / "hidden_truth.pt").read_bytes() == (packed / "hidden_truth.pt").read_bytes()


def test_the_truth_is_the_last_mask_of_the_hidden_videos(packed):
    truth = torch.load(packed / "hidden_truth.pt", weights_only=True)
    masks = writer.paint_videos(simulate_many(SIZES["seed"], 2, start=15000))
    assert truth.dtype == torch.uint8
    np.testing.assert_array_equal(truth, masks[:, -1])


def test_frames_are_those_of_the_renderer(packed):
    video = simulate_many(SIZES["seed"], 1)
    frames = renderer.film(video, [video_seed(SIZES["seed"], 0)], range(22), "cpu")
    np.testing.assert_array_equal(pack.open_packed(packed)["train"].frames[0], frames[0])


def test_masks_only_gives_every_split_masks_and_tracks(tmp_path):
    assert make_standin(tmp_path / "out", Settings(2, 1, 0, 1, SIZES["seed"], "masks")) == 4 * 22
    for split, start, count in (("train", 0, 2), ("val", 1000, 1), ("hidden", 15000, 1)):
        folder = tmp_path / "out" / split
        videos = simulate_many(SIZES["seed"], count, start)
        np.testing.assert_array_equal(np.load(folder / "masks.npy"), writer.paint_videos(videos))
        tracks = np.load(folder / "tracks.npz")
        np.testing.assert_array_equal(tracks["videos"], np.arange(start, start + count))
        for row, video in enumerate(videos):
            there = tracks["class_ids"][row] > 0
            np.testing.assert_array_equal(tracks["class_ids"][row, there], video.class_ids)
            np.testing.assert_array_equal(tracks["position"][row][:, there], video.position)
            assert np.isnan(tracks["yaw"][row][:, ~there]).all()


@pytest.mark.parametrize("kind", ["raw", "packed", "masks"])
def test_a_full_disk_keeps_what_is_done_and_the_rest_follows(kind, tmp_path, monkeypatch):
    settings = Settings(3, 0, 0, 0, 9, kind)
    make_standin(tmp_path / "whole", settings)
    monkeypatch.setitem(writer.VIDEOS_AT_ONCE, "cpu", 1)
    make_videos, calls = writer.make_videos, []

    def fails_once(numbers, *rest, **named):
        calls.append(numbers)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
        return make_videos(numbers, *rest, **named)

    monkeypatch.setattr(writer, "make_videos", fails_once)
    with pytest.raises(OSError, match="No space left"):
        make_standin(tmp_path / "out", settings)
    assert make_standin(tmp_path / "out", settings) == 22
    assert calls == [[0], [1], [2], [2]]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert make_standin(tmp_path / "out", settings) == 0


@pytest.mark.slow
def test_a_gpu_films_the_same_videos_in_one_process(tmp_path, monkeypatch):
    settings = Settings(train=17, val=1, unlabeled=2, hidden=3, seed=9, kind="packed")
    make_standin(tmp_path / "here", settings)
    films, calls = writer.film, []

    def film(videos, seeds, times, device):
        calls.append((device, len(videos), len(times)))
        return films(videos, seeds, times, "cpu")

    monkeypatch.setattr(writer, "film", film)
    monkeypatch.setitem(writer.VIDEOS_AT_ONCE, "cuda", 9)
    assert make_standin(tmp_path / "there", settings, "cuda") == 20 * 22 + 3 * 11
    assert calls == [
        ("cuda", 9, 22),
        ("cuda", 8, 22),
        ("cuda", 1, 22),
        ("cuda", 2, 22),
        ("cuda", 3, 11),
        ("cuda", 3, 1),
    ]
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.parametrize("kind", ["raw", "packed"])
def test_imprecise_labels_change_nothing_but_the_masks(kind, raw, packed, tmp_path):
    exact, out = {"raw": raw, "packed": packed}[kind], tmp_path / "imprecise"
    options = [f"--{split}={count}" for split, count in SIZES.items()] + ["--packed"] * (kind == "packed")
    found = CliRunner().invoke(main, ["--out", str(out), "--imprecise", *options], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    before, after = contents(exact), contents(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    names = {Path(name).name for name in changed if Path(name).suffix != ".json"}
    assert names == {"mask.npy" if kind == "raw" else "masks.npy", "hidden_truth.pt"}
    truth = torch.load(out / "hidden_truth.pt", weights_only=True)
    assert truth.shape == (2, 160, 240) and truth.dtype == torch.uint8


@pytest.mark.parametrize("other", ["--packed", "--imprecise"])
def test_masks_only_are_the_exact_ones_alone(other, tmp_path):
    found = CliRunner().invoke(main, ["--out", str(tmp_path / "out"), "--masks-only", other])
    assert found.exit_code == 2 and other in found.stderr and not (tmp_path / "out").exists()


def test_other_settings_and_other_folders_are_refused(packed, tmp_path):
    before = contents(packed)
    with pytest.raises(UserError, match="seed 4"):
        make_standin(packed, Settings(**SIZES | {"seed": 5}, kind="packed"))
    with pytest.raises(UserError, match=f"version {Settings.version}; use the same, remove it"):
        make_standin(packed, Settings(**SIZES, kind="packed", version=0))
    assert contents(packed) == before
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="no stand-in"):
        make_standin(tmp_path, Settings(1, 0, 0, 0, 0, "raw"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "mine.txt").rename(tmp_path / "standin.json")
    with pytest.raises(UserError, match="standin.json is damaged, it holds no JSON; remove"):
        make_standin(tmp_path, Settings(1, 0, 0, 0, 0, "raw"))


def test_a_split_can_be_added_later(tmp_path):
    whole = Settings(2, 1, 1, 2, 4, "raw")
    assert make_standin(tmp_path / "out", replace(whole, unlabeled=0, val=0)) == 2 * 22 + 2 * 11
    assert make_standin(tmp_path / "out", replace(whole, train=0)) == 2 * 22
    assert make_standin(tmp_path / "out", replace(whole, unlabeled=0, hidden=0)) == 0
    make_standin(tmp_path / "whole", whole)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(UserError, match="unlabeled 1"):
        make_standin(tmp_path / "out", replace(whole, unlabeled=2))


def test_a_split_that_would_give_others_new_numbers_cannot_be_added(tmp_path):
    (tmp_path / "standin.json").write_text(json.dumps(asdict(Settings(1, 0, 1, 0, 4, "raw"))))
    with pytest.raises(UserError, match="val 0"):
        make_standin(tmp_path, Settings(0, 1001, 0, 0, 4, "raw"))


def test_numbers_never_collide():
    numbers = Settings(6000, 500, 13000, 7, 0, "masks").numbers()
    everything = [number for split in numbers.values() for number in split]
    assert len(set(everything)) == len(everything) == 6000 + 500 + 13000 + 7
    real = Settings(1000, 1000, 13000, 5000, 0, "raw").numbers()
    assert [each.start for each in real.values()] == [0, 1000, 2000, 15000]


def test_the_command_makes_and_refuses(tmp_path):
    run = CliRunner().invoke
    sizes = ["--train", "1", "--val", "0", "--hidden", "0", "--seed", "4"]
    made = run(main, ["--out", str(tmp_path / "out"), *sizes, "--masks-only"])
    assert made.exit_code == 0 and "22 masks made" in made.output
    assert json.loads((tmp_path / "out" / "standin.json").read_text())["train"] == 1
    assert run(main, ["--out", str(tmp_path / "out"), *sizes]).exit_code == 2
    assert run(main, []).exit_code == 2


@pytest.mark.parametrize(
    "option",
    [
        *(f"--{name}=-1" for name in ("train", "val", "unlabeled", "hidden", "seed")),
        *(f"--device={name}" for name in ("foo", "cuda:99", "meta")),
    ],
)
def test_a_wrong_option_writes_nothing(option, tmp_path):
    sizes = ["--train=1", "--val=0", "--hidden=0"]
    found = CliRunner().invoke(main, ["--out", str(tmp_path / "out"), *sizes, option])
    assert found.exit_code == 2 and option.split("=")[0] in found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "packed"])
def test_a_killed_command_goes_on_to_the_same_bytes(kind, tmp_path):
    """SIGKILL in the middle of making videos, from outside."""
    options = ["--train=6", "--val=0", "--hidden=2", "--seed=9", *(["--packed"] * (kind == "packed"))]
    command = [sys.executable, "-m", "data_prep.standin", "--out", str(tmp_path / "killed"), *options]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    journal, folder = tmp_path / "killed/train/packing.jsonl", tmp_path / "killed/Dataset_Student/train"
    while process.poll() is None:
        if (journal.is_file() and journal.read_bytes().count(b"\n") > 4) or list(folder.glob("video_*")):
            process.kill()
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    settings = Settings(6, 0, 0, 2, 9, kind)
    assert 0 < make_standin(tmp_path / "killed", settings) < 6 * 22 + 2 * 11
    make_standin(tmp_path / "whole", settings)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_make_the_bytes_of_one_process(tmp_path, monkeypatch):
    settings = Settings(6, 0, 0, 0, 1, "packed")
    make_standin(tmp_path / "one", settings)
    monkeypatch.setattr(writer, "FEW", 0)
    monkeypatch.setitem(writer.VIDEOS_AT_ONCE, "cpu", 2)
    make_standin(tmp_path / "many", settings)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
