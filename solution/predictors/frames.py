"""The frame-space predictor: SimVP draws frame 22, the U-Net segments what it drew, and both are tuned together.

SimVP learns from all videos, fine-tuning from those with masks; each kind of fine-tuning is a stage with a name and is
off when it has no steps.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from data_prep.files import write_saved
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.checkpoints import WEIGHTS, load_weights, save_weights
from solution.clips import FrameVideos, draw_videos
from solution.losses import frame_loss, mask_loss, structural_similarity
from solution.metrics import score
from solution.models.convlstm import ConvLSTM
from solution.models.simvp import SimVP
from solution.models.unet import SegmentationUNet
from solution.predictors import Clip, Member, View
from solution.segmenter import SegmenterConfig, build_segmenter, load_segmenter
from solution.training import Recipe, autocast, fit

if TYPE_CHECKING:
    from solution.stages import Pipeline, Stage

STRIP_CLIPS = 3
EVALUATION_CLIPS = 64


@dataclass(frozen=True)
class FramesConfig:
    """SimVP's size and training, and how long each kind of fine-tuning goes on; the defaults are for a GPU.

    Attributes:
        network: ``simvp``, or in its place ``convlstm`` with ``N_S`` layers of ``hid_S`` channels, for comparison.
        downscale: SimVP sees and draws frames whose sides are this many times smaller.
        residual: SimVP draws what changes after frame 11, ConvLSTM what changes at every step, and not whole frames.
        ssim_weight: of 1 − SSIM beside the squared error.
        last_weight: of frame 22's error, where the other predicted frames weigh 1.
        segmenter_steps: of the U-Net on predicted frames; 0 is off, here and below.
        joint_steps: of both networks through the mask loss.
        pseudo_steps: the same with unlabeled videos, whose masks come from the segmenter.
        jaccard_weight: of the soft Jaccard in fine-tuning.
    """

    network: str = "simvp"
    translator: str = "gsta"
    hid_S: int = 64
    hid_T: int = 256
    N_S: int = 4
    N_T: int = 8
    downscale: int = 2
    residual: bool = True
    ssim_weight: float = 0.1
    last_weight: float = 3.0
    steps: int = 6000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    segmenter_steps: int = 500
    joint_steps: int = 1000
    pseudo_steps: int = 1000
    tuning_rate: float = 1e-4
    jaccard_weight: float = 1.0


QUICK = FramesConfig(
    translator="inception",
    hid_S=16,
    hid_T=64,
    N_T=3,
    steps=300,
    batch_size=4,
    segmenter_steps=60,
    joint_steps=60,
    pseudo_steps=60,
    tuning_rate=3e-4,
)
"""What two CPU cores can try in minutes."""

REPORT = FramesConfig(
    translator="inception",
    downscale=1,
    residual=False,
    ssim_weight=0.0,
    last_weight=1.0,
    steps=21_719,
    weight_decay=0.0,
    segmenter_steps=0,
    joint_steps=0,
    pseudo_steps=0,
)
"""The report this system comes from: squared error only, Adam (AdamW without decay), nothing tuned afterwards.

