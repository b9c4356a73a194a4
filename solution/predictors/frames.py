"""The frame-space predictor: SimVP draws frame 22, the U-Net segments what it drew, and both are tuned together.

Unless ``plain``, what is drawn are the objects of frame 11, slid on. The masks of frames 1–11 say which there are, and
the one of frame 11 stays where nothing moved. Objects of other videos are put into those that both learn from.
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
from solution.layers import STILL, coverage, painted, slide, velocities, visible_objects
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


class Sliding(nn.Module):
    """Draws frames in which a clip's objects have slid on: (B, 11, 3, H, W) → (B, T, 3, H, W).

    Each object moves as a whole from where frame 11 shows it. SimVP sees frames around 0, how they differ from those
    before them, and how fast each object is. It draws the floor that comes to light, and says at each of an object's
    pixels, of which the mean counts, how its way differs from a steady slowing down: by a share of what it would be
    without that, and by pixels a frame. Its last layer, ``readout``, starts at zero.
    """

    MOTION = 3
    """Channels that say it."""
    SLOWING = 0.5
    """Of the way that objects would go in eleven frames at the speed of frame 11, the share that friction takes."""
    FAST = 5.0
    """Pixels a frame."""
    LEAST = 1e-3
    """Squares of SimVP that an object covers."""
    UNSEEN = 0.1
    """Frames of plain grey that count among those in which the floor was to be seen."""

    def __init__(self, config: FramesConfig):
        super().__init__()
        self.downscale, self.patch = config.downscale, config.patch
        hid_S, hid_T, N_S, N_T = config.size
        channels = 8 * config.patch**2, 3 * config.patch**2 + self.MOTION
        self.network = SimVP(*channels, hid_S=hid_S, hid_T=hid_T, N_S=N_S, N_T=N_T, translator=config.network)
        for parameter in self.network.readout.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, clip: Tensor, seen: Tensor, velocity: Tensor, horizons: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        classes, moves, *plan = self.plan(clip, seen, velocity, horizons)
        return slide(clip[:, -1], coverage(seen[:, -1], classes, self.downscale), moves, *plan)[0]

    def plan(
        self, clip: Tensor, seen: Tensor, velocity: Tensor, horizons: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        """Return what there is to slide and where to, for :func:`slide`.

        Args:
            clip: (B, 11, 3, h, w), sides ``downscale`` times smaller than those of the masks.
            seen: (B, 11, H, W) uint8 masks.
            velocity: (B, 11, 49, 2), see :func:`velocities`.
            horizons: see :meth:`SimVP.forward`.

        Returns:
            (B, K) classes of objects and whether they move, (B, T, K, 2) pixels to the right and down that they do, in
            the sizes of ``clip``, and the (B, T, 3, h, w) floor.
        """
        small = seen[..., :: self.downscale, :: self.downscale]
        before = torch.cat((clip[:, :1], clip[:, :-1]), 1)
        speeds = painted(velocity, small) / self.FAST
        images = torch.cat(((clip - GREY) / CONTRAST, (clip - before) / CONTRAST, speeds), 2)
        said = self.network(F.pixel_unshuffle(images, self.patch), horizons).float()
        motion, floor = said.split((self.MOTION, said.shape[2] - self.MOTION), 2)
        free = (small == BACKGROUND)[:, :, None]
        behind = ((clip * free).sum(1) + self.UNSEEN * GREY) / (free.sum(1) + self.UNSEEN)
        floor = behind[:, None] + CONTRAST * F.pixel_shuffle(floor, self.patch)
        classes = visible_objects(seen[:, -1])
        share = coverage(seen[:, -1], classes, self.downscale * self.patch)  # (B, K, 1, h', w')
        share = share / share.sum((3, 4), keepdim=True).clamp_min(self.LEAST)
        motion = (motion[:, :, None] * share[:, None]).sum((4, 5))  # (B, T, K, 3)
        latest = velocity[:, -1].gather(1, classes[..., None].expand(-1, -1, 2))  # (B, K, 2)
        # In both of the last steps: where another object passes, flow is at times wrong.
        moves = velocity[:, -2:].norm(dim=-1).amin(1).gather(1, classes) > STILL
        steps = torch.arange(1, CLIP_FRAMES + 1, device=clip.device)
        steps = (steps if horizons is None else steps[horizons])[:, None, None]
        way = 1 - self.SLOWING * steps / CLIP_FRAMES + motion[..., :1]
        shift = steps * (latest[:, None] * way + motion[..., 1:]) / self.downscale
        return classes, moves, shift * moves[:, None, :, None], floor


def build_simvp(config: FramesConfig) -> nn.Module:
    """Return the untrained network that draws frames."""
    hid_S, hid_T, N_S, N_T = config.size
    if config.network == "convlstm":
        return ConvLSTM(hid_S, N_S, residual=not config.plain)
    if config.plain:
        return SimVP(hid_S=hid_S, hid_T=hid_T, N_S=N_S, N_T=N_T, translator=config.network)
    return Sliding(config)


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
        drawn = last_frame(self.config, self.simvp, clip.frames, clip.masks)
        return last_mask(self.config, self.segmenter, *drawn, clip.masks)


def last_frame(
    config: FramesConfig, simvp: nn.Module, clip: Tensor, seen: Tensor, velocity: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the (B, 3, H, W) frame 22 in [0, 1] that ``simvp`` draws after a (B, 11, H, W, 3) uint8 clip.

    Where it sees smaller frames, objects slide at full size, and another network's change is added to frame 11, so that
    what stands still stays as sharp as it was.

    Args:
        config, simvp, clip: see above.
        seen: (B, 11, H, W) uint8 masks.
        velocity: see :func:`velocities`; found where it is not given.

    Returns:
        The frame, the (B, 1, H, W) share of each pixel that shows what moved, and (B, 49) bool, what that may be. A
        network that does not say so has drawn everything anew, and it may be any class of the clip.
    """
    small, frame_11 = as_clip(clip, config.downscale), as_clip(clip[:, -1:], 1)[:, 0]
    if isinstance(simvp, Sliding):
        if velocity is None:
            velocity = velocities(clip, seen).to(clip.device)
        classes, moves, shift, floor = simvp.plan(small, seen, velocity, LAST)
        floor = enlarged(floor[:, 0], config.downscale)[:, None]
        frame, moved = slide(frame_11, coverage(seen[:, -1], classes, 1), moves, config.downscale * shift, floor)
        movable = torch.zeros_like(velocity[:, 0, :, 0], dtype=torch.bool).scatter(1, classes, moves)
        movable[:, BACKGROUND] = True
        return frame[:, 0].clamp(0, 1), moved[:, 0].clamp(0, 1), movable
    drawn = simvp(small, LAST)[:, 0]
    if config.plain:
        frame = enlarged(drawn, config.downscale)
    else:
        frame = frame_11 + enlarged(drawn - small[:, -1], config.downscale)
    return frame.clamp(0, 1), torch.ones_like(frame[:, :1]), shown_classes(seen)


