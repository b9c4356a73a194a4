"""The frame-space predictor: SimVP draws frame 22, the U-Net segments what it drew, and both are tuned together.

The masks of frames 1–11 say which classes there are, and the one of frame 11 stays where nothing is drawn over it.
Unless ``plain``, objects of other videos are put into those that both learn from.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.checkpoints import WEIGHTS, load_weights, save_weights
from solution.clips import FrameVideos
from solution.config import FramesConfig, SegmenterConfig
from solution.losses import frame_loss, mask_loss
from solution.models.convlstm import ConvLSTM
from solution.models.simvp import SimVP
from solution.models.unet import SegmentationUNet
from solution.predictors import Clip, Member
from solution.predictors.drawn import FramesPredictor, as_clip, count_epochs, evaluate_frames, video_batches
from solution.segmenter import build_segmenter
from solution.training import OneCycle, Recipe, fit

LAST = [-1]
OTHER_HORIZONS = 2
"""Predicted frames of a training step beside frame 22: drawing costs more than predicting what to draw."""
LAST_WEIGHT = 3.0
"""Of frame 22's error, where theirs weigh 1."""
MOVED, MOVED_WEIGHT = 0.05, 1.0
"""A pixel that differs by more from frame 11 in a colour has moved; its error weighs so much more than the 1 of all."""
SHOWN_PIXELS = 20
"""A class with fewer in all masks of a clip is not there."""
LEAST_PROBABILITY = 1e-12
PASTED = 0.75
"""Share of the clips into which another video's objects are put."""
GREY, CONTRAST = 0.47, 0.1
"""Roughly mean and standard deviation of frames."""


class Overlay(nn.Module):
    """Lays what a network draws, as opaque as it says, over a clip's last frame: (B, 11, 3, H, W) → (B, T, 3, H, W).

    The network sees frames around 0, and how they differ from those before them, which tells what stands still; it
    draws a fourth channel. Its last layer, ``readout``, starts at zero: untrained, a hint of grey lies over the last
    frame, and what stands still needs no drawing later either.
    """

    TRANSPARENT = -4.0
    """Logit of the opacity at the start."""

    def __init__(self, config: FramesConfig):
        super().__init__()
        self.patch = config.patch
        hid_S, hid_T, N_S, N_T = config.size
        channels = 6 * config.patch**2, 4 * config.patch**2
        self.network = SimVP(*channels, hid_S=hid_S, hid_T=hid_T, N_S=N_S, N_T=N_T, translator=config.network)
        for parameter in self.network.readout.parameters():
            nn.init.zeros_(parameter)

    def forward(self, clip: Tensor, horizons: Tensor | Sequence[int] | None = None) -> Tensor:
        return laid_over(clip[:, -1:], self.layer(clip, horizons))

    def layer(self, clip: Tensor, horizons: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return (B, T, 4, H, W) float32 colours and opacity."""
        before = torch.cat((clip[:, :1], clip[:, :-1]), 1)
        seen = torch.cat((clip - GREY, clip - before), 2) / CONTRAST
        drawn = self.network(F.pixel_unshuffle(seen, self.patch), horizons)
        colours, opacity = F.pixel_shuffle(drawn.float(), self.patch).split((3, 1), 2)
        return torch.cat((GREY + CONTRAST * colours, (opacity + self.TRANSPARENT).sigmoid()), 2)


def laid_over(frame: Tensor, layer: Tensor) -> Tensor:
    """Return (..., 3, H, W): a (..., 4, H, W) layer of colours and opacity over a frame."""
    colours, opacity = layer.split((3, 1), -3)
    return frame + opacity * (colours - frame)


def build_simvp(config: FramesConfig) -> nn.Module:
    """Return the untrained network that draws frames."""
    hid_S, hid_T, N_S, N_T = config.size
    if config.network == "convlstm":
        return ConvLSTM(hid_S, N_S, residual=not config.plain)
    if config.plain:
        return SimVP(hid_S=hid_S, hid_T=hid_T, N_S=N_S, N_T=N_T, translator=config.network)
    return Overlay(config)


class FramePipeline(nn.Module):
    """Eleven frames → eleven predicted frames → class logits of the last."""

    def __init__(self, config: FramesConfig, segmenter: SegmentationUNet):
        super().__init__()
        square = config.downscale * config.patch
        if HEIGHT % square or WIDTH % square:
            raise ValueError(f"downscale × patch divides {HEIGHT} and {WIDTH}, {square} does not")
        self.config = config
        self.simvp = build_simvp(config)
        self.segmenter = segmenter

    def train(self, mode: bool = True) -> FramePipeline:
        """Leave the U-Net's batch normalisation as it was trained: a few clips at a time have no statistics."""
        super().train(mode)
        for module in self.segmenter.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, clip: Clip) -> Tensor:
        """Map B clips to (B, 49, H, W) logits of frame 22."""
        drawn = last_frame(self.config, self.simvp, clip.frames)
        return last_mask(self.config, self.segmenter, *drawn, clip.masks)


