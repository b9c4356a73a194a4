"""Scores of everything on the same videos: baselines, each member, the ensemble, and the segmenter's ceiling.

The predictions come from the very path that makes the leaderboard file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data_prep.classes import IGNORE
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from solution.arrays import fill_rows
from solution.drawing import draw
from solution.ensemble import System, batch_size, clips, decode, make_clip, system_probabilities
from solution.forecast import Forecast
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
RELIABILITY_BINS = 10
LEAST_PROBABILITY = 0.01
"""Below it nearly everything is floor far from any object, which would drown the rest."""


@dataclass(frozen=True)
class Evaluation:
    """Scores by name of the method, worst first as a reader expects them, and the ensemble's masks."""

    scores: dict[str, Score]
    masks: np.ndarray
    """(N, 160, 240) uint8 masks of the ensemble."""
    presence: np.ndarray
    """(N, 160, 240) uint8: the ensemble's probability of any object, 255 is certain."""
    reliability: Reliability


class Reliability:
    """How often a (pixel, object class) pair was true, by the probability that was predicted for it.

    Attributes:
        pairs, predicted, true: (10,) float64 sums over pairs of each tenth: how many, their probabilities, the true.
    """

    def __init__(self):
        self.pairs, self.predicted, self.true = np.zeros((3, RELIABILITY_BINS))

    def add(self, probabilities: Tensor, truth: Tensor) -> None:
        """Count (B, 49, H, W) probabilities against (B, H, W) uint8 truth; 255 is ignored."""
        objects = torch.where((truth != IGNORE)[:, None], probabilities, 0)[:, 1:]
        own = objects.gather(1, (truth.long() - 1).clamp(0, objects.shape[1] - 1)[:, None])[:, 0]
        own = own[(truth > 0) & (truth != IGNORE) & (own > LEAST_PROBABILITY)]
        likely = objects[objects > LEAST_PROBABILITY]
        sums = (likely, None, self.pairs), (likely, likely, self.predicted), (own, None, self.true)
        for values, weights, total in sums:
            bins = (values * RELIABILITY_BINS).long().clamp_max(RELIABILITY_BINS - 1)
            total += torch.bincount(bins, weights, RELIABILITY_BINS).double().cpu().numpy()


def evaluate(
    system: System,
    frames: np.ndarray | None,
    seen: list[np.ndarray],
    truth: np.ndarray,
    device: torch.device,
    groups: dict[str, np.ndarray] | None = None,
) -> Evaluation:
    """Predict frame 22 of every video with every method and score it.

    Args:
        system: the trained members and their decoding.
        frames: (N, T, 160, 240, 3) uint8, where there are any; only the first 11 are looked at.
        seen: (N, T, 160, 240) uint8, the masks of them by the segmenter of every copy.
        truth: (N, 160, 240) uint8, 255 where nothing is scored.
        device: where networks run.
        groups: see ``solution.metrics.score``.
    """
    methods = methods_of(system)
    masks = {name: np.empty(truth.shape, np.uint8) for name in methods}
    presence = np.empty(truth.shape, np.uint8)
    reliability = Reliability()
    with tqdm(total=len(truth), desc="scoring", unit="video", disable=None, leave=False) as bar:
        for clip, rows in clips(frames, seen, device):
            probabilities = system_probabilities(system.members, clip, system.config)
            for name, drawn in method_masks(system, clip, probabilities).items():
                masks[name][rows] = drawn
            true = torch.from_numpy(np.ascontiguousarray(truth[rows])).to(device)
            combined = system.combine(probabilities)
            presence[rows] = (255 * combined[:, 1:].sum(1).clamp(0, 1)).round().byte().cpu().numpy()
            reliability.add(combined, true)
            bar.update(len(clip))
    scores = {name: score(masks[name], truth, groups) for name in methods}
    return Evaluation(scores, masks["ensemble"], presence, reliability)


def score_baselines(
    frames: np.ndarray | None,
    seen: np.ndarray,
    truth: np.ndarray,
    device: torch.device,
    groups: dict[str, np.ndarray] | None = None,
) -> dict[str, Score]:
    """Score what learns nothing on one segmenter's masks, by name; see :func:`evaluate` for the arguments."""
    masks = {name: np.empty(truth.shape, np.uint8) for name in BASELINES}
    for clip, rows in clips(frames, [seen], device):
        for name, drawn in baseline_masks(clip).items():
            masks[name][rows] = drawn
    return {name: score(drawn, truth, groups) for name, drawn in masks.items()}


