"""What needs what: segmenter → masks of every video → predictors → decoding → predictions, each stage cached on disk.

A stage's folder is named by a hash of everything that decides its content, so that whatever was made for the same
data and config is found again, by any run, and everything else is made anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from data_prep.errors import UserError, is_out_of_memory
from data_prep.files import read_json, write_text
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from data_prep.sole import sole_maker
from solution import processes
from solution.arrays import fill_rows
from solution.clips import FrameVideos, MaskVideos, with_frames
from solution.config import Config
from solution.ensemble import (
    Copies,
    Decoding,
    WithinMemory,
    decode,
    fit_decoding,
    member_probabilities,
    views_of,
    weighted,
)
from solution.machine import peak_gib, reset_peak
from solution.members import MEMBERS
from solution.predictors import Clip, Member, Predictor
from solution.segmenter import load_segmenter, segment_split, train_segmenter

NEEDED = (".json", ".npy", ".safetensors")
"""Suffixes of the files of a stage without which it is not finished; what else lies there may be deleted."""
HELD_OUT_SHARE = 0.1
HELD_OUT_LEAST = 8
CLIP_BYTES = 160 * 2**20
"""Of a GPU's memory for one clip in prediction: some twenty times the 7.5 MB of its 49 channels."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: where its files are, the hash of all that decided them, and what it took."""

    folder: Path
    key: str
    seconds: float
    peak_gib: float | None = None


