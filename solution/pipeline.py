"""From packed videos to masks of frame 22, stage by stage in the order in which ``submit.py`` makes them.

A stage names what it is made from, and that and nothing else decides its key; how it is kept is told in ``stages.py``,
what happens in it in the file that is called there. A new predictor is its file in ``predictors``, which ends with its
``MEMBER``, and its name in ``config.MEMBERS``; a method of :class:`Pipeline` only if it is trained in several stages.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.competition import FRAMES_OF_SPLIT, SPLITS
from data_prep.errors import UserError
from data_prep.files import write_bytes
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from solution import processes
from solution.arrays import fill_rows
from solution.checkpoints import WEIGHTS
from solution.clips import FrameVideos, MaskVideos, TrainingVideos, with_frames
from solution.config import MEMBERS as NAMES
from solution.config import Config, FramesConfig, only, override, without
from solution.edges import load_edges, track, train_edges
from solution.ensemble import (
    Copies,
    Decoding,
    System,
    WithinMemory,
    batch_size,
    fit_decoding,
    make_clip,
    system_probabilities,
)
from solution.predictors import Member, Predictor
from solution.predictors.frames import train_frames, train_simvp
from solution.predictors.jepa import SIZES, load_encoder, train_encoder, train_generator, train_jepa
from solution.predictors.objects import EDGES, FITTED_ON, train_objects
from solution.presets import PRESETS
from solution.segmenter import build_segmenter, load_segmenter, segment_split, train_segmenter
from solution.stages import Stage, Stages, stage_key
from solution.tracking import FIELDS, find_all, load_tracks
from solution.tracks import Tracks, find_tracks

HELD_OUT_SHARE = 0.1
HELD_OUT_LEAST = 8
CEILING = "U-Net on the true frame 22"


MEMBERS = {name: import_module(f"solution.predictors.{name}").MEMBER for name in NAMES}
"""By name, what is known of each member."""


def configured(preset: str, settings: Iterable[str]) -> Config:
    """Return a preset with ``section.key=value`` settings applied.

    Raises:
        UserError: a setting is not one, or networks of such a kind cannot be built.
    """
    config = override(PRESETS[preset], settings)
    check_possible(config, ", ".join(settings) or preset)
    return config


def check_possible(config: Config, label: str) -> None:
    """Build what can be built in no time, so that an impossible value is refused before hours of work.

    Raises:
        UserError: names the ``label``.
    """
    members = config.ensemble.members
    if set(members) - set(MEMBERS) or len(set(members)) < len(members):
        known = ", ".join(MEMBERS)
        raise UserError(f"{label}: expected one or more different members of {known}, found {', '.join(members)}.")
    failed = None
    for device in ("meta", "cpu"):  # some encoders look at values while they are built
        try:
            with torch.device(device):
                build_segmenter(config.segmenter)
                for member in members:
                    MEMBERS[member].networks(config)
            return
        except (KeyError, ValueError, RuntimeError, AssertionError) as error:
            failed = error
    text = str(failed.args[0] if failed.args else failed).splitlines()[0]
    raise UserError(f"{label}: its networks cannot be built: {text[:100].rstrip('.')}.")


def needed_splits(config: Config) -> tuple[str, ...]:
    """Return the splits from which a config's members learn or on which they are scored."""
    unlabeled = any(MEMBERS[name].reads_unlabeled(config) for name in config.ensemble.members)
    return tuple(split for split in SPLITS if split != "unlabeled" or unlabeled)


