"""A raw competition on disk: where its splits lie, how its files are read and what is wrong with them.

Nothing here writes a file; what becomes of a bad video is decided in ``pack.py``.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_prep.classes import IGNORE, NUM_CLASSES
from data_prep.errors import UserError
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH

SPLITS = ("train", "val", "unlabeled", "hidden")
LABELLED = ("train", "val")
FRAMES_OF_SPLIT = {"train": NUM_FRAMES, "val": NUM_FRAMES, "unlabeled": NUM_FRAMES, "hidden": CLIP_FRAMES}

VIDEO_NAME = re.compile(r"video_(\d+)")
FRAME_NAME = re.compile(r"image_(\d+)\.png")


class BadFile(Exception):
    """A frame or mask that cannot be used as it is; the message says what is wrong with it."""


@dataclass(frozen=True)
class Problem:
    """One thing that was wrong with the data, and what was done about it."""

    file: str
    problem: str
    action: str


@dataclass(frozen=True)
class Competition:
    """Where the videos of a raw competition lie.

    Attributes:
        splits: for every split that has videos, its folders by video number, in the order of the numbers.
        problems: what is unexpected about the layout, by split; files inside the video folders are not looked at.
    """

    splits: dict[str, dict[int, Path]]
    problems: dict[str, list[Problem]]


def find_competition(data_dir: Path, required: Collection[str] = ("train", "hidden")) -> Competition:
    """Find the splits in ``data_dir`` or in a folder inside it such as ``Dataset_Student``; ``hidden`` also beside it.

    A stand-in competition inside it is another one and not looked at.

    Args:
        data_dir: the folder that a user names.
        required: splits without which nothing can be done; the others may be absent, which is reported.

    Raises:
        UserError: no such folder, an empty one, a required split that is absent or empty, a split that is there twice,
            a video number that is there twice, or a train split without a single mask.
    """
    if not data_dir.is_dir():
        raise UserError(
            f"{data_dir} is {'not a folder' if data_dir.exists() else 'no existing folder'}; name the data."
        )
    root = data_dir.resolve()
    inside = sorted(
        child
        for child in root.iterdir()
        if child.is_dir() and not child.name.startswith((".", "__")) and not (child / "standin.json").is_file()
    )
    if not any(root.iterdir()):
        raise UserError(f"{data_dir} is empty; expected train, val, unlabeled and hidden folders in it.")
    splits, problems = {}, {}
    for split in SPLITS:
        places = [folder for folder in (root / split, *(child / split for child in inside)) if folder.is_dir()]
        if not places and split == "hidden" and "train" in splits:
            places = [folder for folder in (root.parent / split,) if folder.is_dir()]
        found = [(folder, videos) for folder in places if (videos := video_folders(folder))]
        if len(found) > 1:
            raise UserError(f"{split} is there twice, {found[0][0]} and {found[1][0]}; keep one of them.")
        problems[split] = []
        if found:
            folder, splits[split] = found[0]
            problems[split] = layout_problems(split, folder, splits[split])
        elif split in required:
            state = f"{places[0]} holds no video_N folders" if places else f"{data_dir} has no folder {split}"
            raise UserError(f"{state}; {split} is needed, with folders video_N of frames image_0.png and so on.")
        else:
            problems[split] = [Problem(str(root / split), "no videos" if places else "no such folder", "done without")]
    if not splits:
        raise UserError(f"{data_dir} has no train, val, unlabeled or hidden folder with videos; name the folder above.")
    if "train" in splits and not any((folder / "mask.npy").is_file() for folder in splits["train"].values()):
        raise UserError(
            f"no video in {next(iter(splits['train'].values())).parent} has a mask.npy; add the train masks."
        )
    return Competition(splits, problems)


def video_folders(folder: Path) -> dict[int, Path]:
    """Return the ``video_N`` folders of a split by number, sorted by number, plain or zero-padded.

    Raises:
        UserError: two folders have the same number.
    """
    videos: dict[int, Path] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = VIDEO_NAME.fullmatch(entry.name)
            if not name or not entry.is_dir():
                continue
            number = int(name[1])
            if number in videos:
                raise UserError(f"video {number} is there twice, {videos[number]} and {entry.path}; keep one of them.")
            videos[number] = folder / entry.name
    return dict(sorted(videos.items()))


def layout_problems(split: str, folder: Path, videos: dict[int, Path]) -> list[Problem]:
    """Return what else lies in a split's folder, and for ``hidden`` where its numbers have a gap."""
    expected = {video.name for video in videos.values()}
    problems = [
        Problem(str(folder / name), "unexpected file or folder", "ignored")
        for name in sorted(os.listdir(folder))
        if name not in expected
    ]
    numbers = list(videos)
    if split == "hidden" and len(numbers) != numbers[-1] - numbers[0] + 1:
        gap = next(number for number in range(numbers[0], numbers[-1]) if number not in videos)
        text = f"{len(numbers)} videos numbered {numbers[0]} to {numbers[-1]}, the first gap at {gap}"
        problems.append(Problem(str(folder), text, "one row per folder that is there"))
    return problems


