"""A raw competition on disk: where its splits lie, how its files are read and what is wrong with them.

Nothing here writes a file; what becomes of a bad video is decided in ``pack.py``.
"""

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
from data_prep.labels import BadFile, read_npy, value_problems, without_ones
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH

SPLITS = ("train", "val", "unlabeled", "hidden")
LABELLED = ("train", "val")
FRAMES_OF_SPLIT = {"train": NUM_FRAMES, "val": NUM_FRAMES, "unlabeled": NUM_FRAMES, "hidden": CLIP_FRAMES}

VIDEO_NAME = re.compile(r"video_(\d+)", re.IGNORECASE)
NOT_LOOKED_INTO = re.compile(r"\.|__|video_", re.IGNORECASE)
FRAME_NAME = re.compile(r"(?i:image_(\d+)\.(png|jpe?g))")
USED_NAME = re.compile(FRAME_NAME.pattern + r"|mask\.npy")

SPLIT_OF = {split: split for split in SPLITS} | {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "unlabelled": "unlabeled",
}
"""What folders may be called, in any case, and the split that they are."""
STANDIN = "standin.json"
"""The file that tells a stand-in competition from the real one."""
LEVELS = 3
"""So many folders down a split may lie in the folder that a user names."""

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
COLOURS_OF_PNG = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and transparent", 6: "RGBA"}


@dataclass(frozen=True)
class Problem:
    """One defect of the data, and what was done about it."""

    file: str
    problem: str
    action: str


@dataclass(frozen=True)
class Competition:
    """Where the videos of a raw competition lie.

    Attributes:
        splits: for every split that has videos, its folders by video number, in the order of the numbers.
        first: the number of the first frame in every one of these splits, 0 or 1.
        problems: what is unusual about the layout, by split; of the video folders only the names in them are looked at.
    """

    splits: dict[str, dict[int, Path]]
    first: dict[str, int]
    problems: dict[str, list[Problem]]


def find_competition(
    data_dir: Path, required: Collection[str] = ("train", "hidden"), allow_gaps: bool = False
) -> Competition:
    """Find the splits in ``data_dir`` or in folders inside it such as ``Dataset_Student``; ``hidden`` also beside it.

    A stand-in competition inside it is another one and not looked at. Where nothing but ``hidden`` is required,
    ``data_dir`` may also be the folder of one video.

    Args:
        data_dir: the folder that a user names.
        required: splits without which nothing can be done; the others may be absent, which is reported.
        allow_gaps: whether numbers may be left out in ``hidden`` where it is required.

    Raises:
        UserError: no such folder, an empty one, a required split that is absent or empty, a split that is there twice,
            a video number that is there twice or left out in ``hidden``, frames whose numbers could mean two things,
            or a train split without a single mask.
    """
    if not data_dir.is_dir():
        raise UserError(
            f"{data_dir} is {'not a folder' if data_dir.exists() else 'no existing folder'}; name the data."
        )
    root = data_dir.resolve()
    if not any(root.iterdir()):
        raise UserError(f"{data_dir} is empty; expected train, val, unlabeled and hidden folders in it.")
    if set(required) == {"hidden"} and sorted_files(root)[0]:
        return single_video(root)
    folders, others = split_folders(root)
    splits, first, problems = {}, {}, {}
    for split in SPLITS:
        places = folders[split]
        if not places and split == "hidden" and "train" in splits:
            places = [folder for folder in (root.parent / split,) if folder.is_dir()]
        filled = [(folder, videos) for folder in places if (videos := video_folders(folder))]
        if len(filled) > 1:
            raise UserError(f"{split} is there twice, {filled[0][0]} and {filled[1][0]}; keep one of them.")
        if filled:
            folder, splits[split] = filled[0]
            if split == "hidden" and split in required and not allow_gaps:
                refuse_gap(folder, splits[split])
            first[split], unusual = first_frame(split, splits[split])
            problems[split] = layout_problems(split, folder, splits, root) + unusual
            continue
        elsewhere = f", but videos in {', '.join(map(str, others))}" if others else ""
        if split in required:
            state = (
                f"{places[0]} holds no video_N folders{contents(places[0])}"
                if places
                else f"{data_dir} has no folder {split}{elsewhere}"
            )
            raise UserError(f"{state}; {split} is needed, with folders video_N of frames image_0.png and so on.")
        absent = "no videos" if places else "no such folder"
        problems[split] = [Problem(str(root / split), absent + elsewhere, "done without")]
    if not splits:
        raise UserError(f"{data_dir} has no train, val, unlabeled or hidden folder with videos; name the folder above.")
    if "train" in splits and not any((folder / "mask.npy").is_file() for folder in splits["train"].values()):
        video = next(iter(splits["train"].values()))
        raise UserError(f"no video in {video.parent} has a mask.npy{contents(video)}; add the train masks.")
    return Competition(splits, first, problems)


def single_video(root: Path) -> Competition:
    """Return a competition whose only hidden video is a folder of frames."""
    name = VIDEO_NAME.fullmatch(root.name)
    videos = {int(name[1]) if name else 0: root}
    first, problems = first_frame("hidden", videos)
    return Competition({"hidden": videos}, {"hidden": first}, {"hidden": problems})


