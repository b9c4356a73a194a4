"""Members × test-time views → probabilities → one mask, and the fit of weights and threshold on held-out videos.

Decoding follows the metric: the expected Jaccard is largest where an object is drawn as soon as its probability
exceeds J / (1 + J), J being the Jaccard reached (Dinkelbach's method for a ratio), not where it is the most probable.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from data_prep.classes import BACKGROUND, IGNORE
from data_prep.scene import CLIP_FRAMES
from solution.arrays import Portions
from solution.config import EnsembleConfig
from solution.predictors import VIEWS, Clip, Predictor

THRESHOLDS = np.arange(0.02, 0.51, 0.02)
"""Of calibrated probabilities the best is J / (1 + J), J being the Jaccard that is reached, so at most a half (after
Lipton et al., Optimal Thresholding of Classifiers to Maximize F1 Measure, 2014; F1 is 2 J / (1 + J))."""
WEIGHT_STEPS = 4
"""Weights of an ensemble are multiples of 1 / this."""
CLIP_BYTES = 160 * 2**20
"""Of a GPU's memory for one clip in prediction: some twenty times the 7.5 MB of its 49 channels."""


@dataclass(frozen=True)
class Decoding:
    """What was fitted on held-out training videos.

    Attributes:
        weights: of every member's probabilities; they sum to 1.
        threshold: an object is drawn where its probability exceeds it; None takes the most probable class.
        alone: the threshold of each member by itself.
        pooled_jaccard: that is reached on them, by every member and by the ensemble; empty where nothing was fitted.
    """

    weights: dict[str, float]
    threshold: float | None
    alone: dict[str, float | None]
    pooled_jaccard: dict[str, float] = field(default_factory=dict)


class Copies:
    """A deep ensemble (Lakshminarayanan et al., NeurIPS 2017): predictors that were trained alike from other seeds.

    Each looks at the masks of its own segmenter.
    """

    def __init__(self, predictors: list[Predictor]):
        self.predictors, self.symmetries = predictors, predictors[0].symmetries

    def predict(self, clip: Clip) -> Tensor:
        own_clips = zip(self.predictors, (clip, *clip.copies), strict=True)
        first, *others = (predictor.predict(own) for predictor, own in own_clips)
        return sum(others, first) / len(self.predictors)


class WithinMemory:
    """A predictor that is shown ``most`` clips at a time, and fewer, for good, once memory ran out."""

    def __init__(self, predictor: Predictor, most: int):
        self.predictor, self.symmetries = predictor, predictor.symmetries
        self.portions = Portions(most)

    def predict(self, clip: Clip) -> Tensor:
        parts = self.portions.collect(lambda first, last: self.predictor.predict(clip[first:last]), 0, len(clip))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def member_probabilities(predictor: Predictor, clip: Clip, views: Collection[str]) -> Tensor:
    """Return (B, 49, 160, 240) float32, the mean of a predictor over a clip and those of the views that it learned."""
    total = predictor.predict(clip)
    used = [VIEWS[name] for name in VIEWS if name in views and name in predictor.symmetries]
    for view in used:
        total.add_(view.back(predictor.predict(view.see(clip))))
    return total.div_(1 + len(used))


def decode(probabilities: Tensor, threshold: float | None) -> Tensor:
    """Return the (B, H, W) uint8 mask of (B, 49, H, W) probabilities; see :class:`Decoding` for the threshold."""
    if threshold is None:
        return probabilities.argmax(1).to(torch.uint8)
    probability, label = probabilities[:, 1:].max(1)
    return torch.where(probability > threshold, label + 1, BACKGROUND).to(torch.uint8)


