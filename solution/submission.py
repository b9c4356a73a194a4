"""Leaderboard files: writing, reading and checking them, and reading the truth they are scored against.

Nothing in a file that comes from elsewhere is ever executed; what is wrong with one is a sentence.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.classes import IGNORE, NUM_CLASSES, class_name
from data_prep.competition import BadFile, Problem, find_competition, frame_files, read_mask, read_png, video_folders
from data_prep.errors import UserError
from data_prep.files import read_json, write_saved
from data_prep.pack import open_split
from data_prep.scene import HEIGHT, NUM_FRAMES, WIDTH

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Description:
    """What a leaderboard file holds: its size and type, its SHA-256, and the share of pixels of each class in it."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str
    class_shares: dict[str, float]


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
    assert masks.dtype == torch.uint8 and not content_problems(masks), (masks.dtype, content_problems(masks))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = masks.detach().cpu().clone(memory_format=torch.contiguous_format)
    write_saved(path, lambda file: torch.save(whole, file))  # given a name, it would write that into the file


def check_different(written: Collection[Path], read: Collection[Path] = ()) -> None:
    """Raise ``UserError`` if a file that a command writes is another that it writes or reads."""
    others = [path.resolve() for path in read]
    for path in written:
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
    """Return the (N, 160, 240) uint8 labels of a leaderboard file, ``.pt`` or ``.npy``; whole floats are converted.

    Args:
        path: the file.
        count: how many videos it should have.

    Raises:
        UserError: it is no file, damaged, not a plain tensor, or its shape or values are wrong.
    """
    masks = read_tensor(path)
    problems = content_problems(masks, count)
    if problems:
        raise UserError(f"{path} is no usable prediction: {'; '.join(problems)}.")
    return masks.to(torch.uint8).contiguous()


def check_submission(path: Path, hidden: Path | int) -> list[str]:
    """Return everything that is wrong with a leaderboard file, expected against found; nothing if it is right.

    Args:
        path: the file.
        hidden: the folder of the hidden videos, raw or packed, or the competition's, or how many there are.
    """
    count = hidden if isinstance(hidden, int) else count_hidden(hidden)
    try:
        masks = read_tensor(path)
    except UserError as error:
        return [str(error)]
    problems = content_problems(masks, count)
    if path.suffix == ".npy":
        problems.append("format: expected a file written by torch.save, found a NumPy array")
    if masks.is_floating_point():
        problems.append(f"dtype: expected integers such as uint8, found {masks.dtype}")
    return problems


def describe(path: Path) -> Description:
    """Describe a valid leaderboard file; errors as in :func:`load_submission`."""
    stored = read_tensor(path)
    masks = load_submission(path).numpy()
    counts = sum((np.bincount(mask.reshape(-1), minlength=NUM_CLASSES) for mask in masks), np.zeros(NUM_CLASSES, int))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    shares = {class_name(c): float(counts[c] / counts.sum()) for c in np.flatnonzero(counts)}
    return Description(tuple(stored.shape), str(stored.dtype).removeprefix("torch."), sha256, shares)


def load_truth(path: Path) -> Truth:
    """Read true masks of frame 22: a raw or packed split with masks, or a tensor file.

    Raises:
        UserError: there is no such thing, it has no masks, or the file's shape or type is wrong.
    """
    if (path / "index.json").is_file():
        split = open_split(path)
        if split.masks is None:
            raise UserError(f"{path} has no masks to score against; name a split such as val.")
        return Truth(torch.from_numpy(split.masks[:, -1].copy()), split.videos, split.problems)
    if path.is_dir():
        return raw_truth(path)
    if not path.exists():
        raise UserError(f"{path} is missing; expected a split's folder such as Dataset_Student/val, or a tensor file.")
    masks = read_tensor(path)
    if masks.dtype not in INTEGERS or masks.ndim != 3 or masks.shape[1:] != (HEIGHT, WIDTH):
        found = f"{masks.dtype} of shape {tuple(masks.shape)}"
        raise UserError(f"{path} should hold integers of shape (videos, {HEIGHT}, {WIDTH}), found {found}.")
    no_class = (masks < 0) | (masks >= NUM_CLASSES)
    return Truth(torch.where(no_class, IGNORE, masks).to(torch.uint8), None, [])