class Pipeline:
    """The stages of one config on one packed competition; each method makes its stage unless it is there already.

    Args:
        config: what to train and how to combine it.
        packed: the splits.
        stages_folder: where the folders of stages lie.
        device: where networks run.

    Attributes:
        done: the stages made or found so far by name, those of copies as ``segmenter.2``.
        copies: itself and, where the config asks for them, pipelines that train the same from other seeds.
    """

    def __init__(self, config: Config, packed: dict[str, PackedSplit], stages_folder: Path, device: torch.device):
        self.config, self.packed, self.root, self.device = config, packed, stages_folder, device
        self.done: dict[str, Stage] = {}
        self.number = ""
        self.copies = [self]
        for n in range(1, config.ensemble.copies):
            alone = replace(config, seed=config.seed + n, ensemble=replace(config.ensemble, copies=1))
            copy = type(self)(alone, packed, stages_folder, device)
            copy.done, copy.number = self.done, f".{n + 1}"
            self.copies.append(copy)
        videos = len(packed.get("train", ()))
        held_out = max(HELD_OUT_LEAST, round(HELD_OUT_SHARE * videos))
        self.held_out_rows = np.arange(0, videos, max(2, videos // held_out))

    @cached_property
    def fit_rows(self) -> np.ndarray:
        """Return the (n,) rows of the labelled training videos that stages learn from.

        Raises:
            UserError: there is none beside those held out.
        """
        train = self.packed["train"]
        rows = np.setdiff1d(np.arange(len(train)), self.held_out_rows)
        if not len(rows):
            raise UserError(f"{train.masks.filename} has {len(train)} usable train videos; at least 2 are needed.")
        return rows

    def make(self, name: str) -> Stage:
        """Return a stage of ``MAKERS``; what it needs is made, or even asked for, only if it is not done."""
        return self.done.get(name + self.number) or MAKERS[name](self)

    def stage(self, name: str, decided_by: dict, build: Callable[[Path], None]) -> Stage:
        """Return the stage ``name``, building it into its folder if that is not finished.

        Args:
            name: of the stage; one name is built once per pipeline.
            decided_by: everything JSON can hold that decides the content.
            build: fills the folder; started again after an interruption, it goes on with what it finds there. Several
                processes call it at the same time.

        Raises:
            TimeIsUp: see ``data_prep.deadline``; what is finished is kept.
        """
        known_as = name + self.number
        if known_as in self.done:
            return self.done[known_as]
        key = stage_key(name, decided_by)
        folder = self.root / f"{name}-{key[:12]}"
        marker = folder / "done.json"
        with sole_maker(folder) if processes.is_first() and not marker.exists() else nullcontext():
            kept = processes.agreed(marker.exists())
            if not kept:
                spent = folder / "spent.json"
                with counted(spent, self.device):
                    try:
                        build(folder)
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                        raise UserError(
                            f"{known_as} needs more memory than {self.device} has; make its batches smaller "
                            "(--set SECTION.batch_size=N, segmenter.batch=N), finished stages are kept."
                        ) from None
                    processes.barrier()
                if processes.is_first():
                    needed = (path for path in folder.rglob("*") if path.suffix in NEEDED and path != spent)
                    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in needed}
                    record = json.loads(spent.read_text()) | {"files": sizes, "decided_by": decided_by}
                    write_text(marker, json.dumps(record, default=str, indent=1))
                    spent.unlink()
                processes.barrier()
        made = self.done[known_as] = finished(folder, key)
        click.echo(f"  {known_as}: {'kept' if kept else f'{made.seconds:.0f} s'} ({folder})")
        if not kept:  # so that every call gets on
            processes.stop_if_time_is_up()
        return made

    def segmenter(self) -> Stage:
        train = with_frames(self.packed["train"])
        rows = self.fit_rows  # too few are said before a folder is made
        return self.stage(
            "segmenter",
            {"config": asdict(self.config.segmenter), "seed": self.config.seed, "data": train.content},
            lambda folder: train_segmenter(
                self.config.segmenter,
                train.frames,
                train.masks,
                rows,
                self.held_out_rows,
                folder,
                self.device,
                self.config.seed,
            ),
        )

    def masks_of(self, split: PackedSplit) -> np.ndarray:
        """Return the segmenter's (N, T, 160, 240) uint8 masks of a split, memory-mapped."""
        return np.load(self.masks_stage(split).folder / "masks.npy", mmap_mode="r")

    def seen(self, split: PackedSplit) -> list[np.ndarray]:
        """Return :meth:`masks_of` a split for every copy."""
        return [copy.masks_of(split) for copy in self.copies]

    def seen_keys(self, split: PackedSplit) -> list[str]:
        """Return what identifies :meth:`seen`, for the keys of the stages that use them."""
        return [copy.masks_stage(split).key for copy in self.copies]

    def masks_stage(self, split: PackedSplit) -> Stage:
        if split.frames is None:  # a stand-in of masks only, which are what a flawless segmenter would see
            return Stage(Path(split.masks.filename).parent, stage_key("masks", split.content), 0.0)
        segmenter = self.make("segmenter")

        def build(folder: Path) -> None:
            network = load_segmenter(self.config.segmenter, segmenter.folder, self.device)
            segment_split(network, split.frames, folder / "masks.npy", self.device, f"masks of {split.name}")

        return self.stage(f"masks_{split.name}", {"segmenter": segmenter.key, "data": split.content}, build)

    def labelled(self, rows: np.ndarray) -> MaskVideos:
        """Return rows of the labelled training videos."""
        train = self.packed["train"]
        return MaskVideos(self.masks_of(train), train.masks)[rows]

    def mask_videos(self) -> list[MaskVideos]:
        """Return what predictors learn from: labelled videos and, with the segmenter's masks, unlabeled ones."""
        videos = [self.labelled(self.fit_rows)]
        if "unlabeled" in self.packed:
            pseudo = self.masks_of(self.packed["unlabeled"])
            videos.append(MaskVideos(pseudo, pseudo))
        return videos

    def held_out(self) -> MaskVideos:
        """Return the labelled training videos that no stage learns from; weights and thresholds are fitted on them."""
        return self.labelled(self.held_out_rows)

    def learned_from(self) -> dict:
        """Return what decides :meth:`mask_videos`, for the keys of the stages that use them."""
        splits = [split for split in ("train", "unlabeled") if split in self.packed]
        return {split: self.masks_stage(self.packed[split]).key for split in splits}

    def labelled_frames(self, rows: np.ndarray) -> FrameVideos:
        """Return rows of the labelled training videos with their true masks."""
        return FrameVideos(self.packed["train"].frames, self.packed["train"].masks, rows)

    def unlabeled_frames(self) -> FrameVideos | None:
        """Return the unlabeled videos with the segmenter's masks."""
        split = self.packed.get("unlabeled")
        return FrameVideos(split.frames, self.masks_of(split), np.arange(len(split))) if split else None

    def all_content(self) -> list[dict]:
        """Return what identifies :meth:`all_frames`, for the keys of the stages that use them."""
        return [split.content for split in self._splits()]

    def _splits(self) -> list[PackedSplit]:
        return [with_frames(self.packed[name]) for name in ("train", "unlabeled") if name in self.packed]

    def all_frames(self) -> list[FrameVideos]:
        """Return the frames that may be learned from, without masks; their content is :meth:`all_content`."""
        rows = {"train": self.fit_rows}
        return [FrameVideos(s.frames, None, rows.get(s.name, np.arange(len(s)))) for s in self._splits()]

    def decoding(self) -> Stage:
        """Fit weights and thresholds on the held-out training videos."""
        names, stages = self.config.ensemble.members, self.member_stages()

        def build(folder: Path) -> None:
            if not processes.is_first():
                return
            members = load_members(stages, self.device)
            found, scores = fit_decoding(names, self._held_out_batches(members), self.config.ensemble.decode)
            text = json.dumps(asdict(found) | {"pooled_jaccard": scores}, indent=1)
            (folder / "decoding.json").write_text(text)

        keys = {name: [stage.key for stage in copies] for name, copies in stages.items()}
        return self.stage("decoding", {"config": asdict(self.config.ensemble), "members": keys}, build)

    def member_stages(self) -> dict[str, list[Stage]]:
        """Return the last stage of every member, for every copy."""
        return {name: [copy.make(name) for copy in self.copies] for name in self.config.ensemble.members}

    def _held_out_batches(self, members: dict[str, Predictor]) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        train = self.packed["train"]
        for clip, rows in clips(train.frames, self.seen(train), self.device, self.held_out_rows):
            truth = torch.from_numpy(train.masks[rows, -1]).to(self.device)
            yield system_probabilities(members, clip, self.config), truth

    def system(self) -> System:
        """Return everything trained, ready to predict."""
        decoding = self.make("decoding")
        return System(load_members(self.member_stages(), self.device), load_decoding(decoding.folder), self.config)

    def predictions(self, split: PackedSplit) -> np.ndarray:
        """Return the (N, 160, 240) uint8 masks of frame 22 of a split's videos, memory-mapped."""
        return np.load(self.predictions_stage(split).folder / "predictions.npy", mmap_mode="r")

    def predictions_stage(self, split: PackedSplit) -> Stage:
        decoding = self.make("decoding")

        def build(folder: Path) -> None:
            system, masks, chunk = self.system(), self.seen(split), batch_size(self.device)

            def rows(first: int, last: int) -> np.ndarray:
                return system.predict(make_clip(split.frames, masks, slice(first, last), self.device))

            shape = (len(split), HEIGHT, WIDTH)
            fill_rows(folder / "predictions.npy", shape, chunk, rows, f"predicting {split.name}")

        keys = {"decoding": decoding.key, "masks": self.seen_keys(split)}
        return self.stage(f"predictions_{split.name}", keys, build)


@dataclass(frozen=True)
class System:
    """Trained members and how their probabilities become a mask."""

    members: dict[str, Predictor]
    decoding: Decoding
    config: Config

    def predict(self, clip: Clip) -> np.ndarray:
        """Return the (B, 160, 240) uint8 masks of frame 22."""
        used = {name: member for name, member in self.members.items() if self.decoding.weights[name] > 0}
        return self.decode(system_probabilities(used, clip, self.config))

    def combine(self, probabilities: dict[str, Tensor]) -> Tensor:
        """Return the ensemble's (B, 49, 160, 240) probabilities from the members'."""
        return weighted(probabilities, self.decoding.weights)

    def decode(self, probabilities: dict[str, Tensor]) -> np.ndarray:
        """Return the ensemble's (B, 160, 240) uint8 masks from the members' probabilities."""
        return decode(self.combine(probabilities), self.decoding.threshold).cpu().numpy()

    def decode_alone(self, name: str, probabilities: dict[str, Tensor]) -> np.ndarray:
        """Return the (B, 160, 240) uint8 masks of one member by itself."""
        return decode(probabilities[name], self.decoding.alone[name]).cpu().numpy()


MAKERS: dict[str, Callable[[Pipeline], Stage]] = {
    "segmenter": Pipeline.segmenter,
    **{name: make for member in MEMBERS.values() for name, make in member.stages.items()},
    "decoding": Pipeline.decoding,
}
"""What ``solution.train`` can be asked for by name, and :meth:`Pipeline.make`."""


def finished(folder: Path, key: str) -> Stage:
    """Return the finished stage in a folder, once its files are as they were.

    Raises:
        UserError: a file is missing or has another size.
    """
    marker = folder / "done.json"
    try:
        found = json.loads(marker.read_text())
        stage = Stage(folder, key, found["seconds"], found.get("peak_gib"))
    except (OSError, ValueError, KeyError):
        raise UserError(f"{marker} is missing or damaged; delete {folder} and run submit.py again.") from None
    for name, size in found.get("files", {}).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{path} is missing or was changed; delete {folder} and run submit.py again.")
    return stage


@contextmanager
def counted(path: Path, device: torch.device) -> Iterator[None]:
    """Add the seconds of what happens inside to a JSON file, finished or interrupted, and keep the largest peak."""
    earlier = read_json(path, f"delete {path.parent}") if path.exists() else {"seconds": 0.0, "peak_gib": 0.0}
    reset_peak(device)
    start = time.perf_counter()
    try:
        yield
    finally:
        if processes.is_first():
            seconds = earlier["seconds"] + time.perf_counter() - start
            write_text(path, json.dumps({"seconds": seconds, "peak_gib": max(earlier["peak_gib"], peak_gib(device))}))


def stage_key(name: str, decided_by: dict) -> str:
    """Return the hash that names a stage's folder."""
    return hashlib.sha256(json.dumps([name, decided_by], sort_keys=True, default=str).encode()).hexdigest()


def load_members(stages: dict[str, list[Stage]], device: torch.device) -> dict[str, Predictor]:
    """Return the trained predictors of member stages, of each all its copies as one."""

    def load(member: Member, copies: list[Stage]) -> Predictor:
        return WithinMemory(Copies([member.load(stage.folder, device) for stage in copies]), member.at_once)

    return {name: load(MEMBERS[name], copies) for name, copies in stages.items()}


def load_decoding(folder: Path) -> Decoding:
    """Return what the stage ``decoding`` fitted."""
    found = json.loads((folder / "decoding.json").read_text())
    return Decoding(found["weights"], found["threshold"], found["alone"])


@torch.inference_mode()
def system_probabilities(members: dict[str, Predictor], clip: Clip, config: Config) -> dict[str, Tensor]:
    """Return every member's (B, 49, 160, 240) probabilities, averaged over its views."""
    return {name: member_probabilities(m, clip, views_of(m, config.ensemble)) for name, m in members.items()}


def make_clip(
    frames: np.ndarray | None, masks: list[np.ndarray], rows: slice | np.ndarray, device: torch.device
) -> Clip:
    """Return the clip of the first 11 frames of some rows.

    Args:
        frames: (N, T, 160, 240, 3) uint8; None in a stand-in of masks only.
        masks: (N, T, 160, 240) uint8, as the segmenter of every copy sees them.
        rows: which of the N videos.
        device: of the clip's tensors.
    """

    def first(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array[rows, :CLIP_FRAMES])).to(device)

    images = None if frames is None else first(frames)
    clip, *copies = [Clip(images, first(each)) for each in masks]
    return replace(clip, copies=tuple(copies))


def batch_size(device: torch.device) -> int:
    """Return how many clips are predicted at a time, by members that can take them (``Member.at_once``).

    The filter is hundreds of thousands of small operations, however many clips it follows: a GPU is given all that fit.
    """
    return max(1, torch.cuda.mem_get_info(device)[1] // CLIP_BYTES) if device.type == "cuda" else 32


def clips(
    frames: np.ndarray | None, masks: list[np.ndarray], device: torch.device, rows: np.ndarray | None = None
) -> Iterator[tuple[Clip, np.ndarray]]:
    """Yield clips of these rows, or of all, and which rows they are; see :func:`make_clip`."""
    rows = np.arange(len(masks[0])) if rows is None else rows
    for first in range(0, len(rows), batch_size(device)):
        some = rows[first : first + batch_size(device)]
        yield make_clip(frames, masks, some, device), some