class Pipeline(Stages):
    """The stages of one config on one packed competition; each method makes its stage unless it is there already.

    Args:
        config: what to train and how to combine it.
        packed: the splits.
        stages_folder: where the folders of stages lie.
        device: where networks run.

    Attributes:
        copies: itself and, where the config asks for them, pipelines that train the same from other seeds.
    """

    def __init__(self, config: Config, packed: dict[str, PackedSplit], stages_folder: Path, device: torch.device):
        super().__init__(stages_folder, device)
        self.config, self.packed = config, packed
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

    # Frames become masks.

    def segmenter(self) -> Stage:
        """Train the U-Net on the labelled frames."""
        config, train, seed = self.config.segmenter, with_frames(self.packed["train"]), self.config.seed
        rows = self.fit_rows  # too few are said before a folder is made

        def build(folder: Path) -> None:
            train_segmenter(config, train.frames, train.masks, rows, self.held_out_rows, folder, self.device, seed)

        return self.stage("segmenter", {"config": asdict(config), "seed": seed, "data": train.content}, build)

    def segmented(self, split: PackedSplit, whole: bool = False) -> Stage:
        """Segment frames 1–11 of a split once, or its ``whole`` videos; every later stage reads these masks.

        Those of frames 1–11 are the same in both.
        """
        if split.frames is None:  # a stand-in of masks only, which are what a flawless segmenter would see
            return Stage(Path(split.masks.filename).parent, stage_key("masks", split.content), 0.0)
        segmenter = self.make("segmenter")
        # Where a member needs whole videos, all read those.
        whole |= split.name == "train" and any(MEMBERS[name].train for name in self.config.ensemble.members)
        length = FRAMES_OF_SPLIT[split.name] if whole else CLIP_FRAMES

        def build(folder: Path) -> None:
            network = load_segmenter(self.config.segmenter, segmenter.folder, self.device)
            frames = split.frames[:, :length]
            segment_split(network, frames, folder / "masks.npy", self.device, f"masks of {split.name}")

        decided_by = {"segmenter": segmenter.key, "data": split.content, "frames": length}
        return self.stage(f"{'whole_' if whole else ''}masks_{split.name}", decided_by, build)

    def masks_of(self, split: PackedSplit, whole: bool = False) -> np.ndarray:
        """Return the segmenter's (N, T, 160, 240) uint8 masks of a split, memory-mapped; T is at least 11."""
        return np.load(self.segmented(split, whole).folder / "masks.npy", mmap_mode="r")

    def segmenter_key(self) -> str | None:
        """Return what, with a split's content, identifies its masks; None in a stand-in of masks only."""
        return None if self.packed["train"].frames is None else self.make("segmenter").key

    # The member objects: masks and frames become places, places become motion.

    def mask_tracks(self) -> Stage:
        """Find where the labelled videos' masks say that objects are in frames 1–11."""
        train, rows = self.packed["train"], self.fit_rows

        def find(videos: np.ndarray) -> Tracks:
            return find_tracks(torch.from_numpy(train.masks[videos, :CLIP_FRAMES]).to(self.device))

        def build(folder: Path) -> None:
            find_all(folder, rows, find, self.device)

        decided_by = {"data": train.content, "frames": CLIP_FRAMES, "fields": FIELDS}
        return self.stage("mask_tracks", decided_by, build)

    def edges(self) -> Stage:
        """Train the network that reads places off frames 1–11, with the masks' places as its truth."""
        config, train, seed = self.config.edges, with_frames(self.packed["train"]), self.config.seed
        if not config.steps:
            raise UserError("edges.steps leaves nothing to train; there is no such stage.")
        truth = self.make("mask_tracks")
        self.segmented(train)

        def build(folder: Path) -> None:
            true, seen = load_tracks(truth.folder), self.masks_of(train)
            train_edges(config, true, train.frames, seen, self.fit_rows, folder, self.device, seed)

        decided_by = {"config": asdict(config), "truth": truth.key, "segmenter": self.segmenter_key(), "seed": seed}
        return self.stage("edges", decided_by, build)

    def needed_edges(self) -> Stage | None:
        """Return the stage ``edges`` if objects are to be looked for in frames and there are any."""
        looks = self.config.edges.steps and self.packed["train"].frames is not None
        return self.make("edges") if looks else None

    def tracks(self) -> Stage:
        """Find the tracks that objects learn from, all as the frames show them.

        Of frames 1–11 they are those of the segmenter's masks, of later ones those of the labels.
        """
        edges, train = self.needed_edges(), self.packed["train"]
        self.segmented(train)
        rows = self.fit_rows[:FITTED_ON]
        decided_by = {"data": train.content, "segmenter": self.segmenter_key(), "videos": len(rows)}

        def build(folder: Path) -> None:
            network = edges and load_edges(edges.folder / WEIGHTS, self.device)
            seen = self.masks_of(train)

            def find(videos: np.ndarray) -> Tracks:
                masks = np.concatenate((seen[videos, :CLIP_FRAMES], train.masks[videos, CLIP_FRAMES:]), 1)
                frames = None if train.frames is None else torch.from_numpy(train.frames[videos])
                return track(network, torch.from_numpy(masks).to(self.device), frames)

            find_all(folder, rows, find, self.device)

        return self.stage("tracks", decided_by | {"edges": edges and edges.key, "fields": FIELDS}, build)

    def objects(self) -> Stage:
        """Fit the simulator's constants to the tracks."""
        tracks, edges, config = self.make("tracks"), self.needed_edges(), self.config.objects

        def build(folder: Path) -> None:
            if not processes.is_first():
                return
            train_objects(config, load_tracks(tracks.folder), folder)
            if edges:
                write_bytes(folder / EDGES, (edges.folder / WEIGHTS).read_bytes())

        return self.stage("objects", {"tracks": tracks.key, "config": asdict(config)}, build)

    # The other members learn from masks or frames as they are.

    def member(self, name: str) -> Stage:
        """Train a member whose file says how."""
        member, config, seed = MEMBERS[name], self.config, self.config.seed

        def build(folder: Path) -> None:
            member.train(config, self.training_videos(), folder, self.device, seed)

        return self.stage(name, {"config": member.used(config), "seed": seed} | self.learned_from(), build)

    def simvp(self) -> Stage:
        """Train what draws the frames to come; masks say what of a video is put into another, or only score."""
        segmenter, config, seed = self.make("segmenter"), self.config.frames, self.config.seed
        unlabeled = "unlabeled" in self.packed and MEMBERS["frames"].reads_unlabeled(self.config)

        def build(folder: Path) -> None:
            network = load_segmenter(self.config.segmenter, segmenter.folder, self.device)
            videos = self.all_frames()
            if not config.plain:
                others = [self.unlabeled_frames()] if unlabeled else []
                videos = [self.labelled_frames(self.fit_rows, seen=True), *others]
            held_out = self.labelled_frames(self.held_out_rows, not config.plain)
            train_simvp(config, network, videos, held_out, folder, self.device, seed)

        data = {"data": self.all_content()} if config.plain else self.learned_from(whole=False, unlabeled=unlabeled)
        return self.stage("simvp", {"config": used_by_simvp(config), "seed": seed} | data, build)

    def frames(self) -> Stage:
        """Tune what draws frames and the U-Net that reads them."""
        simvp, segmenter = self.make("simvp"), self.make("segmenter")
        config, seed = self.config.frames, self.config.seed
        unlabeled = self.packed.get("unlabeled") if "pseudo" in config.tuned else None

        def build(folder: Path) -> None:
            train_frames(
                config,
                self.config.segmenter,
                load_segmenter(self.config.segmenter, segmenter.folder, self.device),
                simvp.folder,
                self.labelled_frames(self.fit_rows, not config.plain),
                self.unlabeled_frames() if unlabeled else None,
                self.labelled_frames(self.held_out_rows, not config.plain),
                folder,
                self.device,
                seed,
            )

        decided_by = {"config": used_in_tuning(config), "simvp": simvp.key, "segmenter": segmenter.key, "seed": seed}
        if unlabeled:
            decided_by["pseudo"] = self.segmented(unlabeled, whole=True).key
        return self.stage("frames", decided_by, build)

    def jepa_encoder(self) -> Stage:
        """Train I-JEPA on frames alone."""
        config, seed = SIZES[self.config.jepa.size].encoder, self.config.seed

        def build(folder: Path) -> None:
            held_out = self.labelled_frames(self.held_out_rows)
            train_encoder(config, self.all_frames(), held_out, folder, self.device, seed)

        decided_by = {"config": asdict(config), "data": self.all_content(), "seed": seed}
        return self.stage("jepa_encoder", decided_by, build)

    def jepa_generator(self) -> Stage:
        """Train the ViViT that draws frames by the encoder's features."""
        encoder, segmenter = self.make("jepa_encoder"), self.make("segmenter")
        config, seed = SIZES[self.config.jepa.size], self.config.seed

        def build(folder: Path) -> None:
            train_generator(
                config.generator,
                load_encoder(config.encoder, encoder.folder, self.device),
                load_segmenter(self.config.segmenter, segmenter.folder, self.device),
                self.all_frames(),
                self.labelled_frames(self.held_out_rows),
                folder,
                self.device,
                seed,
            )

        decided_by = {"config": asdict(config.generator), "encoder": encoder.key, "seed": seed}
        return self.stage("jepa_generator", decided_by, build)

    def jepa(self) -> Stage:
        """Train the decoder that reads masks off what is drawn."""
        encoder, generator = self.make("jepa_encoder"), self.make("jepa_generator")
        config, seed = SIZES[self.config.jepa.size], self.config.seed
        unlabeled = self.packed.get("unlabeled") if self.config.jepa.pseudo else None

        def build(folder: Path) -> None:
            train_jepa(
                config,
                encoder.folder,
                generator.folder,
                self.labelled_frames(self.fit_rows),
                self.unlabeled_frames() if unlabeled else None,
                self.labelled_frames(self.held_out_rows),
                folder,
                self.device,
                seed,
            )

        decided_by = {"config": asdict(config.decoder), "generator": generator.key, "seed": seed}
        if unlabeled:
            decided_by["pseudo"] = self.segmented(unlabeled, whole=True).key
        return self.stage("jepa", decided_by, build)

    # Members become one prediction.

    def decoding(self) -> Stage:
        """Fit weights and thresholds on the held-out training videos."""
        names, stages = self.config.ensemble.members, self.member_stages()

        def build(folder: Path) -> None:
            if not processes.is_first():
                return
            members = load_members(stages, self.device)
            fitted = fit_decoding(names, self._held_out_batches(members), self.config.ensemble.decode)
            (folder / "decoding.json").write_text(json.dumps(asdict(fitted), indent=1))

        keys = {name: [stage.key for stage in copies] for name, copies in stages.items()}
        return self.stage("decoding", {"config": without(self.config.ensemble, "copies"), "members": keys}, build)

    def member_stages(self) -> dict[str, list[Stage]]:
        """Return the last stage of every member, for every copy."""
        return {name: [copy.make(name) for copy in self.copies] for name in self.config.ensemble.members}

    def _held_out_batches(self, members: dict[str, Predictor]) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        train, chunk = self.packed["train"], batch_size(self.device)
        for first in range(0, len(self.held_out_rows), chunk):
            rows = self.held_out_rows[first : first + chunk]
            clip = make_clip(train.frames, self.seen(train), rows, self.device)
            truth = torch.from_numpy(train.masks[rows, -1]).to(self.device)
            yield system_probabilities(members, clip, self.config.ensemble), truth

    def system(self) -> System:
        """Return everything trained, ready to predict."""
        fitted = (self.make("decoding").folder / "decoding.json").read_text()
        members = load_members(self.member_stages(), self.device)
        return System(members, Decoding(**json.loads(fitted)), self.config.ensemble)

    def predicted(self, split: PackedSplit) -> Stage:
        """Predict frame 22 of every video of a split."""
        decoding = self.make("decoding")

        def build(folder: Path) -> None:
            system, masks, chunk = self.system(), self.seen(split), batch_size(self.device)

            def rows(first: int, last: int) -> np.ndarray:
                return system.predict(make_clip(split.frames, masks, slice(first, last), self.device))

            shape = (len(split), HEIGHT, WIDTH)
            fill_rows(folder / "predictions.npy", shape, chunk, rows, f"predicting {split.name}", self.device)

        keys = {"decoding": decoding.key, "masks": self.seen_keys(split)}
        return self.stage(f"predictions_{split.name}", keys, build)

    def predictions(self, split: PackedSplit) -> np.ndarray:
        """Return the (N, 160, 240) uint8 masks of frame 22 of a split's videos, memory-mapped."""
        return np.load(self.predicted(split).folder / "predictions.npy", mmap_mode="r")

    def readers(self) -> dict[str, nn.Module]:
        """Return what reads masks off frames, by the name of what it reaches with perfect foresight."""
        segmenter = self.make("segmenter").folder
        readers = {CEILING: load_segmenter(self.config.segmenter, segmenter, self.device)}
        for member in self.config.ensemble.members:
            for name, load in (MEMBERS[member].readers or {}).items():
                readers[name] = load(self.make(member).folder, self.device)
        return readers

    # What stages are made from.

    def seen(self, split: PackedSplit) -> list[np.ndarray]:
        """Return :meth:`masks_of` a split for every copy."""
        return [copy.masks_of(split) for copy in self.copies]

    def seen_keys(self, split: PackedSplit) -> list[str]:
        """Return what identifies :meth:`seen`, for the keys of the stages that use them."""
        return [copy.segmented(split).key for copy in self.copies]

    def labelled(self, rows: np.ndarray) -> MaskVideos:
        """Return rows of the labelled training videos."""
        train = self.packed["train"]
        return MaskVideos(self.masks_of(train, whole=True), train.masks)[rows]

    def mask_videos(self) -> list[MaskVideos]:
        """Return what predictors learn from: labelled videos and, with the segmenter's masks, unlabeled ones."""
        videos = [self.labelled(self.fit_rows)]
        if "unlabeled" in self.packed:
            pseudo = self.masks_of(self.packed["unlabeled"], whole=True)
            videos.append(MaskVideos(pseudo, pseudo))
        return videos

    def training_videos(self) -> TrainingVideos:
        """Return :meth:`mask_videos` and the same with frames, and those that no stage learns from."""
        frames, held_out_frames = [], None
        if self.packed["train"].frames is not None:
            unlabeled = [self.unlabeled_frames()] if "unlabeled" in self.packed else []
            frames = [self.labelled_frames(self.fit_rows), *unlabeled]
            held_out_frames = self.labelled_frames(self.held_out_rows)
        return TrainingVideos(self.mask_videos(), frames, self.labelled(self.held_out_rows), held_out_frames)

    def learned_from(self, whole: bool = True, unlabeled: bool = True) -> dict:
        """Segment what predictors learn from; return what decides these masks, for the keys of stages that use them.

        Args:
            whole: train's whole videos, not only their frames 1–11; unlabeled ones always are.
            unlabeled: whether they are among them, where there are any.
        """
        splits = [self.packed[name] for name in ("train", "unlabeled")[: 1 + unlabeled] if name in self.packed]
        for split in splits:
            self.segmented(split, whole or split.name == "unlabeled")
        return {split.name: split.content for split in splits} | {"segmenter": self.segmenter_key()}

    def labelled_frames(self, rows: np.ndarray, seen: bool = False) -> FrameVideos:
        """Return rows of the labelled training videos with their true masks, and what the segmenter sees if wanted."""
        train = self.packed["train"]
        return FrameVideos(train.frames, train.masks, rows, self.masks_of(train) if seen else None)

    def unlabeled_frames(self) -> FrameVideos:
        """Return the unlabeled videos with the segmenter's masks."""
        split = self.packed["unlabeled"]
        return FrameVideos(split.frames, self.masks_of(split, whole=True), np.arange(len(split)))

    def all_content(self) -> list[dict]:
        """Return what identifies :meth:`all_frames`, for the keys of the stages that use them."""
        return [split.content for split in self._splits()]

    def _splits(self) -> list[PackedSplit]:
        return [with_frames(self.packed[name]) for name in ("train", "unlabeled") if name in self.packed]

    def all_frames(self) -> list[FrameVideos]:
        """Return the frames that may be learned from, without masks; their content is :meth:`all_content`."""
        rows = {"train": self.fit_rows}
        return [FrameVideos(s.frames, None, rows.get(s.name, np.arange(len(s)))) for s in self._splits()]