def raw_truth(folder: Path) -> Truth:
    """Read the last mask of every video of a raw split; a bad video is a row of 255.

    As in packing, frames count too, unless a folder holds nothing but its mask.
    """
    videos = video_folders(folder)
    if not any((video / "mask.npy").is_file() for video in videos.values()):
        raise UserError(f"{folder} has no video_N folders with a mask.npy to score against; name a split such as val.")

    def last_mask(video: Path) -> tuple[np.ndarray, Problem | None]:
        path = video / "mask.npy"
        try:
            mask = read_mask(path)[0][-1].copy()
            frames, _ = frame_files(video, "val")
            if frames and len(frames) < NUM_FRAMES:
                path = video
                raise BadFile(f"{len(frames)} frames instead of {NUM_FRAMES}")
            for path in frames.values():
                read_png(path)
            return mask, None
        except BadFile as error:
            return np.full((HEIGHT, WIDTH), IGNORE, np.uint8), Problem(str(path), str(error), "row kept, not scored")

    with ThreadPoolExecutor() as threads:
        masks, problems = zip(*threads.map(last_mask, videos.values()), strict=True)
    return Truth(torch.from_numpy(np.stack(masks)), list(videos), [problem for problem in problems if problem])


def count_hidden(folder: Path) -> int:
    """Return how many hidden videos there are in a raw or packed hidden folder, or in a raw or packed competition."""
    for place in (folder, folder / "hidden"):
        if (place / "index.json").is_file():
            return len(read_json(place / "index.json", f"delete {place} and pack again")["videos"])
    videos = video_folders(folder) if folder.is_dir() else {}
    return len(videos or find_competition(folder, required=("hidden",)).splits["hidden"])


def read_tensor(path: Path) -> Tensor:
    """Return the tensor that a ``.pt`` or ``.npy`` file holds, on the CPU; nothing in the file is executed.

    Raises:
        UserError: it is no file, damaged, or not a plain tensor.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; expected a file made by torch.save.")
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is unusual about a file is refused below
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no file of torch.save, or holds other objects than a tensor, which are not loaded because "
            "that could run code; write it again with torch.save(tensor, path)."
        ) from None
    except Exception as error:  # a damaged file can end in any of them
        with open(path, "rb") as file:
            begins = file.read(2)
        if begins and begins not in (b"PK", b"\x80\x02", b"\x93N"):  # zip, pickle, NumPy
            raise UserError(f"{path} is no file of torch.save; write it with torch.save(tensor, path).") from None
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is truncated or damaged ({text[:120]}); write or copy it again.") from None
    if not isinstance(stored, Tensor) or stored.layout != torch.strided:
        kind = f"a {stored.layout} tensor" if isinstance(stored, Tensor) else f"a {type(stored).__name__}"
        raise UserError(f"{path} holds {kind}; expected one plain tensor of shape (videos, {HEIGHT}, {WIDTH}).")
    return stored


def content_problems(masks: Tensor, count: int | None = None) -> list[str]:
    """Return what is wrong with the shape and the values of a prediction, expected against found."""
    problems = []
    if masks.ndim != 3 or tuple(masks.shape[1:]) != (HEIGHT, WIDTH) or count not in (None, len(masks)):
        expected = f"({count or 'videos'}, {HEIGHT}, {WIDTH})"
        problems.append(f"shape: expected {expected}, found {tuple(masks.shape)}")
    if masks.dtype not in (*INTEGERS, *FLOATS):
        return [*problems, f"dtype: expected integers such as uint8, found {masks.dtype}"]
    if masks.numel() == 0:
        return [*problems, "values: expected labels, found none"]
    if masks.is_floating_point():
        if num_bad := masks.numel() - int(masks.isfinite().sum()):
            return [*problems, f"values: expected labels, found {num_bad} that are NaN or infinite"]
        if not (masks == masks.round()).all():
            problems.append("values: expected whole numbers, found fractions")
    low, high = (float(value) for value in masks.aminmax())
    if low < 0:
        problems.append(f"values: expected 0 to {NUM_CLASSES - 1}, found {low:g} as the smallest")
    if high >= NUM_CLASSES:
        problems.append(f"values: expected 0 to {NUM_CLASSES - 1}, found {high:g} as the largest")
    return problems
