"""Losses have the values one computes by hand, also under autocast and where pixels are ignored."""

import math

import pytest
import torch
from torch import Tensor

from data_prep.classes import IGNORE
from solution.losses import frame_loss, mask_loss, soft_jaccard, structural_similarity


def ssim_by_definition(x: Tensor, y: Tensor) -> float:
    """SSIM of two (C, H, W) float64 images after Wang et al. (2004): 11×11 Gaussian windows, σ 1.5, whole ones only."""
    bell = torch.exp(-(torch.arange(-5.0, 6).double() ** 2) / (2 * 1.5**2))
    window = bell[:, None] * bell / bell.sum() ** 2
    x, y = (z.unfold(1, 11, 1).unfold(2, 11, 1) for z in (x, y))  # (C, H − 10, W − 10, 11, 11)
    mean_x, mean_y = (x * window).sum((-1, -2)), (y * window).sum((-1, -2))
    dx, dy = x - mean_x[..., None, None], y - mean_y[..., None, None]
    var_x, var_y, covariance = ((a * b * window).sum((-1, -2)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    brightness = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return (brightness * (2 * covariance + 9e-4) / (var_x + var_y + 9e-4)).mean().item()


def test_ssim_is_the_reference_also_under_autocast():
    torch.manual_seed(0)
    truth = torch.rand(2, 3, 32, 40).mul(0.1).add(0.45)  # low contrast, where bf16 would lose the variance
    predicted = truth + 0.01 * torch.randn_like(truth)
    reference = [ssim_by_definition(p, t) for p, t in zip(predicted.double(), truth.double(), strict=True)]
    with torch.autocast("cpu", torch.bfloat16):
        value = structural_similarity(predicted, truth)
    assert value.tolist() == pytest.approx(reference, abs=1e-4)


def test_frame_loss_by_hand():
    truth = torch.zeros(1, 2, 3, 16, 16)
    predicted = truth.clone()
    predicted[:, 1] = 0.5  # constant images: SSIM = C1 / (0.5² + C1)
    similarity = 0.0001 / 0.2501
    values = frame_loss(predicted, truth, ssim_weight=0.1)
    assert values["mse"].item() == pytest.approx(0.125)
    assert values["ssim"].item() == pytest.approx((1 + similarity) / 2, abs=1e-5)
    assert values["loss"].item() == pytest.approx(0.125 + 0.1 * (1 - similarity) / 2, abs=1e-5)
    weighted = frame_loss(predicted, truth, horizon_weights=torch.tensor([1.0, 3.0]))
    assert weighted["loss"].item() == pytest.approx((0 * 1 + 0.25 * 3) / 4)
    assert weighted["mse"].item() == pytest.approx(0.125) and "ssim" not in weighted
    half = torch.ones(1, 2, 1, 16, 16)
    half[..., :8] = 5
    weighted = frame_loss(predicted, truth, pixel_weights=half)
    assert weighted["loss"].item() == pytest.approx(0.125 * 3) and weighted["mse"].item() == pytest.approx(0.125)


def test_soft_jaccard_by_hand():
    target = torch.tensor([[[0, 1, 1, 2, IGNORE]]])
    probabilities = torch.tensor(
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]
    )
    probabilities = probabilities.T[None, :, None]  # (1, 3, 1, 5)
    one = 1.5 / (1.75 + 2 - 1.5)
    two = 0.25 / (0.25 + 1 - 0.25)  # the ignored pixel's probability of class 2 counts nowhere
    assert soft_jaccard(probabilities, target).item() == pytest.approx(1 - (one + two) / 2)


def test_soft_jaccard_of_perfect_wrong_and_empty():
    target = torch.randint(0, 4, (2, 8, 8))
    perfect = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    assert soft_jaccard(perfect, target).item() == pytest.approx(0, abs=1e-6)
    assert soft_jaccard(perfect.roll(1, 1), target).item() == pytest.approx(1)
    assert soft_jaccard(perfect, torch.zeros_like(target)).item() == 0


def test_soft_jaccard_falls_with_the_truth():
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[:, :2] = 1
    soft_jaccard(logits.softmax(1), target).backward()
    assert (logits.grad[0, 1, :2] < 0).all() and (logits.grad[0, 1, 2:] > 0).all()


def test_mask_loss_starts_at_the_logarithm_and_skips_ignored_pixels():
    logits = torch.zeros(2, 3, 9, 4, 4)
    target = torch.randint(0, 9, (2, 3, 4, 4), dtype=torch.uint8)
    assert mask_loss(logits, target)["cross_entropy"].item() == pytest.approx(math.log(9))
    spoiled = logits.clone()
    spoiled[:, :, 5, 0] = 100
    target[:, :, 0] = IGNORE
    assert mask_loss(spoiled, target)["cross_entropy"].item() == pytest.approx(math.log(9))
    nothing = mask_loss(spoiled, torch.full_like(target, IGNORE), jaccard_weight=1)
    assert nothing["loss"].item() == 0


def test_mask_loss_weights_horizons():
    logits = torch.zeros(1, 2, 2, 1, 1)
    logits[:, 1, 0] = math.log(3)  # the truth gets 3/4
    target = torch.zeros(1, 2, 1, 1, dtype=torch.uint8)
    values = mask_loss(logits, target, jaccard_weight=2, horizon_weights=torch.tensor([1.0, 3.0]))
    assert values["cross_entropy"].item() == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / 4)
    assert values["loss"].item() == pytest.approx(values["cross_entropy"].item())