def last_mask(
    config: FramesConfig, segmenter: SegmentationUNet, frame: Tensor, moved: Tensor, movable: Tensor, seen: Tensor
) -> Tensor:
    """Return the (B, 49, H, W) logits of frame 22.

    Unless ``plain``, what ``segmenter`` reads of the frame counts where something moved; elsewhere the mask of frame 11
    is that of frame 22 too.

    Args:
        frame, moved, movable: see :func:`last_frame`.
        seen: (B, 11, H, W) uint8 masks of the clip.
    """
    if config.plain:
        return segmenter.logits(frame).float()
    shown = shown_classes(seen)
    probabilities = moved.float() * read(segmenter, frame, movable).softmax(1)
    mask_11 = without_absent(seen[:, -1:], shown, BACKGROUND).long()
    probabilities.scatter_add_(1, mask_11, 1 - moved.float())
    return probabilities.clamp_min(LEAST_PROBABILITY).log().masked_fill(~shown[:, :, None, None], -torch.inf)


def read(segmenter: SegmentationUNet, frame: Tensor, shown: Tensor) -> Tensor:
    """Return what ``segmenter`` reads of frames, -inf for classes that are not among the (B, 49) ``shown``."""
    return segmenter.logits(frame).float().masked_fill(~shown[:, :, None, None], -torch.inf)


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
    """Teach SimVP frames 12–22 of videos, into ``folder``.

    Args:
        config: the network and its recipe.
        segmenter: trained on true frames; it only takes part in the evaluations.
        videos: need no masks if ``plain``.
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
    if config.plain:
        recipe = OneCycle(config.steps, config.learning_rate, evaluations=epochs)
    else:
        recipe = Recipe(config.steps, config.learning_rate, evaluations=epochs, muon=True)
    batch = frame_batches(config, videos, seed)
    fit(simvp, partial(frames_loss, config), batch, folder, recipe, device, seed, evaluate)


def drawn_and_read(
    config: FramesConfig, simvp: nn.Module, segmenter: SegmentationUNet, clip: Clip
) -> tuple[Tensor, Tensor]:
    """Return (B, 3, H, W) frames 22 of B clips and their (B, H, W) uint8 masks, for evaluations."""
    drawn = last_frame(config, simvp, clip.frames, clip.masks)
    return drawn[0], last_mask(config, segmenter, *drawn, clip.masks).argmax(1).to(torch.uint8)


def slides(config: FramesConfig) -> bool:
    """Tell whether the config's network is a :class:`Sliding`."""
    return not config.plain and config.network != "convlstm"


