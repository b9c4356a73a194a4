"""Writes a stand-in competition: raw folders, packed arrays, or masks and tracks alone; on all cores, resumable.

A video is a pure function of (seed, video number), so an interrupted run keeps what it finished.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data_prep import pack
from data_prep.competition import FRAMES_OF_SPLIT, LABELLED, SPLITS, STANDIN
from data_prep.deadline import stop_if_time_is_up
from data_prep.device import in_order, num_cores
from data_prep.errors import UserError
from data_prep.files import finish, part_of, read_json, sole_maker, write_row, write_saved, write_text
from data_prep.scene import HEIGHT, NUM_FRAMES, WIDTH, paint_solids
from data_prep.standin.labels import imprecise
from data_prep.standin.physics import Trajectories, simulate, video_seed
from data_prep.standin.renderer import film, solids_of
from data_prep.standin.tracks import digest, read_tracks, write_tracks

FIRST_NUMBER = {"train": 0, "val": 1000, "unlabeled": 2000, "hidden": 15000}
"""First video numbers of the real splits; a split larger than the real one shifts the next."""

VIDEOS_AT_ONCE = {"cpu": 2, "cuda": 32}
"""Per process, by device, few on a CPU for its cache; a video's bytes do not depend on it."""

FAST_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
"""Grain leaves no repeated pixels to look for: half the time, no larger."""

FEW = 16
"""Up to this number of videos no worker processes are started."""


@dataclass(frozen=True)
class Settings:
    """All that decides the bytes of a stand-in competition on one machine.

    kind is ``raw``, ``packed`` or ``masks``, labels are ``exact`` or ``imprecise``. ``tracks`` identifies the files
    (see ``tracks.digest``) whose videos are filmed, "" where they are invented. version is raised whenever equal
    settings make other videos than before.
    """

    train: int
    val: int
    unlabeled: int
    hidden: int
    seed: int
    kind: str
    labels: str = "exact"
    tracks: str = ""
    version: int = 9

    def numbers(self) -> dict[str, range]:
        """Return the video numbers of every split that has videos; no number is in two splits."""
        numbers, end = {}, 0
        for split in SPLITS:
            start, count = max(FIRST_NUMBER[split], end), getattr(self, split)
            if count:
                numbers[split] = range(start, start + count)
                end = start + count
        return numbers


@dataclass(frozen=True)
class Source:
    """The trajectories in the videos of a competition: invented, or read from files.

    One file holds the videos of all splits, one split after the other; or there is one for each split, in the order of
    ``Settings.numbers``.
    """

    settings: Settings
    files: tuple[Path, ...] = ()

    def seed(self, number: int) -> int:
        return video_seed(self.settings.seed, number)

    def video(self, number: int) -> Trajectories:
        if not self.files:
            return simulate(self.seed(number))
        splits = self.settings.numbers().values()
        if len(self.files) == 1:
            return read_tracks(self.files[0])[list(chain(*splits)).index(number)]
        own = ((file, numbers) for file, numbers in zip(self.files, splits, strict=True) if number in numbers)
        file, numbers = next(own)
        return read_tracks(file)[numbers.index(number)]

    def check(self) -> None:
        """Raise a ``UserError`` if the files are not those of all videos."""
        counts = {split: len(numbers) for split, numbers in self.settings.numbers().items()}
        if len(self.files) not in (0, 1, len(counts)):
            raise UserError(
                f"--tracks: expected one file, or one for each of {', '.join(counts)}, found {len(self.files)}."
            )
        wanted = [sum(counts.values())] if len(self.files) == 1 else counts.values()
        for file, count in zip(self.files, wanted, strict=False):
            if (held := len(read_tracks(file))) < count:
                raise UserError(f"{file}: expected tracks of {count} videos, found {held}; ask for fewer.")