The steps are 25 epochs over 13,900 videos, unlabeled and train without the held-out tenth, at 16 clips a step.
"""


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
    """Return the untrained SimVP of a config."""
    simvp = SimVP(hid_S=config.hid_S, hid_T=config.hid_T, N_S=config.N_S, N_T=config.N_T, translator=config.translator)
    return Residual(simvp) if config.residual else simvp


NETWORKS = {
    "simvp": build_simvp,
    "convlstm": lambda config: ConvLSTM(config.hid_S, config.N_S, residual=config.residual),
}
"""What draws frames, by the name a config gives it."""


class FramePipeline(nn.Module):
    """Eleven frames → eleven predicted frames → class logits of the last."""

    def __init__(self, config: FramesConfig, segmenter: SegmentationUNet):
        super().__init__()
        if HEIGHT % config.downscale or WIDTH % config.downscale:
            raise ValueError(f"downscale divides {HEIGHT} and {WIDTH}, {config.downscale} does not")
        self.downscale = config.downscale
        self.simvp = NETWORKS[config.network](config)
        self.segmenter = segmenter

    def forward(self, clip: Tensor) -> Tensor:
        """Map a (B, 11, H, W, 3) uint8 clip to (B, 49, H, W) logits of frame 22."""
        return self.segmenter.logits(last_frame(self.simvp, clip, self.downscale))


def as_clip(frames: Tensor, downscale: int) -> Tensor:
    """Return (B, T, 3, H / downscale, W / downscale) float32 in [0, 1] of (B, T, H, W, 3) uint8 frames."""
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    if downscale > 1:
        images = F.avg_pool2d(images, downscale)
    return images.unflatten(0, frames.shape[:2])


def last_frame(simvp: SimVP, clip: Tensor, downscale: int) -> Tensor:
    """Return the (B, 3, H, W) frame 22 that ``simvp`` draws after a (B, 11, H, W, 3) uint8 clip."""
    drawn = simvp(as_clip(clip, downscale))[:, -1]
    if downscale == 1:
        return drawn
    return F.interpolate(drawn, scale_factor=downscale, mode="bilinear", align_corners=False)


class FramesPredictor:
    """A trained :class:`FramePipeline` behind the protocol; it looks at the clip's frames alone."""

    symmetries = frozenset({"flip"})

    def __init__(self, pipeline: FramePipeline):
        self.pipeline = pipeline.eval()

    @torch.inference_mode()
    def predict(self, clip: Clip, view: View) -> Tensor:
        with autocast(clip.frames.device):
            logits = self.pipeline(clip.frames)
        return logits.float().softmax(1)


def untuned(config: FramesConfig) -> FramesConfig:
    """Return what decides SimVP of a config: the rest is only read by fine-tuning."""
    return replace(config, segmenter_steps=0, joint_steps=0, pseudo_steps=0, tuning_rate=0.0, jaccard_weight=0.0)


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
        return evaluate_frames(simvp, segmenter, config.downscale, held_out, folder, device)

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
        ("segmenter", pipeline.segmenter, [labelled], config.segmenter_steps),
        ("joint", pipeline, [labelled], config.joint_steps),
        ("pseudo", pipeline, every_video, config.pseudo_steps),
    )
    for name, part, videos, steps in kinds:
        if steps > 0:
            if not (folder / name / WEIGHTS).exists():
                tune(config, pipeline, part, steps, videos, held_out, folder / name, device, seed)
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
    steps: int,
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
        return evaluate_frames(simvp, segmenter, config.downscale, held_out, folder, device)

    recipe = Recipe(steps, config.tuning_rate, evaluations=count_epochs(steps, config.batch_size, videos))
    fit(part, loss, video_batches(config.batch_size, videos, seed, False), folder, recipe, device, seed, evaluate)


def count_epochs(steps: int, batch_size: int, videos: Sequence[FrameVideos]) -> int:
    """Return how often training sees every video, rounded, at least 1."""
    return max(1, round(steps * batch_size / sum(len(part.rows) for part in videos)))