def split_folders(root: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the folders in ``root`` that are called like splits, by split, and all others that hold videos.

    Systems' leftovers, stand-in competitions and what may not be read are not looked into.
    """
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    others = []
    for place, names, _ in os.walk(root, followlinks=True):
        folder = Path(place)
        holds_videos = any(map(VIDEO_NAME.fullmatch, names))
        split = SPLIT_OF.get(folder.name.casefold()) if folder != root else None
        if split:
            splits[split].append(folder)
        elif holds_videos:
            others.append(folder)
        names.sort()
        names[:] = [n for n in names if not (NOT_LOOKED_INTO.match(n) or (folder / n / STANDIN).is_file())]
        if (holds_videos and folder != root) or len(folder.relative_to(root).parts) == LEVELS:
            names.clear()
    return splits, others


def contents(folder: Path) -> str:
    """Return in parentheses what a folder holds apart from frames and masks, for the end of an error message."""
    names = [name for name in sorted(os.listdir(folder)) if not USED_NAME.fullmatch(name)]
    return f" ({folder.name} holds {', '.join(names[:3])}{', …' * (len(names) > 3)})" if names else ""


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


def layout_problems(split: str, folder: Path, splits: dict[str, dict[int, Path]], root: Path) -> list[Problem]:
    """Return what is unusual about a split's folder and numbers; ``splits`` has those found so far, itself included."""
    videos = splits[split]
    expected = {video.name for video in videos.values()}
    problems = [
        Problem(str(folder / name), "unexpected file or folder", "ignored")
        for name in sorted(os.listdir(folder))
        if name not in expected
    ]
    if folder.name != split:
        problems.append(Problem(str(folder), f"a folder called {folder.name}", f"taken for {split}"))
    if root in folder.parents[2:]:
        problems.append(Problem(str(folder), "a folder deeper down than expected", f"taken for {split}"))
    if gap := first_gap(videos):
        action = "one row per folder that is there" if split == "hidden" else "done without"
        problems.append(Problem(str(folder), gap, action))
    for other, others in splits.items():
        if other != split and (shared := videos.keys() & others.keys()):
            text = f"{len(shared)} video numbers that are in {other} as well, the first {min(shared)}"
            problems.append(Problem(str(folder), text, "both kept"))
    return problems


def first_gap(numbers: Collection[int]) -> str:
    """Return in words where the numbers of a split's videos have a gap; nothing if they have none."""
    first, last = min(numbers), max(numbers)
    if len(numbers) == last - first + 1:
        return ""
    gap = next(number for number in range(first, last) if number not in numbers)
    return f"{len(numbers)} videos numbered {first} to {last}, the first gap at {gap}"


def refuse_gap(folder: Path, numbers: Collection[int]) -> None:
    """Raise ``UserError`` if numbers are left out in ``hidden``, since a leaderboard file has a row for each."""
    if gap := first_gap(numbers):
        raise UserError(
            f"{folder} holds {gap}, so that rows of the file would be missing; add the videos, or say --allow-gaps."
        )


def sorted_files(folder: Path) -> tuple[dict[int, str], list[str]]:
    """Return the names of a video's frames by the number in them, and all other names.

    Raises:
        UserError: two frames have the same number.
    """
    frames: dict[int, str] = {}
    others = []
    for name in sorted(os.listdir(folder)):
        match = FRAME_NAME.fullmatch(name)
        if not match:
            others.append(name)
        elif (first := frames.setdefault(int(match[1]), name)) != name:
            raise UserError(f"{folder} has one frame twice, {first} and {name}; keep one of them.")
    return frames, others


def first_frame(split: str, videos: dict[int, Path]) -> tuple[int, list[Problem]]:
    """Return the number of the first frame in the videos of a split, 0 or 1, and what is unusual about their names.

    Frames may be missing, so that a single video can be consistent with both numbers; all videos together decide.

    Raises:
        UserError: they disagree, begin at another number, lack one frame in all videos, or one has a frame twice.
    """
    length = FRAMES_OF_SPLIT[split]
    ranges: list[tuple[int, int, Path]] = []  # between which the first frame's number must be
    numbers: set[int] = set()
    suffixes: dict[str, Path] = {}
    for folder in videos.values():
        frames, _ = sorted_files(folder)
        if frames:
            lowest, highest = min(frames), max(frames)
            ranges.append((min(highest - length + 1, lowest), lowest, folder))
            numbers |= frames.keys()
            for name in frames.values():
                suffixes.setdefault(os.path.splitext(name)[1], folder / name)
    if not ranges:
        return 0, []
    late, early = max(ranges), min(ranges, key=lambda span: span[1])
    first, place = max(late[0], 0), early[2].parent
    if first > early[1]:
        raise UserError(
            f"frames are numbered from {early[1]} in {early[2]} but from {late[1]} in {late[2]}, so that equal numbers "
            "are different frames; number them alike in all videos, from 0."
        )
    missing = [number for number in range(first, first + length) if number not in numbers]
    if first > 1 or (missing and len(ranges) > 1):
        raise UserError(
            f"no video in {place} has a frame image_{0 if first > 1 else missing[0]}.png, they have numbers from "
            f"{min(numbers)} to {max(numbers)}; expected {length} frames each, numbered from 0 (or all from 1)."
        )
    problems = [
        Problem(str(path), f"frames called *{suffix}", "taken for frames")
        for suffix, path in suffixes.items()
        if suffix != ".png"
    ]
    if first:
        problems.append(Problem(str(place), "frames numbered from 1 instead of 0", "numbered one less"))
    return first, problems


def frame_files(folder: Path, split: str, first: int = 0) -> tuple[dict[int, str], list[Problem]]:
    """Return the paths of a video's frames by index, and what in its folder is unexpected.

    Args:
        folder: of the video.
        split: that it is in.
        first: the number in the name of the frame with index 0.
    """
    named, others = sorted_files(folder)
    span = range(first, first + FRAMES_OF_SPLIT[split])
    frames = {number - first: os.path.join(folder, named[number]) for number in span if number in named}
    others += [name for number, name in named.items() if number not in span]
    expected = ("mask.npy",) if split in LABELLED else ()
    unexpected = (name for name in sorted(others) if name not in expected)
    return frames, [Problem(str(folder / name), "unexpected file or folder", "ignored") for name in unexpected]


def read_image(path: str | Path) -> tuple[bytes, str]:
    """Return the bytes of a frame's file, checked but not decoded, and what is unusual about the image, if anything.

    Raises:
        BadFile: the file is missing, no PNG or JPEG, truncated, damaged, or of another size.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BadFile(f"unreadable ({error.strerror})") from None
    return data, check_image(data)


def decode(data: bytes) -> np.ndarray:
    """Return the (160, 240, 3) uint8 RGB frame in checked bytes, however its file stores it."""
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    if frame is None:
        raise BadFile("damaged image")
    check_size(frame.shape[1], frame.shape[0])
    if frame.dtype == np.uint16:  # some writers fill the low bits only
        frame = (frame if frame.max() < 256 else frame >> 8).astype(np.uint8)
    return frame


def check_size(width: int, height: int) -> None:
    """Raise ``BadFile`` unless a frame has the right size."""
    if (width, height) != (WIDTH, HEIGHT):
        raise BadFile(f"{width} wide and {height} high instead of {WIDTH} and {HEIGHT}")


def check_image(data: bytes) -> str:
    """Return what is unusual about a whole PNG with right checksums, or a whole JPEG; raise ``BadFile`` for others.

    Decoders would write to standard error about damaged files, and might return half an image.
    """
    if data.startswith(JPEG):
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise BadFile("truncated JPEG")
        return "JPEG instead of 8-bit RGB PNG"
    if not data.startswith(PNG):
        raise BadFile("not a PNG" if data else "empty file")
    view = memoryview(data)
    start, kind, form = 8, b"", ""
    while kind != b"IEND":
        length = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        end = start + 12 + length
        if end > len(data):
            raise BadFile("truncated PNG")
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise BadFile("damaged PNG")
        if kind == b"IHDR":
            check_size(*(int.from_bytes(data[at : at + 4], "big") for at in (16, 20)))
            form = f"{data[24]}-bit {COLOURS_OF_PNG.get(data[25])}"
        start = end
    return "" if form == "8-bit RGB" else f"{form} PNG instead of 8-bit RGB PNG"


def read_mask(path: str | Path) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Return a video's (22, 160, 240) uint8 mask, 255 where a value is no class, and what was done to what in it.

    Raises:
        BadFile: the file is missing, no plain array, truncated, not of whole numbers, or of another shape.
    """
    stored = read_npy(path)
    expected = (NUM_FRAMES, HEIGHT, WIDTH)
    mask, changes = without_ones(stored, len(expected)), []
    if sorted(mask.shape) == sorted(expected):  # the frames' axis may be elsewhere; turned frames could be mirrored too
        mask = np.moveaxis(mask, mask.shape.index(NUM_FRAMES), 0)
    if mask.shape != expected:
        turned = ", rows and columns in the wrong order" if mask.shape == (NUM_FRAMES, WIDTH, HEIGHT) else ""
        raise BadFile(f"shape {stored.shape} instead of {expected}{turned}")
    if stored.shape != expected:
        changes.append((f"masks of shape {stored.shape}", f"taken as {expected}"))
    if stored.dtype.kind not in "iu":
        if problems := value_problems(mask):
            raise BadFile(problems[0])
        changes.append((f"masks of {stored.dtype} instead of integers", "taken as whole numbers"))
    no_class = (mask < 0) | (mask >= NUM_CLASSES)
    if no_class.any():
        changes.append(("values that are no class", "pixels ignored"))
    return np.where(no_class, IGNORE, mask).astype(np.uint8, order="C"), changes


def integrity_report(problems: Iterable[Problem], full_report: Path) -> str:
    """Return the problems as text: equal ones counted, with their first three files and where the full list is.

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
