"""The frame-space predictor: SimVP draws frame 22, the U-Net segments what it drew, and both are tuned together.

SimVP learns from all videos, fine-tuning from those with masks.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.checkpoints import WEIGHTS, load_weights, save_weights
from solution.clips import FrameVideos
from solution.config import FramesConfig, SegmenterConfig
from solution.losses import frame_loss, mask_loss
from solution.models.convlstm import ConvLSTM
from solution.models.simvp import SimVP
from solution.models.unet import SegmentationUNet
from solution.predictors import Member
from solution.predictors.drawn import FramesPredictor, as_clip, count_epochs, evaluate_frames, video_batches
from solution.segmenter import build_segmenter
from solution.training import Recipe, fit


class Residual(nn.Module):
    """Adds what a network maps a (B, 11, 3, H, W) clip to, in the same shape, to the clip's last frame.

    The network's last layer, ``readout``, starts at zero: untrained, the last frame is repeated.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        for parameter in network.readout.parameters():
            nn.init.zeros_(parameter)

    def forward(self, clip: Tensor) -> Tensor:
        return clip[:, -1:] + self.network(clip)


def build_simvp(config: FramesConfig) -> nn.Module:
    """Return the untrained network that draws frames."""
    hid_S, hid_T, N_S, N_T = config.size
    if config.network == "convlstm":
        return ConvLSTM(hid_S, N_S, residual=not config.plain)
    simvp = SimVP(hid_S=hid_S, hid_T=hid_T, N_S=N_S, N_T=N_T, translator=config.network)
    return simvp if config.plain else Residual(simvp)


class FramePipeline(nn.Module):
    """Eleven frames → eleven predicted frames → class logits of the last."""

    def __init__(self, config: FramesConfig, segmenter: SegmentationUNet):
        super().__init__()
        if HEIGHT % config.downscale or WIDTH % config.downscale:
            raise ValueError(f"downscale divides {HEIGHT} and {WIDTH}, {config.downscale} does not")
        self.downscale = config.downscale
        self.simvp = build_simvp(config)
        self.segmenter = segmenter

    def forward(self, clip: Tensor) -> Tensor:
        """Map a (B, 11, H, W, 3) uint8 clip to (B, 49, H, W) logits of frame 22."""
        return self.segmenter.logits(last_frame(self.simvp, clip, self.downscale))


def last_frame(simvp: SimVP, clip: Tensor, downscale: int) -> Tensor:
    """Return the (B, 3, H, W) frame 22 that ``simvp`` draws after a (B, 11, H, W, 3) uint8 clip."""
    drawn = simvp(as_clip(clip, downscale))[:, -1]
    if downscale == 1:
        return drawn
    return F.interpolate(drawn, scale_factor=downscale, mode="bilinear", align_corners=False)


