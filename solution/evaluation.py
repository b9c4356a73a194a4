"""Scores of everything on the same videos: baselines, each member, the ensemble, and the segmenter's ceiling.

The predictions come from the very path that makes the leaderboard file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from solution.arrays import fill_rows
from solution.drawing import draw
from solution.ensemble import batch_size, clips, decode, make_clip, system_probabilities
from solution.metrics import Score, score
from solution.pipeline import Pipeline
from solution.predictors import Clip
from solution.predictors.baselines import BASELINES
from solution.results_table import number
from solution.segmenter import segment, segment_in_chunks
from solution.tracking import TRACKED_AT_ONCE
from solution.tracks import find_tracks

FORESIGHT = "true positions of seen objects"
"""What perfect foresight would reach in a stand-in of masks only."""


@dataclass(frozen=True)
class Evaluation:
    """Scores by name of the method, the baselines first, and what the ensemble predicted.

    Attributes:
        scores: of every method.
        masks: (N, 160, 240) uint8 of the ensemble.
        presence: (N, 160, 240) uint8, the ensemble's probability of any object, 255 is certain.
    """

    scores: dict[str, Score]
    masks: np.ndarray
    presence: np.ndarray


def evaluate(
    pipeline: Pipeline,
    split: PackedSplit,
    last_frames: np.ndarray | None,
    truth: np.ndarray,
    groups: dict[str, np.ndarray] | None = None,
) -> Evaluation:
    """Predict a whole split with every method and score it; the masks are a stage, which can be interrupted.

    Args:
        pipeline: everything trained.
        split: (N, T, 160, 240, 3) uint8 frames, where there are any, of which 11 are looked at.
        last_frames: (N, 160, 240, 3) uint8 true frames 22 for the ceilings; None in a stand-in of masks only.
        truth: (N, 160, 240) uint8, 255 where nothing is scored.
        groups: see ``solution.metrics.score``.
    """
    system, seen, device = pipeline.system(), pipeline.seen(split), pipeline.device
    readers = {} if last_frames is None else pipeline.readers()
    names = [*BASELINES, *system.members, "ensemble", *readers]

    def build(folder: Path) -> None:
        def rows(first: int, last: int) -> np.ndarray:
            clip = make_clip(split.frames, seen, slice(first, last), device)
            probabilities = system_probabilities(system.members, clip, system.config)
            masks = list(baseline_masks(clip).values())
            masks += [system.decode_alone(name, probabilities) for name in system.members]
            masks.append(system.decode(probabilities))
            masks += [segment(network, last_frames[first:last], device) for network in readers.values()]
            any_object = system.combine(probabilities)[:, 1:].sum(1).clamp(0, 1)
            return np.stack([*masks, (255 * any_object).round().byte().cpu().numpy()], 1)

        shape = (len(split), len(names) + 1, HEIGHT, WIDTH)
        fill_rows(folder / "methods.npy", shape, batch_size(device), rows, f"every method on {split.name}")

    decided_by = {"decoding": pipeline.make("decoding").key, "masks": pipeline.seen_keys(split)}
    folder = pipeline.stage(f"methods_{split.name}", decided_by | {"methods": [*names, "presence"]}, build).folder
    *masks, presence = np.load(folder / "methods.npy", mmap_mode="r").swapaxes(0, 1)
    drawn = dict(zip(names, masks, strict=True))
    scores = {name: score(drawn[name], truth, groups) for name in names}
    return Evaluation(scores, drawn["ensemble"], presence)


def score_baselines(
    frames: np.ndarray | None,
    seen: np.ndarray,
    truth: np.ndarray,
    device: torch.device,
    groups: dict[str, np.ndarray] | None = None,
) -> dict[str, Score]:
    """Score what learns nothing on one segmenter's (N, T, 160, 240) uint8 masks, by name; see :func:`evaluate`."""
    masks = {name: np.empty(truth.shape, np.uint8) for name in BASELINES}
    for clip, rows in clips(frames, [seen], device):
        for name, drawn in baseline_masks(clip).items():
            masks[name][rows] = drawn
    return {name: score(drawn, truth, groups) for name, drawn in masks.items()}


def ceilings(pipeline: Pipeline, frames: np.ndarray, truth: np.ndarray) -> dict[str, Score]:
    """Score what segments frames on the (N, 160, 240, 3) uint8 true frames 22: what perfect foresight would reach."""
    masks = {name: segment_in_chunks(net, frames, pipeline.device) for name, net in pipeline.readers().items()}
    return {name: score(drawn, truth) for name, drawn in masks.items()}


def baseline_masks(clip: Clip) -> dict[str, np.ndarray]:
    """Return the (B, 160, 240) uint8 masks of what learns nothing."""
    return {name: baseline.predict(clip).argmax(1).byte().cpu().numpy() for name, baseline in BASELINES.items()}


def foresight(masks: np.ndarray, groups: dict[str, np.ndarray] | None = None) -> Score:
    """Score outlines drawn where the objects of frames 1–11 truly are in frame 22 of (N, 22, 160, 240) uint8 masks."""
    drawn = []
    for first in range(0, len(masks), TRACKED_AT_ONCE):
        tracks = find_tracks(torch.from_numpy(np.array(masks[first : first + TRACKED_AT_ONCE])))
        seen = tracks.visible[:, :CLIP_FRAMES].any(1)
        last, yaw, there = tracks.position[:, -1, :, None], tracks.yaw[:, -1, :, None], tracks.visible[:, -1] & seen
        drawn.append(decode(draw(last, yaw, tracks.classes, tracks.shape, there, 1), 0.5).numpy())
    return score(np.concatenate(drawn), masks[:, -1], groups)


def print_table(scores: dict[str, Score]) -> None:
    """Print one line per method: the competition's score, the steadier mean over objects, and that of their groups."""
    first = next(iter(scores.values()))
    groups = "".join(f"{name:>10}" for name in first.by_group)
    click.echo(f"\n{'on ' + str(first.videos) + ' videos':32}{'Jaccard':>9}   object IoU     {groups}")
    for name, result in scores.items():
        groups = "".join(f"{number(value, '.3f'):>10}" for value in result.as_json()["by_group"].values())
        click.echo(f"{name:32}{result.jaccard:9.4f}   {result.object_iou:.4f} ± {result.object_iou_se:.4f}{groups}")