def with_velocity(
    config: FramesConfig, batch: Callable[[int], dict[str, Tensor]]
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that adds ``velocity`` to a batch, where the config's network looks at it."""
    if not slides(config):
        return batch

    def wider(step: int) -> dict[str, Tensor]:
        tensors = batch(step)
        return tensors | {"velocity": velocities(tensors["clip"], tensors["seen"])}

    return wider


def frame_batches(config: FramesConfig, videos: Sequence[FrameVideos], seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws videos, and which of their futures are drawn: ``horizons`` (B, 3)."""
    batch_size = config.batch_size
    drawn = video_batches(batch_size, videos, seed, with_future=True, pasted=0.0 if config.plain else PASTED)

    def batch(step: int) -> dict[str, Tensor]:
        last = NUM_FRAMES - CLIP_FRAMES - 1
        others = np.random.default_rng((seed, step, last)).permutation(last)[:OTHER_HORIZONS]
        return drawn(step) | {"horizons": torch.tensor([*others, last]).repeat(batch_size, 1)}

    return with_velocity(config, batch)


def frames_loss(config: FramesConfig, simvp: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of the frames that SimVP draws for a batch of :func:`frame_batches`."""
    clip, future = (as_clip(tensors[name], config.downscale) for name in ("clip", "future"))
    if config.plain:
        return frame_loss(simvp(clip), future, config.ssim_weight)
    horizons = tensors["horizons"][0]
    future = future[:, horizons]
    moved = (future - clip[:, -1:]).abs().amax(2, keepdim=True) > MOVED  # (B, T, 1, H, W)
    weights = future.new_tensor([1.0] * OTHER_HORIZONS + [LAST_WEIGHT])
    more = (tensors["seen"], tensors["velocity"]) if slides(config) else ()
    return frame_loss(simvp(clip, *more, horizons), future, config.ssim_weight, weights, 1 + MOVED_WEIGHT * moved)


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
            frame, _, movable = last_frame(config, simvp, *(tensors.get(name) for name in ("clip", "seen", "velocity")))
        target = without_absent(tensors["mask"], movable, IGNORE)
        return mask_loss(read(segmenter, frame, movable)[:, None], target, config.jaccard_weight)

    def evaluate(part: nn.Module) -> dict[str, float]:
        return evaluate_frames(partial(drawn_and_read, config, *networks(part)), held_out, folder, device)

    steps = config.tuning_steps
    recipe = Recipe(steps, config.tuning_rate, evaluations=count_epochs(steps, config.batch_size, videos))
    batch = video_batches(config.batch_size, videos, seed, False, pasted=0.0 if config.plain else PASTED)
    fit(part, loss, with_velocity(config, batch), folder, recipe, device, seed, evaluate)


MEMBER = Member(
    load_frames,
    lambda config: FramePipeline(config.frames, build_segmenter(config.segmenter)),
    reads_unlabeled=lambda config: config.frames.plain or "pseudo" in config.frames.tuned,
)
