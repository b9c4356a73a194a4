"""Layouts and quirks of the competition on disk, made from tiny folders; frames are compared with Pillow's."""

import io
import os
import pickle
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.competition import (
    BadFile,
    Problem,
    decode,
    find_competition,
    first_frame,
    frame_files,
    integrity_report,
    read_image,
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
    make_videos(students / "train", "video_9", "video_11", "video_10", mask=True)
    make_videos(students / "val", "video_1000", mask=True)
    make_videos(students / "unlabeled", "video_02001", "video_2000")
    make_videos(hidden, "video_15002", "video_15000", "video_15001")


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def read_frame(path: Path) -> np.ndarray:
    return decode(read_image(path)[0])


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
        ("Übung mit データ", "hidden", "Übung mit データ"),
    ],
)
def test_every_layout_is_found(tmp_path, students, hidden, named):
    make_competition(tmp_path / students, tmp_path / hidden)
    found = find_competition(tmp_path / named)
    assert {split: list(videos) for split, videos in found.splits.items()} == {
        "train": [9, 10, 11],
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
    (tmp_path / "train" / "video_10" / "mask.npy").unlink()
    (tmp_path / "train" / "video_10").rmdir()
    make_videos(tmp_path / "val", "video_9")
    problems = find_competition(tmp_path, allow_gaps=True).problems
    gap = "2 videos numbered 9 to 11, the first gap at 10"
    shared = "1 video numbers that are in train as well, the first 9"
    found = {(p.file, p.problem) for split in ("train", "val", "hidden") for p in problems[split]}
    assert found == {
        (str(tmp_path / "train" / ".DS_Store"), "unexpected file or folder"),
        (str(tmp_path / "train"), gap),
        (str(tmp_path / "val" / "video_1001"), "unexpected file or folder"),
        (str(tmp_path / "val"), "2 videos numbered 9 to 1000, the first gap at 10"),
        (str(tmp_path / "val"), shared),
        (str(tmp_path / "hidden"), "2 videos numbered 15000 to 15002, the first gap at 15001"),
    }
    with pytest.raises(UserError, match="the first gap at 15001, .* say --allow-gaps"):
        find_competition(tmp_path)
    assert find_competition(tmp_path, required=("train",)).splits["hidden"].keys() == {15000, 15002}


def name_frames(folder, pattern, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / pattern.format(number)).touch()


@pytest.mark.parametrize(
    ("split", "videos", "expected"),
    [
        ("hidden", [range(11), range(11)], 0),
        ("hidden", [range(1, 12), range(1, 12)], 1),
        ("hidden", [range(1, 23), range(1, 23)], 1),
        ("hidden", [range(22), range(22)], 0),
        ("train", [range(1, 23)], 1),
        ("train", [range(23), range(22)], 0),
        ("hidden", [range(1, 11), range(11)], 0),
        ("hidden", [range(1, 11), range(1, 12)], 1),
        ("hidden", [range(2, 12), [], range(1, 12)], 1),
        ("hidden", [range(2, 12), range(2, 13)], "frames each, numbered from 0"),
        ("train", [range(2, 23), range(1, 23)], 1),
        ("hidden", [range(1, 10)], 0),
        ("hidden", [range(11), range(1, 12)], "frames are numbered from 0 in .*video_0 but from 1 in .*video_1"),
        ("train", [range(1, 23), range(22)], "frames are numbered from 0 in .*video_1 but from 1 in .*video_0"),
        ("unlabeled", [range(5, 27), range(5, 27)], "no video in .* has a frame image_0.png, .* from 5 to 26"),
        ("unlabeled", [range(0, 44, 2), range(0, 44, 2)], "no video in .* has a frame image_1.png"),
        ("hidden", [range(10), range(10)], "no video in .* has a frame image_10.png, .* from 0 to 9"),
    ],
)
def test_frames_are_numbered_alike_from_0_or_1(tmp_path, split, videos, expected):
    folders = {number: tmp_path / f"video_{number}" for number in range(len(videos))}
    for number, frames in enumerate(videos):
        name_frames(folders[number], "image_{}.png", frames)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            first_frame(split, folders)
        return
    first, problems = first_frame(split, folders)
    assert first == expected and [p.problem for p in problems] == ["frames numbered from 1 instead of 0"] * first
    frames, _ = frame_files(folders[0], split, first)
    assert all(path.endswith(f"image_{index + first}.png") for index, path in frames.items())


@pytest.mark.parametrize(("one", "other"), [("image_1.png", "image_01.png"), ("image_1.png", "image_1.jpg")])
def test_a_frame_that_is_there_twice_is_refused(tmp_path, one, other):
    make_competition(tmp_path, tmp_path / "hidden")
    for name in (one, other):
        (tmp_path / "hidden" / "video_15001" / name).touch()
    with pytest.raises(UserError, match="video_15001 has one frame twice") as error:
        find_competition(tmp_path)
    assert one in str(error.value) and other in str(error.value)


def test_what_is_called_otherwise_is_taken_and_said(tmp_path):
    make_competition(tmp_path / "Dataset_Student" / "Dataset_Student", tmp_path / "Hidden")
    students = tmp_path / "Dataset_Student" / "Dataset_Student"
    (students / "val").rename(students / "Validation")
    name_frames(students / "unlabeled" / "video_2000", "image_{:02}.JPEG", range(22))
    name_frames(tmp_path / "__MACOSX" / "train" / "video_9", "._image_{}.png", range(22))
    name_frames(tmp_path / ".ipynb_checkpoints" / "train" / "video_9", "image_{}.png", range(22))
    found = find_competition(tmp_path)
    assert [len(videos) for videos in found.splits.values()] == [3, 1, 2, 3] and not any(found.first.values())
    said = {split: [(p.problem, p.action) for p in problems] for split, problems in found.problems.items()}
    deeper = ("a folder deeper down than expected", "taken for {}")
    assert said == {
        "train": [(deeper[0], "taken for train")],
        "val": [("a folder called Validation", "taken for val"), (deeper[0], "taken for val")],
        "unlabeled": [(deeper[0], "taken for unlabeled"), ("frames called *.JPEG", "taken for frames")],
        "hidden": [("a folder called Hidden", "taken for hidden")],
    }


def test_what_lies_there_instead_is_said(tmp_path):
    make_competition(tmp_path, tmp_path / "hidden")
    (tmp_path / "val").rename(tmp_path / "val_videos")
    problem = find_competition(tmp_path).problems["val"][0].problem
    assert problem == f"no such folder, but videos in {tmp_path / 'val_videos'}"
    (tmp_path / "train").rename(tmp_path / "my train")
    with pytest.raises(UserError, match=f"no folder train, but videos in {tmp_path / 'my train'}, .*val_videos;"):
        find_competition(tmp_path)
    with pytest.raises(UserError, match=f"no folder train, but videos in {tmp_path / 'hidden'};"):
        find_competition(tmp_path / "hidden")
    make_videos(tmp_path / "train", "clip_0", "clip_1")
    with pytest.raises(UserError, match=r"holds no video_N folders \(train holds clip_0, clip_1\)"):
        find_competition(tmp_path)
    make_videos(tmp_path / "train", "video_0")
    for name in ("image_0.png", "masks.npy"):
        (tmp_path / "train" / "video_0" / name).touch()
    with pytest.raises(UserError, match=r"has a mask.npy \(video_0 holds masks.npy\)"):
        find_competition(tmp_path)


def test_what_may_not_be_read_is_not_looked_into(tmp_path, monkeypatch):
    make_competition(tmp_path, tmp_path / "hidden")
    listdir = os.listdir

    def guarded(folder):
        if Path(folder).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(os, "listdir", guarded)
    assert len(find_competition(tmp_path).splits) == 4


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


@pytest.mark.parametrize(
    ("mode", "kind", "form"),
    [
        ("RGB", "PNG", ""),
        ("RGBA", "PNG", "8-bit RGBA PNG instead of 8-bit RGB PNG"),
        ("L", "PNG", "8-bit grey PNG instead of 8-bit RGB PNG"),
        ("P", "PNG", "8-bit palette PNG instead of 8-bit RGB PNG"),
        ("RGB", "JPEG", "JPEG instead of 8-bit RGB PNG"),
        ("L", "JPEG", "JPEG instead of 8-bit RGB PNG"),
    ],
)
def test_frame_equals_pillow(tmp_path, mode, kind, form):
    path = tmp_path / "Prüfung mit Leerzeichen 動画.png"
    image = Image.fromarray(random_frame()).convert(mode)
    image.save(path, kind)
    np.testing.assert_allclose(read_frame(path), np.asarray(Image.open(path).convert("RGB")), atol=2 * (kind == "JPEG"))
    assert read_image(path)[1] == form


@pytest.mark.parametrize("stretch", [1, 256, 257])
def test_a_frame_of_16_bits_is_read_as_one_of_8(tmp_path, stretch):
    deep = random_frame()[..., ::-1].astype(np.uint16) * stretch
    opaque = np.full((160, 240, 1), 65535, np.uint16)
    for form, image in (("RGB", deep), ("RGBA", np.dstack((deep, opaque))), ("grey", deep[..., 0])):
        cv2.imwrite(str(tmp_path / "a.png"), image)
        expected = random_frame()[..., 2:] if form == "grey" else random_frame()
        np.testing.assert_array_equal(read_frame(tmp_path / "a.png"), np.broadcast_to(expected, (160, 240, 3)))
        assert read_image(tmp_path / "a.png")[1] == f"16-bit {form} PNG instead of 8-bit RGB PNG"


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


def jpeg(*size: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_frame(*size)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "unreadable"),
        (b"", "empty"),
        (b"this is text\n", "not a PNG"),
        (jpeg()[:5000], "truncated JPEG"),
        (jpeg(120, 160), "160 wide and 120 high"),
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


def test_what_is_no_file_is_said(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for read in (read_frame, read_mask):
        for name, words in ((".", "Is a directory"), ("link", "No such file")):
            with pytest.raises(BadFile, match=words):
                read(tmp_path / name)


def write_mask(path, dtype, *values):
    mask = np.zeros((22, 160, 240), dtype)
    mask[3, 5, : len(values)] = values
    np.save(path, mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int8, np.uint16, ">i4"])
def test_mask_of_any_integer_type_is_read(tmp_path, dtype):
    write_mask(tmp_path / "mask.npy", dtype, 1, 48)
    mask, changes = read_mask(tmp_path / "mask.npy")
    assert mask.dtype == np.uint8 and mask[3, 5, :3].tolist() == [1, 48, 0] and not changes
    write_mask(tmp_path / "mask.npy", dtype, 49, 100, 48, *([-1] if dtype in (np.int64, np.int8, ">i4") else [200]))
    mask, changes = read_mask(tmp_path / "mask.npy")
    assert mask[3, 5, :5].tolist() == [255, 255, 48, 255, 0] and changes == [
        ("values that are no class", "pixels ignored")
    ]
    assert (mask == 255).sum() == 3


MASK = np.random.default_rng(0).integers(0, 49, (22, 160, 240), np.uint8)


@pytest.mark.parametrize(
    ("stored", "change"),
    [
        (np.asfortranarray(MASK), None),
        (MASK.astype(">u2"), None),
        (MASK.astype(np.float64), ("masks of float64 instead of integers", "taken as whole numbers")),
        (MASK[..., None], ("masks of shape (22, 160, 240, 1)", "taken as (22, 160, 240)")),
        (MASK[None, ..., None], ("masks of shape (1, 22, 160, 240, 1)", "taken as (22, 160, 240)")),
        (np.moveaxis(MASK, 0, 2), ("masks of shape (160, 240, 22)", "taken as (22, 160, 240)")),
        (np.asfortranarray(np.moveaxis(MASK, 0, 1)), ("masks of shape (160, 22, 240)", "taken as (22, 160, 240)")),
    ],
    ids=["Fortran", "big-endian", "float", "1 at the end", "1 at both ends", "frames last", "frames between"],
)
def test_mask_in_any_form_without_doubt_is_read(tmp_path, stored, change):
    np.save(tmp_path / "mask.npy", stored)
    mask, changes = read_mask(tmp_path / "mask.npy")
    np.testing.assert_array_equal(mask, MASK)
    assert mask.flags.c_contiguous and changes == [change] * bool(change)


def test_mask_of_bools_is_one_class(tmp_path):
    np.save(tmp_path / "mask.npy", MASK > 9)
    mask, changes = read_mask(tmp_path / "mask.npy")
    np.testing.assert_array_equal(mask, MASK > 9)
    assert changes == [("masks of bool instead of integers", "taken as whole numbers")]


def truncate(path):
    write_mask(path, np.uint8)
    path.write_bytes(path.read_bytes()[:-1])


def save_several(path):
    with open(path, "wb") as file:
        np.savez(file, mask=MASK, other=MASK)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "unreadable"),
        (lambda path: path.touch(), "truncated"),
        (lambda path: path.write_text("text"), "no plain"),
        (truncate, "truncated"),
        (lambda path: np.save(path, np.zeros((21, 160, 240), np.uint8)), r"\(21, 160, 240\)"),
        (lambda path: np.save(path, MASK.swapaxes(1, 2)), r"\(22, 240, 160\) instead of"),
        (lambda path: np.save(path, MASK.swapaxes(0, 2)), r"\(240, 160, 22\) instead of"),
        (lambda path: np.save(path, MASK / 2), "fractions"),
        (lambda path: np.save(path, MASK.astype(complex)), "complex128"),
        (lambda path: np.save(path, MASK.astype([("label", "u1")])), "label"),
        (lambda path: np.save(path, MASK.astype(object), allow_pickle=True), "Python objects"),
        (lambda path: path.write_bytes(pickle.dumps(MASK)), "no plain"),
        (save_several, r"an archive \(.npz\) of mask, other instead of one array"),
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
    found = find_competition(tmp_path, allow_gaps=True)
    layout = [problem for problems in found.problems.values() for problem in problems]
    frames = [Problem(str(tmp_path / f"hidden/video_15000/image_{n}.png"), "truncated PNG", "…") for n in range(3)]
    lines = integrity_report([*frames, *layout], tmp_path).splitlines()[1:]
    assert lines[0] == f"  1 × unexpected file or folder: ignored ({tmp_path / 'hidden' / 'notes.txt'})"
    assert "the first gap at 15001" in lines[1]
    assert [line.split()[0] for line in lines] == ["1", "1", "3", "2"]