def frame_files(folder: Path, split: str) -> tuple[dict[int, str], list[Problem]]:
    """Return the paths of a video's frames by index, and what in its folder is unexpected."""
    frames: dict[int, str] = {}
    problems = []
    for name in sorted(os.listdir(folder)):
        match = FRAME_NAME.fullmatch(name)
        index = int(match[1]) if match else -1
        if 0 <= index < FRAMES_OF_SPLIT[split] and index not in frames:
            frames[index] = os.path.join(folder, name)
        elif name != "mask.npy" or split not in LABELLED:
            problems.append(Problem(str(folder / name), "unexpected file or folder", "ignored"))
    return frames, problems


def read_frame(path: str | Path) -> np.ndarray:
    """Return one frame, (160, 240, 3) uint8 RGB; errors as in :func:`read_png`."""
    frame = cv2.imdecode(np.frombuffer(read_png(path), np.uint8), cv2.IMREAD_COLOR_RGB)
    if frame is None or frame.shape != (HEIGHT, WIDTH, 3):
        raise BadFile("damaged PNG")
    return frame


def read_png(path: str | Path) -> bytes:
    """Return the bytes of a frame's file, checked but not decoded.

    Raises:
        BadFile: the file is missing, no PNG, truncated, damaged, or of another size.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BadFile(f"unreadable ({error.strerror})") from None
    check_png(data)
    return data


def check_png(data: bytes) -> None:
    """Raise ``BadFile`` unless ``data`` is a whole PNG of the right size whose checksums agree.

    A decoder is never shown a file that fails: it would write to standard error and might return half an image.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise BadFile("empty file" if not data else "not a PNG")
    view = memoryview(data)
    start, kind = 8, b""
    while kind != b"IEND":
        length = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        end = start + 12 + length
        if end > len(data):
            raise BadFile("truncated PNG")
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise BadFile("damaged PNG")
        if kind == b"IHDR":
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
            if (width, height) != (WIDTH, HEIGHT):
                raise BadFile(f"{width} wide and {height} high instead of {WIDTH} and {HEIGHT}")
        start = end


def read_mask(path: str | Path) -> tuple[np.ndarray, bool]:
    """Return a video's (22, 160, 240) uint8 mask, 255 where a value is no class, and whether there is such a value.

    Raises:
        BadFile: the file is missing, no plain array, truncated, not of integers, or of another shape.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BadFile(f"unreadable ({error.strerror})") from None
    except (ValueError, EOFError):
        raise BadFile("truncated, or no plain NumPy array") from None
    expected = (NUM_FRAMES, HEIGHT, WIDTH)
    if not isinstance(stored, np.ndarray) or stored.shape != expected:
        raise BadFile(f"shape {getattr(stored, 'shape', 'unknown')} instead of {expected}")
    if stored.dtype.kind not in "iu":
        raise BadFile(f"{stored.dtype} instead of integers")
    no_class = (stored < 0) | (stored >= NUM_CLASSES)
    return np.where(no_class, IGNORE, stored).astype(np.uint8), bool(no_class.any())


def integrity_report(problems: Iterable[Problem], full_report: Path) -> str:
    """Return the report as people read it: equal problems counted, the first three files of each, where the rest is.

    What is wrong with the layout of ``hidden`` comes first, since it decides the rows of a submission.
    """
    problems = list(problems)
    if not problems:
        return "Integrity: nothing wrong with the data."
    alike: dict[tuple[bool, str, str], list[str]] = {}
    for problem in problems:
        path = Path(problem.file)
        of_hidden = "hidden" in (path.name, path.parent.name)
        alike.setdefault((of_hidden, problem.problem, problem.action), []).append(problem.file)
    lines = [f"Integrity: {len(problems)} problem{'s' * (len(problems) > 1)}, all of them in {full_report}"]
    for (_, text, action), files in sorted(alike.items(), key=lambda item: (not item[0][0], -len(item[1]))):
        lines.append(f"  {len(files)} × {text}: {action} ({', '.join(files[:3])}{', …' * (len(files) > 3)})")
    return "\n".join(lines)
