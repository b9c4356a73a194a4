"""The score against torchmetrics, scikit-learn and plain loops."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score
from torchmetrics import JaccardIndex

from data_prep.classes import class_name
from solution import metrics

ROWS, COLUMNS = 16, 24


def random_masks(seed: int, classes: tuple[int, ...], videos: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(classes, np.uint8), (videos, ROWS, COLUMNS))


def two_masks() -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth that share some classes, each with classes of its own, mostly background."""
    prediction = random_masks(0, (0, 0, 0, 0, 3, 17, 48))
    truth = random_masks(1, (0, 0, 0, 0, 3, 17, 30, 31))
    prediction[:, :8], truth[:, :8] = 0, 0
    return prediction, truth


@pytest.mark.parametrize("ignored", [False, True])
def test_jaccard_equals_torchmetrics_and_sklearn(ignored):
    prediction, truth = two_masks()
    if ignored:
        truth[random_masks(2, (0, 0, 0, 1)) == 1] = 255
    confusion = metrics.confusion_matrix(prediction, truth)
    scored = truth != 255
    reference = JaccardIndex(task="multiclass", num_classes=49, ignore_index=255)
    reference.update(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    assert metrics.jaccard(confusion) == pytest.approx(float(reference.compute()), abs=1e-6)
    present = np.union1d(prediction[scored], truth[scored])
    expected = jaccard_score(truth[scored], prediction[scored], average="macro", labels=present)
    assert metrics.jaccard(confusion) == pytest.approx(expected, abs=1e-12)
    expected = jaccard_score(truth[scored], prediction[scored], average=None, labels=present)
    np.testing.assert_allclose(metrics.per_class_iou(confusion)[present], expected)
    assert np.isnan(np.delete(metrics.per_class_iou(confusion), present)).all()
    np.testing.assert_array_equal(confusion, sklearn_confusion(truth[scored], prediction[scored], labels=range(49)))


@pytest.mark.parametrize(("predicted", "true"), [(0, 0), (0, 48), (48, 48), (48, 255)])
def test_constant_masks_equal_torchmetrics(predicted, true):
    prediction, truth = np.full((2, 8, 8), predicted, np.uint8), np.full((2, 8, 8), true, np.uint8)
    truth[0, 0] = 0
    reference = JaccardIndex(task="multiclass", num_classes=49, ignore_index=255)
    expected = reference(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    assert metrics.jaccard(metrics.confusion_matrix(prediction, truth)) == pytest.approx(float(expected), abs=1e-6)


def test_videos_are_counted_apart():
    prediction, truth = two_masks()
    truth[2, 3] = 255
    counts = metrics.video_confusions(torch.from_numpy(prediction), torch.from_numpy(truth))
    for video in range(len(truth)):
        scored = truth[video] != 255
        expected = sklearn_confusion(truth[video][scored], prediction[video][scored], labels=range(49))
        np.testing.assert_array_equal(counts[video], expected)


def test_strided_views_score_like_copies():
    prediction, truth = np.repeat(random_masks(0, (0, 5)), 2, axis=2), np.repeat(random_masks(1, (0, 5)), 2, axis=2)
    views = prediction[:, :, ::2], truth[:, :, ::2]
    np.testing.assert_array_equal(
        metrics.confusion_matrix(*views), metrics.confusion_matrix(*(view.copy() for view in views))
    )


def test_object_iou_equals_a_loop_over_pairs():
    prediction, truth = two_masks()
    truth[truth == 31] = 0
    truth[0, truth[0] == 17] = 0
    truth[1, :3] = 255
    table = metrics.object_table(metrics.video_confusions(prediction, truth))
    mean, error = metrics.mean_and_error(table)
    expected = {}
    for video, (predicted, true) in enumerate(zip(prediction, truth, strict=True)):
        predicted = np.where(true == 255, 255, predicted)
        for c in set(np.unique(true)) - {0, 255}:
            expected[video, c] = ((predicted == c) & (true == c)).sum() / ((predicted == c) | (true == c)).sum()
    assert set(zip(*np.nonzero(np.isfinite(table)), strict=True)) == set(expected)
    for pair, iou in expected.items():
        assert table[pair] == pytest.approx(iou)
    values = np.array(list(expected.values()))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / len(values) ** 0.5)


def test_score_of_the_truth_itself_is_one():
    truth = random_masks(0, (0, 1, 2))
    result = metrics.score(truth, truth)
    assert (result.jaccard, result.object_iou, result.object_iou_se) == (1, 1, 0)
    assert result.per_class == {class_name(c): 1.0 for c in range(3)}
    assert (result.videos, result.videos_left_out, result.objects, result.ignored) == (5, 0, 10, 0)


def test_score_leaves_out_videos_without_truth():
    prediction, truth = two_masks()
    truth[3] = 255
    truth[4, :4] = 255
    result = metrics.score(prediction, truth)
    kept = metrics.score(prediction[[0, 1, 2, 4]], truth[[0, 1, 2, 4]])
    assert (result.videos, result.videos_left_out) == (4, 1)
    assert result.ignored == pytest.approx(4 / ROWS / 4)
    assert (result.jaccard, result.object_iou, result.per_class) == (kept.jaccard, kept.object_iou, kept.per_class)


def test_undefined_numbers_are_none_in_json():
    nothing = np.zeros((1, 8, 8), np.uint8)
    values = json.loads(json.dumps(metrics.score(nothing, nothing).as_json(), allow_nan=False))
    assert values["jaccard"] == 1 and values["object_iou"] is None and values["object_iou_se"] is None
    unscored = metrics.score(nothing, np.full_like(nothing, 255)).as_json()
    assert unscored["jaccard"] is None and unscored["videos"] == 0


@pytest.mark.parametrize(("predicted", "true"), [(49, 0), (255, 255), (0, 49), (0, 254)])
def test_labels_that_are_no_class_are_refused(predicted, true):
    with pytest.raises(AssertionError):
        metrics.confusion_matrix(np.full((1, 8, 8), predicted, np.uint8), np.full((1, 8, 8), true, np.uint8))
