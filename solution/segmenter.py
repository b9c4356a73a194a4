"""Training the segmenter on labelled frames, and running it once over every video.

Its masks, cached on disk, are what every later stage reads.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data_prep.classes import IGNORE
from data_prep.scene import HEIGHT, WIDTH
from solution.arrays import fill_rows
from solution.augment import FrameAugmentation, pasted
from solution.checkpoints import load_weights
from solution.config import SegmenterConfig
from solution.losses import share
from solution.metrics import confusion_matrix, jaccard
from solution.models.unet import SegmentationUNet
from solution.processes import total
from solution.settling import settle
from solution.training import Recipe, autocast, fit

EVALUATION_FRAMES = 100
SETTLING_COSTS = 0.05
"""Jaccard that settling may cost so few frames by chance, though the camera is right."""
FRAMES_AT_ONCE = {"cuda": 512, "cpu": 16}
"""What the network is shown at a time, by type of device."""
VIDEOS_AT_ONCE = {"cuda": 128, "cpu": 4}
"""What is settled at a time, by tens of thousands of small operations, however many videos there are."""


def build_segmenter(config: SegmenterConfig) -> SegmentationUNet:
    """Return the untrained network of a config.

    Raises:
        ValueError: its crops do not fit into frames.
    """
    if any(side > whole for side, whole in zip(config.crop, (HEIGHT, WIDTH), strict=True)):
        raise ValueError(f"crops fit into frames of {HEIGHT} by {WIDTH} pixels, {config.crop} does not")
    return SegmentationUNet(config.encoder, config.decoder_channels)


def load_segmenter(config: SegmenterConfig, folder: Path, device: torch.device) -> SegmentationUNet:
    """Return the trained network of a stage folder, in evaluation mode."""
    return load_weights(build_segmenter(config), folder, device)


def factored_loss(model: SegmentationUNet, frames: Tensor, mask: Tensor, region_weight: float) -> dict[str, Tensor]:
    """Return cross-entropy plus Dice of object against floor; mask values of 255 are ignored.

    The cross-entropy over 49 classes is taken apart: object or floor over all pixels, and which object over the
    objects' pixels only, which are few and would otherwise hardly count.

    Args:
        model: the segmenter.
        frames: (N, 3, H, W) float32 in [0, 1].
        mask: (N, H, W) uint8.
        region_weight: of the Dice loss.
    """
    factors = model(frames).float()
    known, thing = mask != IGNORE, (mask != IGNORE) & (mask > 0)
    with torch.autocast(factors.device.type, enabled=False):
        odds, given = model.log_likelihood(factors, torch.where(thing, mask, 1).long())
        where = F.binary_cross_entropy_with_logits(odds, thing.float(), reduction="none")
        where = share((where * known).sum(), known.sum())  # not odds[known]: to count them a GPU would wait
        which = -share((given.sum(1) * thing).sum(), thing.sum())
        probability = odds.sigmoid() * known
        region = 1 - 2 * share((probability * thing).sum(), probability.sum() + thing.sum(), 1e-6)
        region = region * (total(thing.sum()) > 0)
    return {"loss": where + which + region_weight * region, "where": where.detach(), "which": which.detach()}


def train_segmenter(
    config: SegmenterConfig,
    frames: np.ndarray,
    masks: np.ndarray,
    fit_rows: np.ndarray,
    heldout_rows: np.ndarray,
    folder: Path,
    device: torch.device,
    seed: int,
) -> nn.Module:
    """Train on all frames of the labelled videos ``fit_rows`` and log the Jaccard on ``heldout_rows``.

    The log has that of the network's masks and that of settled ones, which is what every later stage reads.

    Args:
        config: network and recipe.
        frames: (N, 22, 160, 240, 3) uint8.
        masks: (N, 22, 160, 240) uint8, 255 ignored.
        fit_rows: (n,) rows to train on.
        heldout_rows: (m,) rows that are only looked at.
        folder: of the stage.
        device: where to train.
        seed: of weights, order and augmentation.
    """
    looked_at = heldout_rows[:: max(1, math.ceil(len(heldout_rows) * frames.shape[1] / EVALUATION_FRAMES))]
    truth = masks[looked_at]

    reached: dict[str, float] = {}

    def evaluate(model: nn.Module) -> dict[str, float]:
        plain = np.stack([segment(model, frames[row], device) for row in looked_at])
        settled = settle_in_chunks(plain, device)
        for name, predicted in (("jaccard", plain), ("settled", settled)):
            reached[name] = jaccard(confusion_matrix(*(m.reshape(-1, HEIGHT, WIDTH) for m in (predicted, truth))))
        return dict(reached)

    torch.manual_seed(seed)
    model = fit(
        build_segmenter(config),
        partial(crops_loss, config),
        crop_batches(config, frames, masks, fit_rows, seed),
        folder,
        Recipe(config.steps, config.learning_rate, muon=config.optimiser == "muon"),
        device,
        seed,
        evaluate if len(looked_at) else None,
    )
    if reached and reached["settled"] < reached["jaccard"] - SETTLING_COSTS:
        tqdm.write(
            f"Settling one class for each object lowers the Jaccard of held-out frames from {reached['jaccard']:.4f} "
            f"to {reached['settled']:.4f}: is the camera of data_prep/scene.py that of these videos?",
            sys.stderr,
        )
    return model


def crop_batches(
    config: SegmenterConfig, frames: np.ndarray, masks: np.ndarray, rows: np.ndarray, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws frames of some rows, puts others' objects in, and augments them.

    Its tensors are uint8: ``frames`` (B, h, w, 3) and ``mask`` (B, h, w).
    """
    augment = FrameAugmentation(config.crop)

    def batch(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))

        def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
            videos, times = random.choice(rows, config.batch), random.integers(frames.shape[1], size=config.batch)
            return [(np.asarray(frames[v, t]), np.asarray(masks[v, t])) for v, t in zip(videos, times, strict=True)]

        labelled, seeds, others = drawn(), random.integers(2**31, size=config.batch), drawn()
        sides = random.choice((-1, 1), config.batch)
        for i in np.flatnonzero(random.random(config.batch) < config.pasted):
            labelled[i] = pasted(*labelled[i], *(part[:, :: sides[i]] for part in others[i]))
        crops = [augment(*each, int(s)) for each, s in zip(labelled, seeds, strict=True)]
        return {
            name: torch.from_numpy(np.stack(parts))
            for name, parts in zip(("frames", "mask"), zip(*crops, strict=True), strict=True)
        }

    return batch


