"""Leaderboard files: writing, reading and checking them, and reading the truth they are scored against.

Nothing in a file that comes from elsewhere is ever executed; what is wrong with one is a sentence.
"""

import os
import pickle
import warnings
import zipfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from data_prep.classes import IGNORE, NUM_CLASSES
from data_prep.competition import (
    Problem,
    find_competition,
    first_frame,
    frame_files,
    read_image,
    read_mask,
    video_folders,
)
from data_prep.errors import UserError
from data_prep.files import read_json, write_saved
from data_prep.labels import NPY, BadFile, begins_with, read_npy, value_problems, without_ones
from data_prep.pack import NOT_SCORED, open_split
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH

SUBMISSION = Path("submission.pt")
"""The default of ``submit.py --out`` and of what ``validate.py`` looks at."""
FORMATS = ("uint8", "int8", "int16", "int32", "int64")
"""Types of a leaderboard file; torch computes little with other integers."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a prediction is scored against.

    Attributes:
        masks: (N, 160, 240) uint8, 255 = not scored; a video left out keeps its row, all 255.
        videos: the number of the video in every row; None where a tensor file does not say.
        problems: the videos left out, and why.
    """

    masks: Tensor
    videos: list[int] | None
    problems: list[Problem]


def save_submission(masks: Tensor, path: Path, overwrite: bool = False) -> None:
    """Write (N, 160, 240) uint8 label masks as a leaderboard file, atomically; equal masks give equal bytes.

    Raises:
        UserError: ``path`` exists and ``overwrite`` is not set.
    """
    check_writable(path, overwrite)
    assert masks.dtype == torch.uint8 and not content_problems(masks.numpy(force=True)), masks.dtype
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = masks.detach().cpu().clone(memory_format=torch.contiguous_format)
    write_saved(path, lambda file: torch.save(whole, file))  # given a name, it would write that into the file


def check_outputs(written: Collection[Path], read: Collection[Path] = ()) -> None:
    """Raise ``UserError`` if an output of a command cannot be written, or is also an input or another output."""
    others = [path.resolve() for path in read]
    for path in written:
        check_writable(path, overwrite=True)
        if path.resolve() in others:
            raise UserError(f"{path} would be written over; give every output a file of its own.")
        others.append(path.resolve())