def video_batches(
    batch_size: int, videos: Sequence[FrameVideos], seed: int, with_future: bool
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws videos and mirrors half of them.

    Its tensors are uint8: ``clip`` (B, 11, H, W, 3), and either ``future`` (B, 11, H, W, 3) or, for fine-tuning,
    ``mask`` (B, 1, H, W) of frame 22.
    """

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, step))
        tensors: dict[str, list[np.ndarray]] = {}
        for part, drawn in draw_videos([len(v.rows) for v in videos], batch_size, rng):
            row = videos[part].rows[drawn]
            frames = videos[part].frames[row]
            side = slice(None, None, -1 if rng.random() < 0.5 else 1)
            tensors.setdefault("clip", []).append(frames[:CLIP_FRAMES, :, side])
            if with_future:
                tensors.setdefault("future", []).append(frames[CLIP_FRAMES:, :, side])
            else:
                tensors.setdefault("mask", []).append(videos[part].masks[row, -1:, :, side])
        return {name: torch.from_numpy(np.stack(arrays)) for name, arrays in tensors.items()}

    return batch


@torch.inference_mode()
def evaluate_frames(
    simvp: SimVP, segmenter: nn.Module, downscale: int, held_out: FrameVideos, folder: Path, device: torch.device
) -> dict[str, float]:
    """Return PSNR, SSIM, Jaccard and object IoU of frame 22, and save a strip of a few clips in ``folder``.

    The frame is scored at full size and the masks are what the segmenter makes of it.
    """
    errors, similarities, masks = [], [], []
    chosen = held_out.rows[:: max(1, len(held_out.rows) // EVALUATION_CLIPS)]
    for start in range(0, len(chosen), 4):
        frames = torch.from_numpy(held_out.frames[chosen[start : start + 4]]).to(device)
        with autocast(device):
            drawn = last_frame(simvp, frames[:, :CLIP_FRAMES], downscale).float().clamp(0, 1)
            masks.append(segmenter.classes(drawn).cpu())
        truth = as_clip(frames[:, -1:], 1)[:, 0]
        errors.append((drawn - truth).square().mean((1, 2, 3)).cpu())
        similarities.append(structural_similarity(drawn, truth).cpu())
        if start == 0:
            last_seen = as_clip(frames[:, CLIP_FRAMES - 1 : CLIP_FRAMES], 1)[:, 0]
            save_strip(last_seen, truth, drawn, folder)
    result = score(torch.cat(masks), held_out.masks[chosen, -1])
    return {
        "psnr": float(-10 * torch.cat(errors).log10().mean()),
        "ssim": float(torch.cat(similarities).mean()),
        "jaccard": result.jaccard,
        "object_iou": result.object_iou,
    }


def save_strip(last_seen: Tensor, truth: Tensor, drawn: Tensor, folder: Path) -> None:
    """Save frame 11 · true frame 22 · drawn frame 22 · |error| ×3 of the first clips, one row each, as the next PNG.

    All three: (B, 3, H, W) in [0, 1].
    """
    error = (3 * (drawn - truth).abs()).clamp(0, 1)
    rows = torch.cat((last_seen, truth, drawn, error), -1)[:STRIP_CLIPS]  # (3, 3, H, 4·W)
    picture = (255 * torch.cat(list(rows), -2)).round().byte().permute(1, 2, 0).cpu().numpy()
    path = folder / f"strip_{len(list(folder.glob('strip_*.png'))):02d}.png"
    write_saved(path, lambda file: Image.fromarray(picture).save(file, "png"))


def simvp_stage(pipeline: Pipeline) -> Stage:
    """Make the stage ``simvp``, what draws the frames; the segmenter scores it meanwhile and decides nothing."""
    segmenter, config, seed = pipeline.make("segmenter"), untuned(pipeline.config.frames), pipeline.config.seed

    def build(folder: Path) -> None:
        train_simvp(
            config,
            load_segmenter(pipeline.config.segmenter, segmenter.folder, pipeline.device),
            pipeline.all_frames(),
            pipeline.labelled_frames(pipeline.held_out_rows),
            folder,
            pipeline.device,
            seed,
        )

    decided_by = {"config": asdict(config), "data": pipeline.all_content(), "seed": seed}
    return pipeline.stage("simvp", decided_by, build)


def frames_stage(pipeline: Pipeline) -> Stage:
    """Make the stage ``frames``: the drawing and the reading of it, tuned."""
    simvp, segmenter = pipeline.make("simvp"), pipeline.make("segmenter")
    config, seed = pipeline.config.frames, pipeline.config.seed
    unlabeled = pipeline.packed.get("unlabeled") if config.pseudo_steps else None
    keys = {"simvp": simvp.key, "segmenter": segmenter.key}
    if unlabeled:
        keys["pseudo"] = pipeline.masks_stage(unlabeled).key

    def build(folder: Path) -> None:
        train_frames(
            config,
            pipeline.config.segmenter,
            load_segmenter(pipeline.config.segmenter, segmenter.folder, pipeline.device),
            simvp.folder,
            pipeline.labelled_frames(pipeline.fit_rows),
            pipeline.unlabeled_frames() if unlabeled else None,
            pipeline.labelled_frames(pipeline.held_out_rows),
            folder,
            pipeline.device,
            seed,
        )

    return pipeline.stage("frames", {"config": asdict(config), "seed": seed} | keys, build)


MEMBER = Member(
    {"simvp": simvp_stage, "frames": frames_stage},
    load_frames,
    lambda config: FramePipeline(config.frames, build_segmenter(config.segmenter)),
)