def crops_loss(config: SegmenterConfig, model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return :func:`factored_loss` of a batch of :func:`crop_batches`."""
    return factored_loss(model, as_images(tensors["frames"]), tensors["mask"], config.region_weight)


def as_images(frames: Tensor) -> Tensor:
    """Map (N, H, W, 3) uint8 frames to (N, 3, H, W) float32 in [0, 1], channels last in memory."""
    return frames.permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def segment(model: nn.Module, frames: np.ndarray, device: torch.device) -> np.ndarray:
    """Return the (N, 160, 240) uint8 classes of (N, 160, 240, 3) uint8 frames."""
    with autocast(device):
        classes = model.classes(as_images(torch.from_numpy(np.array(frames)).to(device)))
    return classes.cpu().numpy()


def segment_in_chunks(model: nn.Module, frames: np.ndarray, device: torch.device) -> np.ndarray:
    """Do what :func:`segment` does, a few frames at a time."""
    chunk = FRAMES_AT_ONCE[device.type]
    return np.concatenate([segment(model, frames[i : i + chunk], device) for i in range(0, len(frames), chunk)])


def settle_in_chunks(masks: np.ndarray, device: torch.device) -> np.ndarray:
    """Return (N, T, 160, 240) uint8 masks with one class for each object, settled a few videos at a time."""
    chunk = VIDEOS_AT_ONCE[device.type]
    parts = [torch.from_numpy(masks[i : i + chunk]).to(device) for i in range(0, len(masks), chunk)]
    return np.concatenate([settle(part).cpu().numpy() for part in parts])


def segment_split(model: nn.Module, frames: np.ndarray, path: Path, device: torch.device, label: str) -> np.ndarray:
    """Write the (N, T, 160, 240) uint8 masks of a split's (N, T, 160, 240, 3) frames to ``path``, shapes settled."""
    videos, times = frames.shape[:2]

    def rows(first: int, last: int) -> np.ndarray:
        flat = frames[first:last].reshape(-1, HEIGHT, WIDTH, 3)
        masks = segment_in_chunks(model, flat, device).reshape(last - first, times, HEIGHT, WIDTH)
        return settle_in_chunks(masks, device)

    return fill_rows(path, (videos, times, HEIGHT, WIDTH), VIDEOS_AT_ONCE[device.type], rows, label, device)