def check_writable(path: Path, overwrite: bool = False) -> None:
    """Raise ``UserError`` if ``path`` may not be written, to be called before hours of work."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file such as {path / 'submission.pt'}.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; add --overwrite to replace it or choose another name.")
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(
            f"{path} cannot be written, because {place} is no folder or is write-protected; choose another."
        )


def load_submission(path: Path, count: int | None = None) -> Tensor:
    """Return the (N, 160, 240) uint8 labels of a prediction, a file of ``torch.save`` or ``np.save``.

    Whole numbers of any type are converted and dimensions of 1 dropped, which is said on standard error.

    Args:
        path: the file.
        count: how many videos it should have.

    Raises:
        UserError: it is no file, damaged, not a plain tensor, or its shape or values are wrong.
    """
    masks = plain_labels(path)
    problems = content_problems(masks, count)
    if problems:
        raise UserError(f"{path} is no usable prediction: {'; '.join(problems)}.")
    return torch.from_numpy(masks.astype(np.uint8, order="C"))


def check_submission(path: Path, hidden: Path | int) -> list[str]:
    """Return everything that is wrong with a leaderboard file, expected against found; nothing if it is right.

    Args:
        path: the file.
        hidden: the folder of the hidden videos, raw or packed, or the competition's, or how many there are.
    """
    count = hidden if isinstance(hidden, int) else len(hidden_numbers(hidden))
    try:
        masks, dtype = read_stored(path)
    except UserError as error:
        return [str(error)]
    problems = content_problems(masks, count)
    if begins_with(path, NPY):
        problems.append("format: expected a file written by torch.save, found a NumPy array")
    if dtype not in FORMATS and not any(text.startswith("dtype") for text in problems):
        problems.append(f"dtype: expected uint8 (or {', '.join(FORMATS[1:])}), found {dtype}")
    return problems


def load_truth(path: Path) -> Truth:
    """Read true masks of frame 22: a raw or packed split with masks, or a tensor file.

    Raises:
        UserError: there is no such thing, it has no masks, or the file's shape or type is wrong.
    """
    if (path / "index.json").is_file():
        split = open_split(path)
        if split.masks is None:
            raise UserError(f"{path} has no masks to score against; name a split such as val.")
        left_out = [problem for problem in split.problems if problem.action == NOT_SCORED]
        return Truth(torch.from_numpy(split.masks[:, -1].copy()), split.videos, left_out)
    if path.is_dir():
        return raw_truth(path)
    if not path.exists():
        raise UserError(f"{path} is missing; expected a split's folder such as Dataset_Student/val, or a tensor file.")
    masks = plain_labels(path)
    if problems := shape_problems(masks) + value_problems(masks):
        raise UserError(f"{path} is no usable truth: {'; '.join(problems)}.")
    no_class = (masks < 0) | (masks >= NUM_CLASSES)
    return Truth(torch.from_numpy(np.where(no_class, IGNORE, masks).astype(np.uint8, order="C")), None, [])


def raw_truth(folder: Path) -> Truth:
    """Read the last mask of every video of a raw split; a bad video is a row of 255.

    As in packing, frames count too, unless a folder holds nothing but its mask.
    """
    videos = video_folders(folder)
    if not any((video / "mask.npy").is_file() for video in videos.values()):
        raise UserError(f"{folder} has no video_N folders with a mask.npy to score against; name a split such as val.")
    first, _ = first_frame("val", videos)

    def last_mask(video: Path) -> tuple[np.ndarray, Problem | None]:
        path = video / "mask.npy"
        try:
            mask = read_mask(path)[0][-1].copy()
            frames, _ = frame_files(video, "val", first)
            if frames and len(frames) < NUM_FRAMES:
                path = video
                raise BadFile(f"{len(frames)} frames instead of {NUM_FRAMES}")
            for path in frames.values():
                read_image(path)
            return mask, None
        except BadFile as error:
            return np.full((HEIGHT, WIDTH), IGNORE, np.uint8), Problem(str(path), str(error), NOT_SCORED)

    with ThreadPoolExecutor() as threads:
        masks, problems = zip(*threads.map(last_mask, videos.values()), strict=True)
    return Truth(torch.from_numpy(np.stack(masks)), list(videos), [problem for problem in problems if problem])


def hidden_numbers(folder: Path) -> list[int]:
    """Return the numbers of the videos in a raw or packed hidden folder, or in a raw or packed competition."""
    for place in (folder, folder / "hidden"):
        if (place / "index.json").is_file():
            return read_json(place / "index.json", f"delete {place} and pack again")["videos"]
    videos = video_folders(folder) if folder.is_dir() else {}
    return list(videos or find_competition(folder, ("hidden",), allow_gaps=True).splits["hidden"])


def plain_labels(path: Path) -> np.ndarray:
    """Return what :func:`read_stored` does, without dimensions of 1 that are too many; say what is not as expected."""
    stored, dtype = read_stored(path)
    masks = without_ones(stored, 3)
    if dtype != "uint8" and not value_problems(masks):
        click.echo(f"{path}: {dtype} taken as uint8", err=True)
    if masks.shape != stored.shape:
        click.echo(f"{path}: shape {stored.shape} taken as {masks.shape}", err=True)
    return masks


def read_stored(path: Path) -> tuple[np.ndarray, str]:
    """Return the array in a file of ``torch.save`` or ``np.save``, and its type there; nothing in it is executed.

    Raises:
        UserError: it is no file, damaged, or not one plain array.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; expected a file made by torch.save.")
    if begins_with(path, NPY) or is_npz(path):
        try:
            stored = read_npy(path)
        except BadFile as error:
            raise UserError(f"{path} cannot be used: {error}; write it again with torch.save(tensor, path).") from None
        return stored, stored.dtype.name
    tensor = read_tensor(path)
    try:
        exact = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return exact.numpy(force=True), str(tensor.dtype).removeprefix("torch.")
    except (TypeError, RuntimeError):
        raise UserError(f"{path} holds a tensor of {tensor.dtype}; expected integers such as uint8.") from None


