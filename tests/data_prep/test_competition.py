"""Layouts and quirks of the competition on disk, made from tiny folders; frames are compared with Pillow's."""

import io
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.competition import (
    BadFile,
    Problem,
    find_competition,
    frame_files,
    integrity_report,
    read_frame,
    read_mask,
)
from data_prep.errors import UserError


def make_videos(folder, *names, mask=False):
    for name in names:
        (folder / name).mkdir(parents=True)
        if mask:
            (folder / name / "mask.npy").touch()


def make_competition(students, hidden):
    """Folders without frames; that is all that finding looks at."""
    make_videos(students / "train", "video_0", "video_10", "video_2", mask=True)
    make_videos(students / "val", "video_1000", mask=True)
    make_videos(students / "unlabeled", "video_02001", "video_2000")
    make_videos(hidden, "video_15002", "video_15000", "video_15001")


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def random_frame(height: int = 160, width: int = 240) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("students", "hidden", "named"),
    [
        (".", "hidden", "."),
        ("Dataset_Student", "hidden", "."),
        ("Dataset_Student", "Dataset_Student/hidden", "."),
        ("Dataset_Student", "Dataset_Student/hidden", "Dataset_Student"),
        ("Dataset_Student", "hidden", "Dataset_Student"),
        ("Dataset_Student", "hidden/hidden", "."),
        ("dataset", "leaderboard/hidden", "."),
    ],
)
def test_every_layout_is_found(tmp_path, students, hidden, named):
    make_competition(tmp_path / students, tmp_path / hidden)
    found = find_competition(tmp_path / named)
    assert {split: list(videos) for split, videos in found.splits.items()} == {
        "train": [0, 2, 10],
        "val": [1000],
        "unlabeled": [2000, 2001],
        "hidden": [15000, 15001, 15002],
    }
    assert found.splits["unlabeled"][2001] == (tmp_path / students / "unlabeled" / "video_02001").resolve()
    assert not any(found.problems.values())


def test_relative_folder_finds_hidden_beside_it(tmp_path, monkeypatch):
    make_competition(tmp_path / "Dataset_Student", tmp_path / "hidden")
    monkeypatch.chdir(tmp_path / "Dataset_Student")
    assert len(find_competition(Path(".")).splits["hidden"]) == 3


@pytest.mark.parametrize("split", ["val", "unlabeled"])
@pytest.mark.parametrize("empty", [False, True])
def test_absent_or_empty_optional_split_is_reported(tmp_path, split, empty):
    make_competition(tmp_path, tmp_path / "hidden")
    shutil.rmtree(tmp_path / split)
    if empty:
        (tmp_path / split).mkdir()
    found = find_competition(tmp_path)
    assert split not in found.splits
    assert found.problems[split] == [
        Problem(str(tmp_path / split), "no videos" if empty else "no such folder", "done without")
    ]
    with pytest.raises(UserError, match=split):
        find_competition(tmp_path, required=("hidden", split))


def test_unexpected_files_and_gaps_are_reported(tmp_path):
    make_competition(tmp_path, tmp_path / "hidden")
    (tmp_path / "train" / ".DS_Store").touch()
    (tmp_path / "val" / "video_1001").touch()
    (tmp_path / "hidden" / "video_15001").rmdir()
    problems = find_competition(tmp_path).problems
    assert [p.file for p in problems["train"]] == [str(tmp_path / "train" / ".DS_Store")]
    assert [p.file for p in problems["val"]] == [str(tmp_path / "val" / "video_1001")]
    assert "15001" in problems["hidden"][0].problem


@pytest.mark.parametrize("hidden", [True, False])
def test_a_standin_beside_the_data_is_another_competition(tmp_path, hidden):
    make_competition(tmp_path / "Dataset_Student", tmp_path / "hidden")
    make_competition(tmp_path / "standin" / "Dataset_Student", tmp_path / "standin" / "hidden")
    (tmp_path / "standin" / "standin.json").touch()
    if hidden:
        assert find_competition(tmp_path).splits["hidden"][15000] == tmp_path / "hidden" / "video_15000"
    else:
        remove(tmp_path, "hidden")
        with pytest.raises(UserError, match="no folder hidden"):
            find_competition(tmp_path)
    in_standin = find_competition(tmp_path / "standin").splits["hidden"]
    assert in_standin[15000] == tmp_path / "standin" / "hidden" / "video_15000"


def remove(folder, *names):
    for name in names:
        shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: remove(d, ""), "no existing folder"),
        (lambda d: (remove(d, ""), d.touch()), "not a folder"),
        (lambda d: (remove(d, ""), d.mkdir()), "is empty"),
        (lambda d: remove(d, "train", "val", "unlabeled", "hidden") or (d / "other").mkdir(), "no folder train"),
        (lambda d: remove(d, "hidden"), "no folder hidden"),
        (lambda d: remove(d, "hidden") or (d / "hidden").mkdir(), "hidden holds no video_N folders"),
        (lambda d: remove(d, "train"), "no folder train"),
        (lambda d: [mask.unlink() for mask in d.glob("train/*/mask.npy")], "mask.npy"),
        (lambda d: make_videos(d / "hidden", "video_015000"), "video 15000 is there twice"),
        (lambda d: make_videos(d / "Dataset_Student" / "train", "video_0"), "train is there twice"),
    ],
)
def test_unusable_competition_is_one_sentence(tmp_path, break_it, words):
    data = tmp_path / "data"
    make_competition(data, data / "hidden")
    break_it(data)
    with pytest.raises(UserError, match=words) as error:
        find_competition(data)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_frame_files_are_sorted_by_index_whatever_the_padding(tmp_path):
    for name in ("image_0.png", "image_01.png", "image_010.png", "image_11.png", "mask.npy", "notes.txt"):
        (tmp_path / name).touch()
    frames, problems = frame_files(tmp_path, "hidden")
    names = {0: "image_0.png", 1: "image_01.png", 10: "image_010.png"}
    assert frames == {index: str(tmp_path / name) for index, name in names.items()}
    assert sorted(p.file for p in problems) == [str(tmp_path / n) for n in ("image_11.png", "mask.npy", "notes.txt")]
    assert [p.file for p in frame_files(tmp_path, "val")[1]] == [str(tmp_path / "notes.txt")]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_frame_equals_pillow(tmp_path, mode):
    path = tmp_path / "image_0.png"
    image = Image.fromarray(random_frame()).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(read_frame(path), np.asarray(image.convert("RGB")))