def ceilings(
    pipeline: Pipeline, frames: np.ndarray, truth: np.ndarray, groups: dict[str, np.ndarray] | None = None
) -> dict[str, Score]:
    """Score what segments frames on the (N, 160, 240, 3) uint8 true frames 22: what perfect foresight would reach."""
    readers = pipeline.readers().items()
    return {name: score(segment_in_chunks(s, frames, pipeline.device), truth, groups) for name, s in readers}


def methods_of(system: System) -> list[str]:
    """Return the names of what :func:`method_masks` compares."""
    return [*BASELINES, *system.members, "ensemble"]


def method_masks(system: System, clip: Clip, probabilities: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the (B, 160, 240) uint8 masks of every baseline, every member by itself, and the ensemble."""
    members = {name: system.decode_alone(name, probabilities) for name in system.members}
    return baseline_masks(clip) | members | {"ensemble": system.decode(probabilities)}


def baseline_masks(clip: Clip) -> dict[str, np.ndarray]:
    """Return the (B, 160, 240) uint8 masks of what learns nothing."""
    return {name: baseline.predict(clip).argmax(1).byte().cpu().numpy() for name, baseline in BASELINES.items()}


def score_split(pipeline: Pipeline, split: PackedSplit, last_frames: np.ndarray, truth: np.ndarray) -> dict[str, Score]:
    """Score every method and the ceilings on a whole split; their masks are a stage, which can be interrupted.

    Args:
        pipeline: everything trained.
        split: (N, T, 160, 240, 3) uint8 frames, of which 11 are looked at.
        last_frames: (N, 160, 240, 3) uint8 true frames 22.
        truth: (N, 160, 240) uint8, 255 where nothing is scored.
    """
    system, seen, readers = pipeline.system(), pipeline.seen(split), pipeline.readers()
    names = [*methods_of(system), *readers]

    def build(folder: Path) -> None:
        def rows(first: int, last: int) -> np.ndarray:
            clip = make_clip(split.frames, seen, slice(first, last), pipeline.device)
            masks = method_masks(system, clip, system_probabilities(system.members, clip, system.config))
            best = [segment(network, last_frames[first:last], pipeline.device) for network in readers.values()]
            return np.stack([*masks.values(), *best], 1)

        shape = (len(split), len(names), HEIGHT, WIDTH)
        fill_rows(folder / "methods.npy", shape, batch_size(pipeline.device), rows, f"every method on {split.name}")

    keys = {"decoding": pipeline.make("decoding").key, "masks": pipeline.seen_keys(split), "methods": names}
    folder = pipeline.stage(f"methods_{split.name}", keys, build).folder
    masks = np.load(folder / "methods.npy", mmap_mode="r")
    return {name: score(np.ascontiguousarray(masks[:, i]), truth) for i, name in enumerate(names)}


def foresight(masks: np.ndarray, groups: dict[str, np.ndarray] | None = None) -> Score:
    """Score outlines drawn where the objects of frames 1–11 truly are in frame 22 of (N, 22, 160, 240) uint8 masks."""
    drawn = []
    for first in range(0, len(masks), TRACKED_AT_ONCE):
        tracks = find_tracks(torch.from_numpy(np.array(masks[first : first + TRACKED_AT_ONCE])))
        seen = tracks.visible[:, :CLIP_FRAMES].any(1)
        there = torch.where(seen & tracks.visible[:, -1], 20.0, -20.0)
        turn = torch.stack(((4 * tracks.yaw[:, -1]).cos(), (4 * tracks.yaw[:, -1]).sin()), -1)[:, :, None]
        place = tracks.position[:, -1, :, None, None]
        certain = torch.full_like(place[..., 0], 1e-4)
        forecast = Forecast(torch.zeros_like(place[..., 0, 0]), place, certain, turn, there)
        drawn.append(decode(draw(forecast, tracks.classes, tracks.shape, seen, 1), 0.5).numpy())
    return score(np.concatenate(drawn), masks[:, -1], groups)


def print_table(scores: dict[str, Score]) -> None:
    """Print one line per method: the competition's score, the steadier mean over objects, and that of their groups."""
    first = next(iter(scores.values()))
    groups = "".join(f"{name:>10}" for name in first.by_group)
    click.echo(f"\n{'on ' + str(first.videos) + ' videos':32}{'Jaccard':>9}   object IoU     {groups}")
    for name, result in scores.items():
        groups = "".join(f"{number(value, '.3f'):>10}" for value in result.as_json()["by_group"].values())
        click.echo(f"{name:32}{result.jaccard:9.4f}   {result.object_iou:.4f} ± {result.object_iou_se:.4f}{groups}")