def is_npz(path: Path) -> bool:
    """Return whether a file is an archive of ``np.savez``; those of ``torch.save`` are archives too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_tensor(path: Path) -> Tensor:
    """Return the tensor in a file of ``torch.save``, on the CPU; see :func:`read_stored`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is unusual about a file is refused below
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no file of torch.save, or holds other objects than a tensor, which are not loaded because "
            "that could run code; write it again with torch.save(tensor, path)."
        ) from None
    except Exception as error:  # a damaged file can end in any of them
        if path.stat().st_size and not any(begins_with(path, magic) for magic in (b"PK", b"\x80\x02", b"\x93N")):
            raise UserError(f"{path} is no file of torch.save; write it with torch.save(tensor, path).") from None
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is truncated or damaged ({text[:120]}); write or copy it again.") from None
    if not isinstance(stored, Tensor) or stored.layout != torch.strided:
        kind = f"a {stored.layout} tensor" if isinstance(stored, Tensor) else f"a {type(stored).__name__}"
        raise UserError(f"{path} holds {kind}; expected one plain tensor of shape (videos, {HEIGHT}, {WIDTH}).")
    return stored


def content_problems(masks: np.ndarray, count: int | None = None) -> list[str]:
    """Return what is wrong with the shape and the values of a prediction, expected against found."""
    problems = shape_problems(masks, count)
    if masks.size == 0:
        return [*problems, "values: expected labels, found none"]
    wrong = value_problems(masks)
    problems += wrong
    if wrong and "fractions" not in wrong[0]:  # there is no smallest or largest
        return problems
    low, high = (float(value) for value in (masks.min(), masks.max()))
    if low < 0:
        problems.append(f"values: expected 0 to {NUM_CLASSES - 1}, found {low:g} as the smallest")
    if high >= NUM_CLASSES:
        problems.append(f"values: expected 0 to {NUM_CLASSES - 1}, found {high:g} as the largest")
    return problems


def shape_problems(masks: np.ndarray, count: int | None = None) -> list[str]:
    """Return what is wrong with the shape of a prediction, and what it looks like."""
    if masks.ndim == 3 and masks.shape[1:] == (HEIGHT, WIDTH) and count in (None, len(masks)):
        return []
    slip = likely_slip(masks, count)
    return [f"shape: expected ({count or 'videos'}, {HEIGHT}, {WIDTH}), found {masks.shape}{slip and f', {slip}'}"]


def likely_slip(masks: np.ndarray, count: int | None) -> str:
    """Return a hint at the usual mistake behind a wrong shape, and its remedy; nothing if it looks like none."""
    sizes, lengths = masks.shape, (CLIP_FRAMES, NUM_FRAMES)
    if NUM_CLASSES in sizes[1:]:
        values = masks[:1].astype(np.float32)
        kind = "logits" if (values < 0).any() else "probabilities" if (values % 1).any() else "one-hot labels"
        return f"which looks like {kind} of {NUM_CLASSES} classes: save argmax({sizes.index(NUM_CLASSES, 1)}) of it"
    if masks.ndim == 4 and 1 in sizes:
        return "a dimension of 1 too many: save squeeze() of it"
    if masks.ndim == 4 and sizes[1] in lengths and sizes[2:] == (HEIGHT, WIDTH):
        return "which looks like all frames of every video: save [:, -1] of it"
    if masks.ndim == 3 and sizes[1:] != (HEIGHT, WIDTH) and {HEIGHT, WIDTH} <= set(sizes):
        return "which looks like turned axes: save it with videos, rows and columns in this order"
    if masks.ndim == 3 and sizes[0] in lengths:
        return "which looks like the frames of one video instead of frame 22 of each"
    if masks.ndim == 3 and count and sizes[0] in [length * count for length in lengths]:
        return "which looks like all frames of all videos: save frame 22 of each"
    return ""