def make_standin(out: Path, settings: Settings, device: str = "cpu", files: tuple[Path, ...] = ()) -> int:
    """Make a stand-in competition in ``out``, or finish an interrupted one.

    ``raw`` is the real competition's layout, ``packed`` that of ``data_prep.pack``; both with the hidden videos' masks
    of frame 22 in ``hidden_truth.pt``, (N, 160, 240) uint8, and that frame itself in ``hidden_last_frames.npy``.
    ``masks`` is packed too, but gives every split ``masks.npy``, (N, 22, 160, 240) uint8, and ``tracks.npz`` (see
    ``write_tracks``) and no frames: what a flawless segmenter would see.

    Args:
        out: folder of the competition.
        settings: sizes, seed and form.
        device: where frames are rendered.
        files: of tracks (see ``write_tracks``) whose videos are filmed (see :class:`Source`), not invented.

    Returns:
        How many frames were made by this call.

    Raises:
        UserError: ``out`` holds something else, or a stand-in competition of other settings; the files hold too few
            videos, or something else.
        OSError: the disk is full; finished videos are kept.
        TimeIsUp: see ``data_prep.deadline``; finished videos are kept.
    """
    Source(settings, files).check()
    settings = replace(settings, tracks=digest(files))
    settings = claim(out, settings)
    source = Source(settings, files)
    made = 0
    all_here = settings.kind == "raw" and torch.device(device).type == "cuda"  # a GPU has one user
    with ExitStack() as stack:
        stack.enter_context(sole_maker(out))
        pool = None
        if not all_here and sum(map(len, settings.numbers().values())) > FEW:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(num_cores(), context, torch.set_num_threads, (1,))
            stack.callback(pool.shutdown, cancel_futures=True)
        for split, numbers in settings.numbers().items():
            if settings.kind == "raw":
                made += make_raw_split(out, split, numbers, source, device, pool)
            else:
                made += make_array_split(out / split, numbers, source, device, pool)
        if settings.kind != "masks" and settings.hidden and not (out / "hidden_truth.pt").is_file():
            write_truth(out, source, device, pool)
    return made


def write_truth(out: Path, source: Source, device: str, pool: ProcessPoolExecutor | None) -> None:
    """Save frame 22 of the hidden videos: ``hidden_last_frames.npy``, (N, 160, 240, 3) uint8, and then its masks,
    ``hidden_truth.pt``, (N, 160, 240) uint8 torch."""
    masks, frames = [], []
    numbers = source.settings.numbers()["hidden"]
    seeds = [source.seed(number) for number in numbers]
    videos = list((pool.map if pool else map)(source.video, numbers))
    at_once = VIDEOS_AT_ONCE[torch.device(device).type]
    for first in range(0, len(videos), at_once):
        chunk, chunk_seeds = (part[first : first + at_once] for part in (videos, seeds))
        *solids, image = solids_of(chunk)
        last = image % NUM_FRAMES == NUM_FRAMES - 1
        exact = paint_solids(*(values[last] for values in solids), image[last] // NUM_FRAMES, len(chunk))
        masks.append(labelled(exact[:, None].numpy(), chunk_seeds, source.settings.labels)[:, 0])
        frames.append(film(chunk, chunk_seeds, range(NUM_FRAMES - 1, NUM_FRAMES), device)[:, 0])
    write_saved(out / "hidden_last_frames.npy", lambda file: np.save(file, np.concatenate(frames)))
    truth = torch.from_numpy(np.concatenate(masks))
    write_saved(out / "hidden_truth.pt", lambda file: torch.save(truth, file))


def claim(out: Path, settings: Settings) -> Settings:
    """Make ``out`` the folder of these settings and of the splits that are there already, and return these together.

    Raises:
        UserError: it is something else already.
    """
    record = out / STANDIN
    wanted = asdict(settings)
    if record.is_file():
        recorded = read_json(record, f"remove {out} or choose another folder")
        if not settings.tracks:  # which videos of a file a split has depends on the other splits
            wanted |= {split: recorded.get(split) for split in SPLITS if not wanted[split]}
        added = {} if settings.tracks else {split: wanted[split] for split in SPLITS if recorded.get(split) == 0}
        same = recorded | added == wanted
        if not (same and Settings(**recorded).numbers().items() <= Settings(**wanted).numbers().items()):
            other = ", ".join(f"{key} {recorded.get(key)}" for key in wanted if recorded.get(key) != wanted[key])
            raise UserError(
                f"{out} holds a stand-in competition made with {other}; use the same, remove it or choose another."
            )
        settings = Settings(**wanted)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is no stand-in competition; choose another folder or empty this one.")
    out.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(wanted, indent=1))
    return settings


def paint_videos(videos: list[Trajectories]) -> np.ndarray:
    """Return the exact masks of V videos, (V, 22, 160, 240) uint8."""
    return paint_solids(*solids_of(videos), len(videos) * NUM_FRAMES).numpy().reshape(-1, NUM_FRAMES, HEIGHT, WIDTH)


def labelled(masks: np.ndarray, seeds: list[int], labels: str) -> np.ndarray:
    """Return the exact masks (V, T, 160, 240) of videos as ``labels`` says; see :class:`Settings`."""
    if labels == "exact":
        return masks
    return np.stack([imprecise(mask, seed) for mask, seed in zip(masks, seeds, strict=True)])


def make_videos(
    numbers: list[int], source: Source, device: str, length: int, labels: str | None = "exact"
) -> tuple[list[Trajectories], np.ndarray | None, np.ndarray | None]:
    """Return trajectories, (V, 22, 160, 240) masks if any ``labels``, and (V, length, 160, 240, 3) frames if any."""
    seeds = [source.seed(number) for number in numbers]
    videos = [source.video(number) for number in numbers]
    frames = film(videos, seeds, range(length), device) if length else None
    return videos, labelled(paint_videos(videos), seeds, labels) if labels else None, frames