def weighted(probabilities: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Return the weighted sum of members' (B, 49, H, W) probabilities; members of weight 0 cost nothing."""
    parts = [weight * probabilities[name] for name, weight in weights.items() if weight > 0]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


@dataclass(frozen=True, eq=False)
class Fit:
    """The threshold of one mixture.

    Attributes:
        threshold: with the largest Jaccard.
        jaccard: that is reached, pooled over all object classes.
        influence: (N,) of each video on it, to first order, times N; its mean is 0.
    """

    threshold: float
    jaccard: float
    influence: np.ndarray

    def is_better(self, other: Fit) -> bool:
        """Tell whether the Jaccard is larger by more than the standard error of the difference over videos."""
        difference = self.influence - other.influence
        error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
        return self.jaccard - other.jaccard > error


class ThresholdTable:
    """Counts from which the Jaccard of every threshold follows, after one pass over the videos."""

    def __init__(self):
        self.counts: list[np.ndarray] = []
        self.objects: list[np.ndarray] = []

    def add(self, probabilities: Tensor, truth: Tensor) -> None:
        """Count (B, 49, H, W) probabilities against (B, H, W) uint8 truth; 255 is ignored."""
        probability, label = probabilities[:, 1:].max(1)
        bins = torch.bucketize(probability, torch.from_numpy(THRESHOLDS).to(probability), right=False)
        video = torch.arange(len(truth), device=truth.device)[:, None, None]
        key = 2 * ((len(THRESHOLDS) + 1) * video + bins) + (truth == label + 1)
        shape = (len(truth), len(THRESHOLDS) + 1, 2)
        counts = torch.bincount(key[truth != IGNORE], minlength=math.prod(shape))
        self.counts.append(counts.cpu().numpy().reshape(shape))
        self.objects.append(((truth != BACKGROUND) & (truth != IGNORE)).sum((1, 2)).cpu().numpy())

    def best(self) -> Fit:
        """Return the threshold with the largest Jaccard pooled over all object classes.

        By symmetry every colour and material has the same expected Jaccard; pooling them says so with far less noise
        than the mean over 48 classes of a few videos would.
        """
        kept = np.concatenate(self.counts)[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # (N, thresholds, wrong or right)
        hits = kept[:, :, 1]
        union = kept.sum(2) + np.concatenate(self.objects)[:, None] - hits
        jaccard = hits.sum(0) / np.maximum(union.sum(0), 1)
        best = int(jaccard.argmax())
        influence = (hits[:, best] - jaccard[best] * union[:, best]) / max(union[:, best].mean(), 1)
        return Fit(float(THRESHOLDS[best]), float(jaccard[best]), influence)


def fit_decoding(
    members: tuple[str, ...], batches: Iterable[tuple[dict[str, Tensor], Tensor]], method: str
) -> Decoding:
    """Choose weights and thresholds by the pooled Jaccard on held-out training videos.

    The best member alone gives way to a mixture that is better by more than chance: held-out videos are few.

    Args:
        members: names of the members.
        batches: yields (probabilities by member, (B, H, W) uint8 truth).
        method: ``fitted`` or ``argmax``; the latter gives equal weights and no threshold.
    """
    if method == "argmax":
        return Decoding({name: 1 / len(members) for name in members}, None, dict.fromkeys(members))
    mixtures = [
        tuple(part / WEIGHT_STEPS for part in parts)
        for parts in itertools.product(range(WEIGHT_STEPS + 1), repeat=len(members))
        if sum(parts) == WEIGHT_STEPS
    ]
    tables = {mixture: ThresholdTable() for mixture in mixtures}
    for probabilities, truth in batches:
        for mixture, table in tables.items():
            table.add(weighted(probabilities, dict(zip(members, mixture, strict=True))), truth)
    fits = {mixture: table.best() for mixture, table in tables.items()}
    alone = {name: tuple(float(m == name) for m in members) for name in members}
    chosen = max(fits, key=lambda mixture: fits[mixture].jaccard)
    best_alone = max(alone.values(), key=lambda mixture: fits[mixture].jaccard)
    if not fits[chosen].is_better(fits[best_alone]):
        chosen = best_alone
    return Decoding(
        dict(zip(members, chosen, strict=True)),
        fits[chosen].threshold,
        {name: fits[mixture].threshold for name, mixture in alone.items()},
        {name: fits[mixture].jaccard for name, mixture in (alone | {"ensemble": chosen}).items()},
    )


@dataclass(frozen=True)
class System:
    """Trained members and how their probabilities become a mask."""

    members: dict[str, Predictor]
    decoding: Decoding
    config: EnsembleConfig

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


@torch.inference_mode()
def system_probabilities(members: dict[str, Predictor], clip: Clip, config: EnsembleConfig) -> dict[str, Tensor]:
    """Return every member's (B, 49, 160, 240) probabilities, averaged over its views."""
    return {name: member_probabilities(m, clip, config.views) for name, m in members.items()}


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
    clip, *copies = [Clip(images, first(of_copy)) for of_copy in masks]
    return replace(clip, copies=tuple(copies))


def batch_size(device: torch.device) -> int:
    """Return how many clips are predicted at a time, by members that can take them (``Member.at_once``).

    The filter is hundreds of thousands of small operations, however many clips it follows: a GPU is given all that fit.
    """
    return max(1, torch.cuda.mem_get_info(device)[1] // CLIP_BYTES) if device.type == "cuda" else 32