def last_frame(config: FramesConfig, simvp: nn.Module, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (B, 3, H, W) frame 22 in [0, 1] that ``simvp`` draws after a (B, 11, H, W, 3) uint8 clip.

    Where it draws smaller frames, an overlay is laid over frame 11 at full size, and a change added to it, so that
    what stands still stays as sharp as it was. The second is the (B, 1, H, W) opacity of the overlay, 1 without one.
    """
    small, frame_11 = as_clip(clip, config.downscale), as_clip(clip[:, -1:], 1)[:, 0]
    if isinstance(simvp, Overlay):
        layer = enlarged(simvp.layer(small, LAST)[:, 0], config.downscale)
        return laid_over(frame_11, layer).clamp(0, 1), layer[:, 3:]
    drawn = simvp(small, LAST)[:, 0]
    if config.plain:
        frame = enlarged(drawn, config.downscale)
    else:
        frame = frame_11 + enlarged(drawn - small[:, -1], config.downscale)
    return frame.clamp(0, 1), torch.ones_like(frame[:, :1])


def last_mask(
    config: FramesConfig, segmenter: SegmentationUNet, frame: Tensor, opacity: Tensor, seen: Tensor
) -> Tensor:
    """Return the (B, 49, H, W) logits of frame 22.

    Unless ``plain``, what ``segmenter`` reads of the frame counts as much as the overlay is opaque: where it draws
    nothing, the mask of frame 11 is that of frame 22 too.

    Args:
        frame, opacity: see :func:`last_frame`.
        seen: (B, 11, H, W) uint8 masks of the clip.
    """
    if config.plain:
        return segmenter.logits(frame).float()
    shown = shown_classes(seen)
    probabilities = opacity.float() * read(segmenter, frame, shown).softmax(1)
    mask_11 = without_absent(seen[:, -1:], shown, BACKGROUND).long()
    probabilities.scatter_add_(1, mask_11, 1 - opacity.float())
    return probabilities.clamp_min(LEAST_PROBABILITY).log().masked_fill(~shown[:, :, None, None], -torch.inf)


def read(segmenter: SegmentationUNet, frame: Tensor, shown: Tensor, coarse: bool = False) -> Tensor:
    """Return what ``segmenter`` reads of frames, -inf for classes that are not among the (B, 49) ``shown``."""
    return segmenter.logits(frame, coarse).float().masked_fill(~shown[:, :, None, None], -torch.inf)


def shown_classes(seen: Tensor) -> Tensor:
    """Return (B, 49) bool: which classes (B, 11, H, W) uint8 masks show; the floor always."""
    labels = seen.flatten(1).long()
    counts = torch.zeros(len(seen), IGNORE + 1, dtype=torch.int64, device=seen.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels))
    shown = counts[:, :NUM_CLASSES] >= SHOWN_PIXELS
    shown[:, BACKGROUND] = True
    return shown


def without_absent(mask: Tensor, shown: Tensor, instead: int) -> Tensor:
    """Return a (B, 1, H, W) uint8 mask with another label where its class is not among the (B, 49) ``shown``."""
    known = F.pad(shown, (0, IGNORE + 1 - NUM_CLASSES))
    return mask.where(known.gather(1, mask.flatten(1).long()).view_as(mask), instead)


def enlarged(images: Tensor, factor: int) -> Tensor:
    """Return (B, C, H, W) images with sides ``factor`` times longer."""
    return F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False) if factor > 1 else images


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

    def evaluate(simvp: nn.Module) -> dict[str, float]:
        return evaluate_frames(partial(drawn_and_read, config, simvp, segmenter), held_out, folder, device)

    epochs = count_epochs(config.steps, config.batch_size, videos)
    recipe = (OneCycle if config.plain else Recipe)(config.steps, config.learning_rate, evaluations=epochs)
    batch = frame_batches(config, videos, seed)
    fit(simvp, partial(frames_loss, config), batch, folder, recipe, device, seed, evaluate)


def drawn_and_read(
    config: FramesConfig, simvp: nn.Module, segmenter: SegmentationUNet, clip: Clip
) -> tuple[Tensor, Tensor]:
    """Return (B, 3, H, W) frames 22 of B clips and their (B, H, W) uint8 masks, for evaluations."""
    drawn = last_frame(config, simvp, clip.frames)
    return drawn[0], last_mask(config, segmenter, *drawn, clip.masks).argmax(1).to(torch.uint8)


def frame_batches(config: FramesConfig, videos: Sequence[FrameVideos], seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws videos, and which of their futures are drawn: ``horizons`` (B, 3)."""
    batch_size = config.batch_size
    drawn = video_batches(batch_size, videos, seed, with_future=True, pasted=0.0 if config.plain else PASTED)

    def batch(step: int) -> dict[str, Tensor]:
        last = NUM_FRAMES - CLIP_FRAMES - 1
        others = np.random.default_rng((seed, step, last)).permutation(last)[:OTHER_HORIZONS]
        return drawn(step) | {"horizons": torch.tensor([*others, last]).repeat(batch_size, 1)}

    return batch


def frames_loss(config: FramesConfig, simvp: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of the frames that SimVP draws for a batch of :func:`frame_batches`."""
    clip, future = (as_clip(tensors[name], config.downscale) for name in ("clip", "future"))
    if config.plain:
        return frame_loss(simvp(clip), future, config.ssim_weight)
    horizons = tensors["horizons"][0]
    future = future[:, horizons]
    moved = (future - clip[:, -1:]).abs().amax(2, keepdim=True) > MOVED  # (B, T, 1, H, W)
    weights = future.new_tensor([1.0] * OTHER_HORIZONS + [LAST_WEIGHT])
    return frame_loss(simvp(clip, horizons), future, config.ssim_weight, weights, 1 + MOVED_WEIGHT * moved)


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

    def networks(part: nn.Module) -> tuple[nn.Module, nn.Module]:
        return (part.simvp, part.segmenter) if whole else (pipeline.simvp, part)

    def loss(part: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        simvp, segmenter = networks(part)
        with torch.set_grad_enabled(whole):
            frame, _ = last_frame(config, simvp, tensors["clip"])
        shown = shown_classes(tensors["seen"])
        logits = read(segmenter, frame, shown, coarse=True)
        every = WIDTH // logits.shape[-1]
        target = without_absent(tensors["mask"][..., ::every, ::every], shown, IGNORE)
        return mask_loss(logits[:, None], target, config.jaccard_weight)

    def evaluate(part: nn.Module) -> dict[str, float]:
        return evaluate_frames(partial(drawn_and_read, config, *networks(part)), held_out, folder, device)

    steps = config.tuning_steps
    recipe = Recipe(steps, config.tuning_rate, evaluations=count_epochs(steps, config.batch_size, videos))
    batch = video_batches(config.batch_size, videos, seed, False, pasted=0.0 if config.plain else PASTED)
    fit(part, loss, batch, folder, recipe, device, seed, evaluate)


MEMBER = Member(load_frames, lambda config: FramePipeline(config.frames, build_segmenter(config.segmenter)))
