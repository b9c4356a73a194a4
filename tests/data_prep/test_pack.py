"""Packing against a plain loop with Pillow, every quirk's row, and kills at every step."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from data_prep import files
from data_prep import pack as packing
from data_prep.errors import UserError
from data_prep.pack import GREY, is_packed, open_packed, pack, read_problems, write_index
from data_prep.standin.writer import Settings, make_standin
from solution.runs import pack_and_report

FIRST = {"train": 0, "val": 1000, "unlabeled": 2000, "hidden": 15000}


def frame_of(number: int, index: int) -> np.ndarray:
    frame = np.zeros((160, 240, 3), np.uint8)
    frame[:, :, 0], frame[:, :, 1], frame[:80, :, 2] = number % 251, index, 7
    return frame


def mask_of(number: int) -> np.ndarray:
    mask = np.zeros((22, 160, 240), np.int64)
    mask[:, 3:9] = np.arange(22)[:, None, None] + number % 20
    return mask


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def make_split(data: Path, split: str, videos: int) -> None:
    for number in range(FIRST[split], FIRST[split] + videos):
        folder = data / split / f"video_{number}"
        folder.mkdir(parents=True)
        for index in range(11 if split == "hidden" else 22):
            (folder / f"image_{index}.png").write_bytes(png(frame_of(number, index)))
        if split in ("train", "val"):
            np.save(folder / "mask.npy", mask_of(number))


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    """A small competition in which nothing is wrong; its train numbers sort differently as names."""
    data = tmp_path_factory.mktemp("intact")
    for split, videos in {"train": 12, "val": 2, "unlabeled": 3, "hidden": 2}.items():
        make_split(data, split, videos)
    return data


@pytest.fixture
def data(intact, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    return shutil.copytree(intact, tmp_path / "data")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_splits_that_are_not_wanted_are_neither_packed_nor_opened(data, tmp_path):
    assert set(pack(data, tmp_path / "out", wanted=("train", "hidden"))) == {"train", "hidden"}
    assert not (tmp_path / "out" / "unlabeled").exists()
    (tmp_path / "out" / "unlabeled").mkdir()  # as after an interruption
    assert set(pack(data, tmp_path / "out", wanted=("train", "hidden"))) == {"train", "hidden"}
    assert set(pack(data, tmp_path / "out")) == {"train", "val", "unlabeled", "hidden"}


def test_arrays_equal_the_files(data, tmp_path):
    packed = pack(data, tmp_path / "out")
    assert {name: len(split) for name, split in packed.items()} == {"train": 12, "val": 2, "unlabeled": 3, "hidden": 2}
    for name, split in packed.items():
        length = 11 if name == "hidden" else 22
        assert split.frames.shape == (len(split), length, 160, 240, 3) and isinstance(split.frames, np.memmap)
        assert split.videos == sorted(split.videos) and not split.problems
        assert (split.masks is not None) == (name in ("train", "val"))
        for row, number in enumerate(split.videos):
            folder = data / name / f"video_{number}"
            for index in range(length):
                np.testing.assert_array_equal(
                    split.frames[row, index], np.asarray(Image.open(folder / f"image_{index}.png"))
                )
            if split.masks is not None:
                np.testing.assert_array_equal(split.masks[row], np.load(folder / "mask.npy"))
    assert read_problems(tmp_path / "out") == []
    assert sorted(contents(tmp_path / "out" / "train")) == ["frames.npy", "index.json", "masks.npy"]


def spoil(data: Path) -> None:
    """Put every quirk of the real data into the competition."""
    train, val, unlabeled, hidden = (data / split for split in ("train", "val", "unlabeled", "hidden"))
    (train / "video_0" / "mask.npy").unlink()
    (train / "video_3" / "image_21.png").write_text("text")
    (train / "video_10" / "image_5.png").write_bytes(png(frame_of(10, 5)[:159]))
    mask = mask_of(2)
    mask[4, 100, 100:103] = 49, 200, -1
    np.save(train / "video_2" / "mask.npy", mask)
    np.save(val / "video_1000" / "mask.npy", mask_of(1000)[:, :, :100])
    (unlabeled / "video_2001" / "image_0.png").write_bytes(png(frame_of(2001, 0))[:-20])
    (unlabeled / "video_2000" / "extra.txt").touch()
    for index in (0, 4, 5, 10):
        (hidden / "video_15000" / f"image_{index}.png").unlink()
    (data / "hidden" / "video_015002").mkdir()


def test_every_quirk_has_its_row_and_its_report(data, tmp_path):
    spoil(data)
    packed = pack(data, tmp_path / "out")

    train = packed["train"]
    assert train.videos == [1, 2, 4, 5, 6, 7, 8, 9, 11]
    for row, number in enumerate(train.videos):
        expected = mask_of(number)
        if number == 2:
            expected[4, 100, 100:103] = 255
        np.testing.assert_array_equal(train.masks[row], expected)
        np.testing.assert_array_equal(train.frames[row], [frame_of(number, index) for index in range(22)])
    assert packed["unlabeled"].videos == [2000, 2002]
    assert (packed["unlabeled"].frames[:, 0, 0, 0, 0] == [2000 % 251, 2002 % 251]).all()

    val = packed["val"]
    assert val.videos == [1000, 1001] and (val.masks[0] == 255).all()
    np.testing.assert_array_equal(val.masks[1], mask_of(1001))

    hidden = packed["hidden"]
    assert hidden.videos == [15000, 15001, 15002]
    assert hidden.frames[0, :, 0, 0, 1].tolist() == [1, 1, 2, 3, 3, 6, 6, 7, 8, 9, 9]
    assert hidden.frames[1, :, 0, 0, 1].tolist() == list(range(11))
    assert (hidden.frames[2] == GREY).all()

    found = {(Path(p.file).relative_to(data.resolve()).as_posix(), p.action) for p in read_problems(tmp_path / "out")}
    repeated, grey = "nearest readable frame repeated", "row kept, plain grey"
    assert found == {
        ("train/video_0/mask.npy", "video left out"),
        ("train/video_3/image_21.png", "video left out"),
        ("train/video_10/image_5.png", "video left out"),
        ("train/video_2/mask.npy", "pixels ignored"),
        ("val/video_1000/mask.npy", "row kept, not scored"),
        ("unlabeled/video_2001/image_0.png", "video left out"),
        ("unlabeled/video_2000/extra.txt", "ignored"),
        *((f"hidden/video_15000/image_{index}.png", repeated) for index in (0, 4, 5, 10)),
        *((f"hidden/video_015002/image_{index}.png", grey) for index in range(11)),
    }


def test_absent_split_is_reported(data, tmp_path):
    (data / "val").rename(data / "elsewhere")
    packed = pack(data, tmp_path / "out")
    assert "val" not in packed
    assert [(p.file, p.action) for p in read_problems(tmp_path / "out")] == [(str(data / "val"), "done without")]


def rename_frames(folder: Path, name: str, step: int = 0) -> None:
    for video in folder.iterdir():
        frames = {int(path.stem.split("_")[1]): path for path in video.glob("image_*.png")}
        for index, path in sorted(frames.items(), reverse=True):
            path.rename(video / name.format(index + step))


@pytest.mark.parametrize("split", ["train", "hidden"])
def test_frames_numbered_from_1_are_the_same_clip(data, tmp_path, split):
    expected = np.array(pack(data, tmp_path / "expected")[split].frames)
    rename_frames(data / split, "image_{}.png", 1)
    (data / split / f"video_{FIRST[split]}" / "image_5.png").write_text("text")
    found = CliRunner().invoke(packing.main, [str(data), str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    said = f"1 × frames numbered from 1 instead of 0: numbered one less ({(data / split).resolve()})"
    assert said in found.output
    packed = open_packed(tmp_path / "out")[split]
    if split == "hidden":
        expected[0, 4] = expected[0, 3]
    np.testing.assert_array_equal(packed.frames, expected if split == "hidden" else expected[1:])


def test_what_lies_around_does_no_harm(data, tmp_path):
    """Leftovers of editors and systems, links, other names, and a missing frame: the rest has the same bytes."""
    before = pack(data, tmp_path / "expected")
    rename_frames(data / "unlabeled", "image_{:02}.PNG")
    hidden, train = data / "hidden" / "video_15000", data / "train" / "video_4"
    (hidden / ".#image_3.png").symlink_to("user@machine.1234:5678")
    (hidden / "image_4.png").unlink()
    (hidden / "image_4.png").symlink_to(tmp_path / "nowhere")
    (train / ".ipynb_checkpoints").mkdir()
    (train / ".ipynb_checkpoints" / "image_3-checkpoint.png").touch()
    for name in ("._image_3.png", ".DS_Store", "Thumbs.db", "image_3.png.part", "image_3 (1).png", "._mask.npy"):
        (train / name).write_bytes(b"leftover")
    os.mkfifo(train / "image_pipe")
    (data / "__MACOSX" / "train" / "video_4").mkdir(parents=True)
    (data / "train" / "._video_4").write_bytes(b"leftover")
    (data / "train" / "video_7").rename(tmp_path / "elsewhere")
    (data / "train" / "video_7").symlink_to(tmp_path / "elsewhere")
    (data / "link").symlink_to(tmp_path / "nowhere")
    names = {path: path.lstat().st_mtime_ns for path in data.rglob("*")}
    (tmp_path / "mit Ümläut 動画").symlink_to(data)
    packed = pack(tmp_path / "mit Ümläut 動画", tmp_path / "out")
    for split in ("train", "val", "unlabeled"):
        assert packed[split].videos == before[split].videos
        np.testing.assert_array_equal(packed[split].frames, before[split].frames)
    assert packed["hidden"].frames[0, :, 0, 0, 1].tolist() == [0, 1, 2, 3, 3, 5, 6, 7, 8, 9, 10]
    assert names == {path: path.lstat().st_mtime_ns for path in data.rglob("*")}, "nothing is written there"
    said = {(Path(p.file).name, p.action) for p in read_problems(tmp_path / "out")}
    assert ("image_4.png", "nearest readable frame repeated") in said
    assert {(name, "ignored") for name in (".#image_3.png", ".ipynb_checkpoints", "._image_3.png", "._video_4")} <= said


def test_frames_and_masks_in_other_forms_are_read_and_said(data, tmp_path):
    before = pack(data, tmp_path / "expected")
    train = data / "train"
    for index in range(22):
        frame = frame_of(1, index)
        Image.fromarray(np.dstack((frame, frame[..., :1]))).save(train / "video_1" / f"image_{index}.png")
    for number, mask in ((2, mask_of(2).astype(">u2")), (3, mask_of(3)[..., None].astype(np.float32))):
        np.save(train / f"video_{number}" / "mask.npy", np.asfortranarray(mask))
    np.save(train / "video_11" / "mask.npy", mask_of(11).swapaxes(1, 2))
    packed, turned = pack(data, tmp_path / "out")["train"], "rows and columns in the wrong order"
    np.testing.assert_array_equal(packed.frames, before["train"].frames[:11])
    np.testing.assert_array_equal(packed.masks, before["train"].masks[:11])
    assert {(Path(p.file).relative_to(train).as_posix(), p.problem, p.action) for p in packed.problems} == {
        ("video_1/image_0.png", "frames in 8-bit RGBA PNG instead of 8-bit RGB PNG", "read as that"),
        ("video_3/mask.npy", "masks of shape (22, 160, 240, 1)", "taken as (22, 160, 240)"),
        ("video_3/mask.npy", "masks of float32 instead of integers", "taken as whole numbers"),
        ("video_11/mask.npy", f"shape (22, 240, 160) instead of (22, 160, 240), {turned}", "video left out"),
    }


def test_data_are_known_by_content(data, tmp_path):
    first = {name: split.content for name, split in pack(data, tmp_path / "out").items()}
    copy = shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert {name: split.content for name, split in pack(copy, tmp_path / "of copy").items()} == first
    path = copy / "train" / "video_4" / "mask.npy"
    content = bytearray(path.read_bytes())
    content[-1 - 8 * 3000] ^= 1
    path.write_bytes(content)
    changed = {name: split.content for name, split in pack(copy, tmp_path / "of copy").items()}
    assert {name for name in first if first[name] != changed[name]} == {"train"}


def test_gaps_in_hidden_are_refused_unless_allowed(data, tmp_path):
    (data / "hidden" / "video_15001").rename(data / "hidden" / "video_15002")
    found = CliRunner().invoke(packing.main, [str(data), str(tmp_path / "out")])
    assert found.exit_code == 2 and "2 videos numbered 15000 to 15002, the first gap at 15001" in found.stderr
    assert found.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    found = CliRunner().invoke(packing.main, [str(data), str(tmp_path / "out"), "--allow-gaps"])
    assert found.exit_code == 0 and "the first gap at 15001: one row per folder that is there" in found.output
    with pytest.raises(UserError, match="--allow-gaps"):
        pack_and_report(tmp_path / "out")
    assert pack_and_report(tmp_path / "out", allow_gaps=True)["hidden"].videos == [15000, 15002]


def count_decoded(monkeypatch) -> list[Path]:
    decoded = []
    original = packing.pack_video

    def counting(split, first, folder):
        decoded.append(folder)
        return original(split, first, folder)

    monkeypatch.setattr(packing, "pack_video", counting)
    return decoded


def test_second_time_does_nothing_and_a_change_is_noticed(data, tmp_path, monkeypatch):
    spoil(data)
    out = tmp_path / "out"
    pack(data, out)
    before = contents(out)
    decoded = count_decoded(monkeypatch)
    pack(data, out)
    assert not decoded and contents(out) == before
    (data / "val" / "video_1001" / "image_3.png").write_bytes(png(frame_of(1001, 99)))
    packed = pack(data, out)
    assert {folder.parent.name for folder in decoded} == {"val"} and len(decoded) == 2
    assert packed["val"].frames[1, 3, 0, 0, 1] == 99
    (out / "hidden" / "frames.npy").unlink()
    pack(data, out)
    assert len(decoded) == 2 + 3


def test_packed_data_is_returned_as_it_is(data, tmp_path):
    pack(data, tmp_path / "out")
    assert is_packed(tmp_path / "out") and not is_packed(data)
    again = pack(tmp_path / "out", tmp_path / "elsewhere")
    assert set(again) == {"train", "val", "unlabeled", "hidden"} and not (tmp_path / "elsewhere").exists()


class Stopped(BaseException):
    pass


def test_a_stop_at_any_step_changes_nothing_in_the_end(tmp_path, monkeypatch):
    """Stop before every single change of the disk in turn, then go on: the same bytes, no finished video again."""
    data, out = tmp_path / "data", tmp_path / "out"
    make_split(data, "train", 5)
    for number in (0, 2):
        (data / "train" / f"video_{number}" / "mask.npy").write_text("text")
    pack(data, tmp_path / "whole", required=())
    expected = contents(tmp_path / "whole")
    decoded = count_decoded(monkeypatch)
    monkeypatch.setattr(packing, "num_cores", lambda: 1)
    steps_left = [0]

    def stopping(original):
        def operation(*args, **kwargs):
            steps_left[0] -= 1
            if steps_left[0] == 0:
                raise Stopped
            return original(*args, **kwargs)

        return operation

    class StoppingFile(io.FileIO):
        write, truncate = stopping(io.FileIO.write), stopping(io.FileIO.truncate)

    def stopping_open(path, mode, **kwargs):
        return StoppingFile(path, mode) if mode == "r+b" else open(path, mode, **kwargs)

    for module in (packing, files):
        monkeypatch.setattr(module, "open", stopping_open, raising=False)
    monkeypatch.setattr(packing, "write_row", stopping(packing.write_row))
    for module, names in ((os, ("replace", "posix_fallocate")), (Path, ("unlink", "write_text"))):
        for name in names:
            monkeypatch.setattr(module, name, stopping(getattr(module, name)))

    for step in range(1, 100):
        steps_left[0] = step
        try:
            pack(data, out, required=())
            break
        except Stopped:
            steps_left[0] = 0
        journal = out / "train" / "packing.jsonl"
        done = len(journal.read_text().splitlines()) - 1 if journal.exists() else 5 * is_packed(out)
        decoded.clear()
        pack(data, out, required=())
        assert (contents(out), len(decoded)) == (expected, 5 - done), step
        shutil.rmtree(out)
    assert 20 < step < 99


@pytest.mark.parametrize("torn", [b"", b'{"row": 3, "usa'])
def test_killed_process_goes_on_where_it_was(tmp_path, monkeypatch, torn):
    data, out = tmp_path / "data", tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, (7, 160, 240, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        (tmp_path / f"{index}.png").write_bytes(png(image))
    for number in range(40):
        (data / "unlabeled" / f"video_{number}").mkdir(parents=True)
        for index in range(22):
            os.link(
                tmp_path / f"{(number + index) % 7}.png", data / "unlabeled" / f"video_{number}" / f"image_{index}.png"
            )
    # Each video takes a while, so that the signal cannot come too late.
    command = (
        "import time; from data_prep import pack; whole = pack.pack_video; "
        "pack.pack_video = lambda *job: (time.sleep(0.2), whole(*job))[1]; "
        f"pack.pack(pack.Path({str(data)!r}), pack.Path({str(out)!r}), required=())"
    )
    journal = out / "unlabeled" / "packing.jsonl"
    with subprocess.Popen([sys.executable, "-c", command]) as process:
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not is_packed(out)
    with pytest.raises(UserError, match="not finished"):
        open_packed(out)
    with open(journal, "ab") as file:
        file.write(torn)
    done = journal.read_bytes().count(b"\n") - 1
    decoded = count_decoded(monkeypatch)
    packed = pack(data, out, required=())["unlabeled"]
    assert done >= 3 and len(decoded) == 40 - done
    for number in range(40):
        np.testing.assert_array_equal(packed.frames[number], noise[(number + np.arange(22)) % 7])
    assert not journal.exists()


def test_full_disk_at_the_start_leaves_nothing(data, tmp_path, monkeypatch):
    def full(number, start, size):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        found = CliRunner().invoke(packing.main, [str(data), str(tmp_path / "out")])
    assert found.exit_code == 2 and found.stderr.startswith("Error: ") and "frames.npy" in found.stderr
    assert contents(tmp_path / "out") == {}
    pack(data, tmp_path / "out")


def test_disk_that_fills_up_keeps_what_is_finished(data, tmp_path, monkeypatch):
    original, calls = os.pwrite, []

    def filling(file, values, position):
        calls.append(position)
        if len(calls) > 60:
            raise OSError(28, "No space left on device")
        return original(file, values[: len(values) // 2 + 1], position)  # a short write is gone on with

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", filling)
        with pytest.raises(OSError):
            pack(data, tmp_path / "out")
    pack(data, tmp_path / "whole")
    pack(data, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("split", "spoil_frame", "words"),
    [
        ("hidden", lambda path: path.write_bytes(png(np.zeros((120, 160, 3), np.uint8))), "160 wide and 120 high"),
        ("train", lambda path: path.write_text("text"), "not a PNG"),
        ("unlabeled", lambda path: path.unlink(), "unreadable"),
    ],
)
def test_split_without_a_usable_video_is_one_sentence(data, tmp_path, split, spoil_frame, words):
    for path in (data / split).rglob("*.png"):
        spoil_frame(path)
    found = CliRunner().invoke(packing.main, [str(data), str(tmp_path / "out")])
    assert found.exit_code == 2 and words in found.stderr and found.stderr.count("\n") == 1
    assert str(data / split) in found.stderr
    assert not (tmp_path / "out" / split).exists()


def test_arrays_of_another_origin_are_never_replaced(data, tmp_path):
    folder = tmp_path / "out" / "hidden"
    folder.mkdir(parents=True)
    np.save(folder / "frames.npy", np.zeros((1, 11, 160, 240, 3), np.uint8))
    write_index(folder, [7], [], {"seed": 3})
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="another folder"):
        pack(data, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_what_was_packed_from_elsewhere_is_never_replaced(data, tmp_path):
    pack(data, tmp_path / "out")
    other = shutil.copytree(data, tmp_path / "other")
    for path in other.rglob("*.png"):
        path.touch()
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=f"packed from {data}.*; delete it or pack elsewhere"):
        pack(other, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "strange" / "train").mkdir(parents=True)
    np.save(tmp_path / "strange" / "train" / "frames.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"train/frames\.npy was not packed here"):
        pack(data, tmp_path / "strange")


def test_split_that_is_gone_is_noticed(data, tmp_path):
    pack(data, tmp_path / "out")
    (data / "val").rename(tmp_path / "val")
    with pytest.raises(UserError, match="has no val"):
        pack(data, tmp_path / "out")


def test_what_is_not_packed_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no packed competition"):
        open_packed(tmp_path)
    folder = tmp_path / "unlabeled"
    folder.mkdir()
    np.save(folder / "frames.npy", np.zeros((2, 22, 1, 1, 3), np.uint8))
    write_index(folder, [1, 2, 3], [], {})
    with pytest.raises(UserError, match="3 rows"):
        open_packed(tmp_path)
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match="readable"):
        open_packed(tmp_path)


def test_command_prints_sizes_and_report(data, tmp_path):
    spoil(data)
    found = CliRunner().invoke(packing.main, [str(data), str(tmp_path / "out")])
    assert found.exit_code == 0 and "hidden         3 videos" in found.output
    assert "22 problems" in found.output and str(tmp_path / "out" / "problems.json") in found.output
    assert len(json.loads((tmp_path / "out" / "problems.json").read_text())) == 22


@pytest.mark.parametrize(("source", "out"), [("data", "data"), ("data", "data/out"), ("data/train", "data")])
def test_command_refuses_folders_that_overlap(data, source, out):
    before = contents(data)
    found = CliRunner().invoke(packing.main, [str(data.parent / source), str(data.parent / out)])
    assert found.exit_code == 2 and "same folder or one lies in the other" in found.stderr
    assert contents(data) == before


@pytest.mark.parametrize("kind", ["raw", "masks"])
def test_command_refuses_what_is_packed_already(data, tmp_path, kind):
    if kind == "raw":
        pack(data, tmp_path / "packed")
    else:
        make_standin(tmp_path / "packed", Settings(1, 0, 0, 0, 0, "masks"))
    found = CliRunner().invoke(packing.main, [str(tmp_path / "packed"), str(tmp_path / "out")])
    assert found.exit_code == 2 and f"{tmp_path / 'packed'} is packed already" in found.stderr
    assert found.stdout == "" and not (tmp_path / "out").exists()


def test_val_without_masks_is_kept_for_whoever_does_not_score_it(data, tmp_path):
    for mask in (data / "val").rglob("mask.npy"):
        mask.unlink()
    val = pack(data, tmp_path / "out")["val"]
    assert len(val) == len(list((data / "val").iterdir())) and (val.masks == 255).all()
    assert {(problem.problem, problem.action) for problem in val.problems} == {
        ("unreadable (No such file or directory)", "row kept, not scored")
    }