MAKERS: dict[str, Callable[[Pipeline], Stage]] = {
    name: getattr(Pipeline, name)
    for name in (
        "segmenter",
        "mask_tracks",
        "edges",
        "tracks",
        "objects",
        "simvp",
        "frames",
        "jepa_encoder",
        "jepa_generator",
        "jepa",
        "decoding",
    )
} | {name: partial(Pipeline.member, name=name) for name, member in MEMBERS.items() if member.train}
"""What ``solution.train`` can be asked for by name, and :meth:`Pipeline.make`."""


def load_members(stages: dict[str, list[Stage]], device: torch.device) -> dict[str, Predictor]:
    """Return the trained predictors of member stages, of each all its copies as one."""

    def load(member: Member, copies: list[Stage]) -> Predictor:
        return WithinMemory(Copies([member.load(stage.folder, device) for stage in copies]), member.at_once)

    return {name: load(MEMBERS[name], copies) for name, copies in stages.items()}


# What of a section a stage uses, which decides its key.


def used_by_simvp(config: FramesConfig) -> dict:
    used = without(config, "tuned", "tuning_steps", "tuning_rate")
    return used | ({"size": config.size[::2]} if config.network == "convlstm" else {})


def used_in_tuning(config: FramesConfig) -> dict:
    return only(config, "tuned", "tuning_steps", "tuning_rate") if config.tuned else {}