def train_simvp(
    config: FramesConfig,
    segmenter: SegmentationUNet,
    videos: Sequence[FrameVideos],
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> None:
    """Teach SimVP frames 12–22 of any videos, into ``folder``.

    Args:
        config: the network and its recipe.
        segmenter: trained on true frames; it only takes part in the evaluations.
        videos: need no masks.
        held_out: labelled videos that are not among them; every epoch ends with scoring them.
        folder: made if missing; training resumes there.
        device: where to train.
        seed: of everything random.
    """
    torch.manual_seed(seed)
    simvp = FramePipeline(config, segmenter).simvp

    def evaluate(simvp: SimVP) -> dict[str, float]:
        draw = partial(last_frame, simvp, downscale=config.downscale)
        return evaluate_frames(draw, segmenter, held_out, folder, device)

    epochs = count_epochs(config.steps, config.batch_size, videos)
    recipe = Recipe(config.steps, config.learning_rate, config.weight_decay, evaluations=epochs)
    batch = video_batches(config.batch_size, videos, seed, True)
    fit(simvp, partial(frames_loss, config), batch, folder, recipe, device, seed, evaluate)


def frames_loss(config: FramesConfig, simvp: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of the frames that SimVP draws for a batch of :func:`video_batches` with futures."""
    weights = torch.ones(NUM_FRAMES - CLIP_FRAMES, device=tensors["clip"].device)
    weights[-1] = config.last_weight
    predicted = simvp(as_clip(tensors["clip"], config.downscale))
    return frame_loss(predicted, as_clip(tensors["future"], config.downscale), config.ssim_weight, weights)


def train_frames(
    config: FramesConfig,
    segmenter_config: SegmenterConfig,
    segmenter: SegmentationUNet,
    simvp_folder: Path,
    labelled: FrameVideos,
    unlabeled: FrameVideos | None,
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> FramesPredictor:
    """Join SimVP and the U-Net, tune them into ``folder``, each kind in a folder of its own, and return the predictor.

    Args:
        config: the networks and the steps of every kind of tuning.
        segmenter_config: what ``segmenter`` was built from.
        segmenter: trained on true frames; left as it is, a copy is tuned.
        simvp_folder: where :func:`train_simvp` left its weights.
        labelled: videos with true masks.
        unlabeled: videos with the segmenter's masks of their true frames, for tuning on pseudo masks.
        held_out: labelled videos that are in neither; every epoch ends with scoring them.
        folder: made if missing; kinds that are finished there are kept, one that was interrupted goes on.
        device: where to train.
        seed: of everything random.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"frames": asdict(config), "segmenter": asdict(segmenter_config)}
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    pipeline = FramePipeline(config, copy.deepcopy(segmenter)).to(device).eval()
    load_weights(pipeline.simvp, simvp_folder, device)
    every_video = [labelled] if unlabeled is None else [labelled, unlabeled]
    kinds = (
        ("segmenter", pipeline.segmenter, [labelled]),
        ("joint", pipeline, [labelled]),
        ("pseudo", pipeline, every_video),
    )
    for name, part, videos in kinds:
        if name in config.tuned:
            if not (folder / name / WEIGHTS).exists():
                tune(config, pipeline, part, videos, held_out, folder / name, device, seed)
            load_weights(part, folder / name, device)  # the EMA
    save_weights(pipeline, folder)
    return FramesPredictor(pipeline)


def load_frames(folder: Path, device: torch.device) -> FramesPredictor:
    """Rebuild the predictor that :func:`train_frames` left in ``folder``."""
    settings = json.loads((folder / "config.json").read_text())
    pipeline = FramePipeline(
        FramesConfig(**settings["frames"]), build_segmenter(SegmenterConfig(**settings["segmenter"]))
    )
    return FramesPredictor(load_weights(pipeline, folder, device))


def tune(
    config: FramesConfig,
    pipeline: FramePipeline,
    part: nn.Module,
    videos: Sequence[FrameVideos],
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int,
) -> None:
    """Train a part of the pipeline, its U-Net or all of it, to make the mask of frame 22; the rest stays as it is.

    See :func:`train_frames` for the other arguments.
    """
    whole = part is pipeline

    def loss(part: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if whole:
            logits = part(tensors["clip"])
        else:
            with torch.no_grad():
                drawn = last_frame(pipeline.simvp, tensors["clip"], config.downscale)
            logits = part.logits(drawn)
        return mask_loss(logits[:, None], tensors["mask"], config.jaccard_weight)

    def evaluate(part: nn.Module) -> dict[str, float]:
        simvp, segmenter = (part.simvp, part.segmenter) if whole else (pipeline.simvp, part)
        draw = partial(last_frame, simvp, downscale=config.downscale)
        return evaluate_frames(draw, segmenter, held_out, folder, device)

    steps = config.tuning_steps
    recipe = Recipe(steps, config.tuning_rate, evaluations=count_epochs(steps, config.batch_size, videos))
    fit(part, loss, video_batches(config.batch_size, videos, seed, False), folder, recipe, device, seed, evaluate)


MEMBER = Member(load_frames, lambda config: FramePipeline(config.frames, build_segmenter(config.segmenter)))