def chunk_by_chunk(
    job: partial, numbers: list[int], pool: ProcessPoolExecutor | None, title: str, total: int, at_once: int
) -> Iterator[tuple]:
    """Yield (chunk, ``job(chunk)``) for every chunk of the numbers, in order; see :func:`in_order`."""
    chunks = [numbers[i : i + at_once] for i in range(0, len(numbers), at_once)]
    with tqdm(total=total, initial=total - len(numbers), desc=title, unit="video", disable=None) as bar:
        for chunk, result in zip(chunks, in_order(pool, job, chunks), strict=True):
            yield chunk, result
            bar.update(len(chunk))
            stop_if_time_is_up()


def make_raw_split(
    out: Path, split: str, numbers: range, source: Source, device: str, pool: ProcessPoolExecutor | None
) -> int:
    """Write the ``video_N`` folders of one split that are not there yet; return the number of frames written."""
    folder = out / "hidden" if split == "hidden" else out / "Dataset_Student" / split
    folder.mkdir(parents=True, exist_ok=True)
    there = set(os.listdir(folder))
    missing = [number for number in numbers if f"video_{number}" not in there]
    job = partial(write_raw_videos, folder=folder, split=split, source=source, device=device)
    at_once = VIDEOS_AT_ONCE[torch.device(device).type]
    return sum(count for _, count in chunk_by_chunk(job, missing, pool, f"making {split}", len(numbers), at_once))


def write_raw_videos(numbers: list[int], folder: Path, split: str, source: Source, device: str) -> int:
    """Write some videos as folders of PNG files, each of which appears whole; return the number of frames."""
    labels = source.settings.labels if split in LABELLED else None
    _, masks, frames = make_videos(numbers, source, device, FRAMES_OF_SPLIT[split], labels)
    for place, (number, video_frames) in enumerate(zip(numbers, frames, strict=True)):
        unfinished = folder / f".video_{number}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            for index, frame in enumerate(video_frames):
                encoded = cv2.imencode(".png", frame[..., ::-1], FAST_PNG)[1]
                (unfinished / f"image_{index}.png").write_bytes(encoded.tobytes())
            if labels:
                np.save(unfinished / "mask.npy", masks[place])
            os.replace(unfinished, folder / f"video_{number}")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return len(numbers) * FRAMES_OF_SPLIT[split]


def make_array_split(
    folder: Path, numbers: range, source: Source, device: str, pool: ProcessPoolExecutor | None
) -> int:
    """Write one split as packed arrays, of masks and tracks or more; return the number of frames (or masks) made."""
    settings = source.settings
    masks_only = settings.kind == "masks"
    if (folder / "index.json").is_file():
        return 0
    split, length = folder.name, 0 if masks_only else FRAMES_OF_SPLIT[folder.name]
    shapes = {} if masks_only else {folder / "frames.npy": (len(numbers), length, HEIGHT, WIDTH, 3)}
    if masks_only or split in LABELLED:
        shapes[folder / "masks.npy"] = (len(numbers), NUM_FRAMES, HEIGHT, WIDTH)
    origin = {"standin": asdict(settings)}
    journal = folder / "packing.jsonl"
    missing = list(numbers[len(pack.begun(shapes, journal, json.dumps(origin))) :])
    kind = torch.device(device).type
    films = length if kind == "cpu" else 0  # a GPU films in this process alone
    labels = settings.labels if folder / "masks.npy" in shapes else None
    job = partial(make_videos, source=source, device=device, length=films, labels=labels)
    tracks: dict[int, Trajectories] = {}
    if missing:
        with ExitStack() as stack:
            files = {path.name: stack.enter_context(open(part_of(path), "r+b", buffering=0)) for path in shapes}
            log = stack.enter_context(open(journal, "a", buffering=1))
            at_once, title = VIDEOS_AT_ONCE[kind], f"making {split}"
            for chunk, (videos, masks, frames) in chunk_by_chunk(job, missing, pool, title, len(numbers), at_once):
                if frames is None and length:
                    seeds = [source.seed(number) for number in chunk]
                    frames = film(videos, seeds, range(length), device)
                arrays = {"masks.npy": masks, "frames.npy": frames}
                for i, number in enumerate(chunk):
                    row = number - numbers.start
                    tracks[number] = videos[i]
                    for name, file in files.items():
                        write_row(file, row, arrays[name][i])
                    log.write("{}\n")
    for path, shape in shapes.items():
        finish(path, shape)
    if masks_only:
        write_tracks(folder / "tracks.npz", numbers, [tracks.get(n) or source.video(n) for n in numbers])
    pack.write_index(folder, numbers, [], origin)
    journal.unlink()
    return len(missing) * (length or NUM_FRAMES)
