"""What the networks minimise: squared error with SSIM for frames, cross-entropy with a soft Jaccard for masks.

Everything is computed in float32, whatever the network ran in, and over the batch of all processes together. Scores
that nobody differentiates live in metrics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim
from torch import Tensor

from data_prep.classes import BACKGROUND, IGNORE
from solution.processes import total


def frame_loss(
    predicted: Tensor,
    truth: Tensor,
    ssim_weight: float = 0.0,
    horizon_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return ``loss`` = weighted mean of squared error + ``ssim_weight`` · (1 − SSIM), and plain ``mse`` and ``ssim``.

    ``predicted`` and ``truth``: (B, T, 3, H, W) in [0, 1]; ``horizon_weights``: (T,), by default all equal;
    ``pixel_weights``: (B, T, 1, H, W) of squared errors, by default 1, and not made to have that mean. Where it weighs
    nothing SSIM is not computed, and is not returned.
    """
    batch, horizons = truth.shape[:2]
    squared = (predicted.float() - truth.float()).square()
    mse = squared.mean((2, 3, 4))  # (B, T)
    error = mse if pixel_weights is None else (pixel_weights * squared).mean((2, 3, 4))
    values = {"mse": mse.mean()}
    if ssim_weight:
        similarity = structural_similarity(predicted.flatten(0, 1), truth.flatten(0, 1)).unflatten(0, (batch, horizons))
        error = error + ssim_weight * (1 - similarity)
        values["ssim"] = similarity.mean()
    if horizon_weights is not None:
        error = error * (horizon_weights / horizon_weights.mean())
    return {"loss": error.mean()} | values


def structural_similarity(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the (N,) SSIM of (N, 3, H, W) images in [0, 1], sides of at least 11.

    Autocast is left: variances are differences of nearly equal numbers, which bf16 has no digits for. Nor has TF32, in
    which cuDNN convolves images that are channels last.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        images = (each.float().contiguous() for each in (predicted, truth))
        return ssim(*images, data_range=1, size_average=False)


def mask_loss(
    logits: Tensor, target: Tensor, jaccard_weight: float = 0.0, horizon_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return ``loss`` = cross-entropy of all horizons + ``jaccard_weight`` · soft Jaccard of the last, and both parts.

    ``logits``: (B, T, K, H, W); ``target``: (B, T, H, W) integers below K or IGNORE; ``horizon_weights``: (T,).
    """
    batch, horizons = target.shape[:2]
    logits, target = logits.float(), target.long()
    pixel = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), ignore_index=IGNORE, reduction="none")
    weights = logits.new_ones(horizons) if horizon_weights is None else horizon_weights
    weights = weights[:, None, None] * (target != IGNORE)  # (B, T, H, W)
    cross_entropy = share((pixel.unflatten(0, (batch, horizons)) * weights).sum(), weights.sum(), 1e-6)
    jaccard = soft_jaccard(logits[:, -1].softmax(1), target[:, -1])
    return {"loss": cross_entropy + jaccard_weight * jaccard, "cross_entropy": cross_entropy, "jaccard": jaccard}


def soft_jaccard(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return 1 − the mean soft IoU over the (sample, object) pairs that the target shows; 0 if it shows none.

    ``probabilities``: (B, K, H, W), sum 1; ``target``: (B, H, W) integers, IGNORE counts nowhere. The background is
    no object: with it the loss would mostly praise empty floor.
    """
    probabilities, target = probabilities.float(), target.long()
    valid = target != IGNORE
    numbers = torch.arange(probabilities.shape[1], device=target.device)[:, None, None]
    truth = target[:, None] == numbers  # (B, K, H, W); IGNORE is no class
    probabilities = probabilities * valid[:, None]
    overlap = (probabilities * truth).sum((2, 3))  # (B, K)
    area = truth.sum((2, 3))
    iou = overlap / (probabilities.sum((2, 3)) + area - overlap).clamp(min=1e-6)
    shown = area > 0
    shown[:, BACKGROUND] = False
    return share(((1 - iou) * shown).sum(), shown.sum())


def share(part: Tensor, whole: Tensor, least: float = 1.0) -> Tensor:
    """Return part / whole, both summed over all processes; a ``whole`` below ``least`` counts as that."""
    return total(part) / total(whole).clamp(min=least)
