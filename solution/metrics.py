"""The competition's score and the numbers beside it, from one confusion matrix per video.

Nothing here reads a file.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np
from torch import Tensor

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES, class_name


@dataclass(frozen=True)
class Score:
    """What ``validate.py`` prints about one prediction.

    Attributes:
        jaccard: the competition's score.
        object_iou: mean IoU over all (video, object) pairs in the truth, a much steadier number on few videos.
        object_iou_se: its standard error, pairs taken as independent.
        objects: the number of these pairs.
        per_class: IoU by class name, of the classes that are in the prediction or the truth.
        videos: how many videos were scored.
        videos_left_out: how many were not, because no pixel of their truth is a class.
        ignored: share of the scored videos' pixels whose truth is no class.
        by_group: mean IoU of some of these pairs, by the name of the group; nan where it has none.
    """

    jaccard: float
    object_iou: float
    object_iou_se: float
    objects: int
    per_class: dict[str, float]
    videos: int
    videos_left_out: int
    ignored: float
    by_group: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict:
        """Return the fields as JSON values; what is undefined is None."""
        undefined = {name: None for name, value in vars(self).items() if isinstance(value, float) and math.isnan(value)}
        groups = {name: None if math.isnan(value) else value for name, value in self.by_group.items()}
        return asdict(self) | undefined | {"by_group": groups}


def score(
    prediction: np.ndarray | Tensor, truth: np.ndarray | Tensor, groups: dict[str, np.ndarray] | None = None
) -> Score:
    """Score label masks; see :func:`video_confusions` for the arguments.

    ``groups`` are (N, 49) bool by name: which objects of which videos belong to each.
    """
    videos = video_confusions(prediction, truth)
    confusion = videos.sum(0, dtype=np.int64)
    objects = object_table(videos)
    mean, error = mean_and_error(objects)
    num_scored = int(videos.any((1, 2)).sum())
    pixels = num_scored * math.prod(truth.shape[1:])
    ious = per_class_iou(confusion)
    return Score(
        jaccard=jaccard(confusion),
        object_iou=mean,
        object_iou_se=error,
        objects=int(np.isfinite(objects).sum()),
        per_class={class_name(c): float(ious[c]) for c in np.flatnonzero(np.isfinite(ious))},
        videos=num_scored,
        videos_left_out=len(videos) - num_scored,
        ignored=1 - int(confusion.sum()) / pixels if pixels else math.nan,
        by_group={name: mean_and_error(objects[which])[0] for name, which in (groups or {}).items()},
    )


def video_confusions(prediction: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> np.ndarray:
    """Count pixels by video, true class and predicted class, on all cores.

    Args:
        prediction: (N, H, W) uint8, 0–48.
        truth: (N, H, W) uint8, 0–48, or 255 where nothing is scored.

    Returns:
        (N, 49, 49) int32.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    assert prediction.shape == truth.shape and prediction.ndim == 3, (prediction.shape, truth.shape)
    assert prediction.dtype == truth.dtype == np.uint8, (prediction.dtype, truth.dtype)
    counts = np.empty((len(truth), NUM_CLASSES, NUM_CLASSES), np.int32)

    def count(video: int) -> None:
        counts[video] = count_pairs(prediction[video], truth[video])

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(count, range(len(truth))):
            pass
    return counts


def count_pairs(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (49, 49) counts of one video."""
    assert prediction.max() < NUM_CLASSES
    somewhere = (prediction | truth) > 0  # most pixels are background in both masks and only counted
    pair = np.multiply(truth[somewhere], NUM_CLASSES, dtype=np.intp) + prediction[somewhere]
    counts = np.bincount(pair, minlength=(IGNORE + 1) * NUM_CLASSES).reshape(IGNORE + 1, NUM_CLASSES)
    counts[BACKGROUND, BACKGROUND] = truth.size - len(pair)
    assert not counts[NUM_CLASSES:IGNORE].any()
    return counts[:NUM_CLASSES]


def confusion_matrix(prediction: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> np.ndarray:
    """Return (49, 49) int64 pixel counts, row = true class, column = predicted class; see :func:`video_confusions`."""
    return video_confusions(prediction, truth).sum(0, dtype=np.int64)


def per_class_iou(confusion: np.ndarray) -> np.ndarray:
    """Return (..., 49) intersection over union of (..., 49, 49) counts; nan for a class that is in neither mask."""
    both = np.diagonal(confusion, axis1=-2, axis2=-1)
    either = confusion.sum(-1, dtype=np.int64) + confusion.sum(-2, dtype=np.int64) - both
    return np.divide(both, either, out=np.full(either.shape, np.nan), where=either > 0)


def jaccard(confusion: np.ndarray) -> float:
    """Return the competition's score of (49, 49) counts: mean IoU over the classes in the prediction or the truth.

    Equals ``torchmetrics.JaccardIndex(task="multiclass", num_classes=49)``; nan where nothing was counted.
    """
    ious = per_class_iou(confusion)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else math.nan


def object_table(videos: np.ndarray) -> np.ndarray:
    """Return (N, 49) IoU of every object in the truth from (N, 49, 49) counts; nan elsewhere and for the background."""
    table = np.where(videos.sum(-1) > 0, per_class_iou(videos), np.nan)
    table[:, BACKGROUND] = np.nan
    return table


def mean_and_error(table: np.ndarray) -> tuple[float, float]:
    """Return mean and standard error of the mean of what is not nan; nan where there are too few values."""
    values = table[np.isfinite(table)]
    mean = float(values.mean()) if len(values) else math.nan
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return mean, error
