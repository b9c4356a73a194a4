"""Scores of everything on the same videos: baselines, each member, the ensemble, and perfect foresight.

The predictions come from the very path that makes the leaderboard file.
"""

from pathlib import Path

import click
import numpy as np
import torch

from data_prep.classes import IGNORE
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from solution.arrays import fill_rows
from solution.drawing import draw
from solution.ensemble import batch_size, decode, make_clip, system_probabilities
from solution.fates import fates
from solution.metrics import Score, score
from solution.pipeline import Pipeline
from solution.predictors.baselines import BASELINES
from solution.results_table import number
from solution.segmenter import segment_in_chunks
from solution.tracks import find_tracks

FORESIGHT = "true positions of seen objects"
"""What perfect foresight would reach in a stand-in of masks only."""
TRUE_MASKS = "ensemble, from true masks"
"""What a flawless segmenter would make of the rest: what is still missing is lost to motion."""
BASELINE_VIDEOS = 64
"""Whose masks are in memory at a time."""


def evaluate(
    pipeline: Pipeline,
    split: PackedSplit,
    truth: np.ndarray,
    last_frames: np.ndarray | None,
    groups: dict[str, np.ndarray] | None = None,
) -> tuple[dict[str, Score], np.ndarray, np.ndarray]:
    """Predict a split with every member and with the ensemble, as a stage, and score them; see :func:`compare`.

    The ensemble also predicts from the true masks of frames 1–11, where there are some beside the segmenter's.

    Returns:
        The scores by method; the ensemble's masks and its probability of any object (255 is 1), (N, 160, 240) uint8.
    """
    system, seen, device = pipeline.system(), pipeline.seen(split), pipeline.device
    informed = [TRUE_MASKS] if split.masks is not None and split.frames is not None else []
    names = [*system.members, "ensemble", *informed, "presence"]

    def build(folder: Path) -> None:
        def rows(first: int, last: int) -> np.ndarray:
            clip = make_clip(split.frames, seen, slice(first, last), device)
            probabilities = system_probabilities(system.members, clip, system.config)
            masks = [system.decode_alone(name, probabilities) for name in system.members]
            masks.append(system.decode(probabilities))
            any_object = system.combine(probabilities)[:, 1:].sum(1).clamp(0, 1)
            if informed:
                frames, true = split.frames[first:last], split.masks[first:last, :CLIP_FRAMES]
                known = [np.where(true == IGNORE, own[first:last, :CLIP_FRAMES], true) for own in seen]
                masks.append(system.predict(make_clip(frames, known, slice(None), device)))
            return np.stack([*masks, (255 * any_object).round().byte().cpu().numpy()], 1)

        shape = (len(split), len(names), HEIGHT, WIDTH)
        fill_rows(folder / "methods.npy", shape, batch_size(device), rows, f"every method on {split.name}", device)

    decided_by = {"decoding": pipeline.make("decoding").key, "masks": pipeline.seen_keys(split), "methods": names}
    folder = pipeline.stage(f"methods_{split.name}", decided_by, build).folder
    masks = dict(zip(names, np.load(folder / "methods.npy", mmap_mode="r").swapaxes(0, 1), strict=True))
    presence = masks.pop("presence")
    return compare(pipeline, split, masks, truth, last_frames, groups), masks["ensemble"], presence


def compare(
    pipeline: Pipeline,
    split: PackedSplit,
    masks: dict[str, np.ndarray],
    truth: np.ndarray,
    last_frames: np.ndarray | None,
    groups: dict[str, np.ndarray] | None = None,
) -> dict[str, Score]:
    """Score a split's masks of frame 22 between the baselines and what perfect foresight would reach.

    Args:
        pipeline: has the segmenter, and whatever else reads masks off frames.
        split: of N videos.
        masks: by method, (N, 160, 240) uint8.
        truth: (N, 160, 240) uint8, 255 where nothing is scored.
        last_frames: (N, 160, 240, 3) uint8 true frames 22; None leaves perfect foresight out.
        groups: see ``solution.metrics.score``.
    """
    scores = score_baselines(pipeline.masks_of(split), truth, groups)
    scores |= {name: score(drawn, truth, groups) for name, drawn in masks.items()}
    for name, reader in ({} if last_frames is None else pipeline.readers()).items():
        scores[name] = score(segment_in_chunks(reader, last_frames, pipeline.device), truth, groups)
    return scores


def score_baselines(
    seen: np.ndarray, truth: np.ndarray, groups: dict[str, np.ndarray] | None = None
) -> dict[str, Score]:
    """Score what learns nothing on one segmenter's (N, T, 160, 240) uint8 masks, by name; see :func:`compare`."""
    chunks = [slice(first, first + BASELINE_VIDEOS) for first in range(0, len(seen), BASELINE_VIDEOS)]
    scores = {}
    for name, baseline in BASELINES.items():
        masks = [baseline(torch.from_numpy(np.array(seen[rows, :CLIP_FRAMES]))) for rows in chunks]
        scores[name] = score(torch.cat(masks), truth, groups)
    return scores


def fates_of(pipeline: Pipeline, split: PackedSplit) -> np.ndarray:
    """Return the (N, 49) int8 :func:`solution.fates.fates` of a labelled split, as a stage."""

    def build(folder: Path) -> None:
        np.save(folder / "fates.npy", fates(split.masks))

    return np.load(pipeline.stage(f"fates_{split.name}", {"data": split.content}, build).folder / "fates.npy")


def foresight(masks: np.ndarray, groups: dict[str, np.ndarray] | None = None) -> Score:
    """Score outlines drawn where the objects of frames 1–11 truly are in frame 22 of (N, 22, 160, 240) uint8 masks."""
    drawn = []
    for first in range(0, len(masks), BASELINE_VIDEOS):
        tracks = find_tracks(torch.from_numpy(np.array(masks[first : first + BASELINE_VIDEOS])))
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