def test_bytes_after_the_image_do_no_harm(tmp_path):
    (tmp_path / "a.png").write_bytes(png(random_frame()) + b"rest")
    np.testing.assert_array_equal(read_frame(tmp_path / "a.png"), random_frame())


def damaged(data: bytes) -> bytes:
    return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


def short_of_pixels() -> bytes:
    """A PNG whose checksums agree but that holds only half of its rows."""
    data = png(random_frame())
    start = data.index(b"IDAT")
    body = b"IDAT" + zlib.compress(b"\0" * (80 * (1 + 3 * 240)))
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[: start - 4] + chunk + data[-12:]


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_frame()).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "unreadable"),
        (b"", "empty"),
        (b"this is text\n", "not a PNG"),
        (jpeg(), "not a PNG"),
        (png(random_frame())[:9], "truncated"),
        (png(random_frame())[:5000], "truncated"),
        (png(random_frame())[:-12], "truncated"),
        (png(random_frame())[:-1], "truncated"),
        (damaged(png(random_frame())), "damaged"),
        (png(random_frame(159, 240)), "240 wide and 159 high"),
        (png(random_frame(240, 160)), "160 wide and 240 high"),
    ],
)
def test_bad_frame_is_named_in_silence(tmp_path, capfd, data, words):
    path = tmp_path / "image_0.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadFile, match=words):
        read_frame(path)
    assert capfd.readouterr() == ("", "")


def test_half_an_image_is_never_returned(tmp_path):
    (tmp_path / "a.png").write_bytes(short_of_pixels())
    with pytest.raises(BadFile, match="damaged"):
        read_frame(tmp_path / "a.png")


def write_mask(path, dtype, *values):
    mask = np.zeros((22, 160, 240), dtype)
    mask[3, 5, : len(values)] = values
    np.save(path, mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int8, np.uint16])
def test_mask_of_any_integer_type_is_read(tmp_path, dtype):
    write_mask(tmp_path / "mask.npy", dtype, 1, 48)
    mask, has_no_class = read_mask(tmp_path / "mask.npy")
    assert mask.dtype == np.uint8 and mask[3, 5, :3].tolist() == [1, 48, 0] and not has_no_class
    write_mask(tmp_path / "mask.npy", dtype, 49, 100, 48, *([-1] if dtype in (np.int64, np.int8) else [200]))
    mask, has_no_class = read_mask(tmp_path / "mask.npy")
    assert mask[3, 5, :5].tolist() == [255, 255, 48, 255, 0] and has_no_class
    assert (mask == 255).sum() == 3


def truncate(path):
    write_mask(path, np.uint8)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "unreadable"),
        (lambda path: path.touch(), "truncated"),
        (lambda path: path.write_text("text"), "no plain"),
        (truncate, "truncated"),
        (lambda path: np.save(path, np.zeros((21, 160, 240), np.uint8)), r"\(21, 160, 240\)"),
        (lambda path: np.save(path, np.zeros((22, 160, 240), np.float32)), "float32"),
        (lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True), "no plain"),
    ],
)
def test_bad_mask_is_named(tmp_path, write, words):
    write(tmp_path / "mask.npy")
    with pytest.raises(BadFile, match=words):
        read_mask(tmp_path / "mask.npy")


def test_report_counts_equal_problems_and_names_the_rest(tmp_path):
    problems = [Problem(f"f{n}.png", "truncated PNG", "video left out") for n in range(5)]
    problems.append(Problem("m.npy", "values that are no class", "pixels ignored"))
    report = integrity_report(problems, tmp_path / "problems.json").splitlines()
    assert report[0] == f"Integrity: 6 problems, all of them in {tmp_path / 'problems.json'}"
    assert report[1] == "  5 × truncated PNG: video left out (f0.png, f1.png, f2.png, …)"
    assert report[2] == "  1 × values that are no class: pixels ignored (m.npy)"
    assert integrity_report([], tmp_path) == "Integrity: nothing wrong with the data."


def test_report_begins_with_the_layout_of_hidden(tmp_path):
    make_competition(tmp_path, tmp_path / "hidden")
    (tmp_path / "hidden" / "video_15001").rmdir()
    for folder in ("train", "val", "hidden"):
        (tmp_path / folder / "notes.txt").touch()
    layout = [problem for found in find_competition(tmp_path).problems.values() for problem in found]
    frames = [Problem(str(tmp_path / f"hidden/video_15000/image_{n}.png"), "truncated PNG", "…") for n in range(3)]
    lines = integrity_report([*frames, *layout], tmp_path).splitlines()[1:]
    assert lines[0] == f"  1 × unexpected file or folder: ignored ({tmp_path / 'hidden' / 'notes.txt'})"
    assert "the first gap at 15001" in lines[1]
    assert [line.split()[0] for line in lines] == ["1", "1", "3", "2"]
