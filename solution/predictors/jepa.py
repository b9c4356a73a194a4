"""The other frame-space predictor: I-JEPA features, ViViT drawing frame 22 by them, a decoder that reads its mask off.

The encoder learns from all frames, the generator from all videos, the decoder from masks; each is trained on what the
one before it left, which stays as it is. All are trained into a folder, where an interrupted training goes on; held-out
videos are among none that are learned from, and what comes of them is logged.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from data_prep.classes import IGNORE
from data_prep.errors import UserError
from data_prep.scene import NUM_FRAMES
from solution.checkpoints import WEIGHTS, load_weights, save_weights
from solution.clips import FrameVideos, draw_videos
from solution.metrics import score
from solution.models.jepa import Encoder, Jepa, draw_patches, spread
from solution.models.mask_decoder import MaskDecoder, PatchSegmenter
from solution.models.unet import SegmentationUNet
from solution.models.vivit import ViViT
from solution.predictors import Clip, Member
from solution.predictors.drawn import (
    EVALUATION_CLIPS,
    FramesPredictor,
    as_clip,
    evaluate_frames,
    video_batches,
)
from solution.segmenter import FRAMES_AT_ONCE, as_images, segment_in_chunks
from solution.training import Recipe, autocast, fit

COLLAPSED = 0.01
"""An encoder whose features have less spread has collapsed."""
LOOKED_AT = 192
"""Frames whose features are compared for that."""


@dataclass(frozen=True)
class EncoderConfig:
    """I-JEPA, encoder and predictor of one size; the defaults are the report's, for 13,900 videos.

    Attributes:
        momentum: of the target encoder at first; it ends at 1.
        epochs: equal parts of the steps; each ends with a look at the features.
    """

    width: int = 192
    layers: int = 12
    heads: int = 3
    momentum: float = 0.996
    epochs: int = 300
    steps: int = 44_800
    batch_size: int = 2048
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class GeneratorConfig:
    """ViViT of the report's size; steps and rate are ours.

    Attributes:
        pixel_weight: of the squared error of pixels, beside that of features; the report has none.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    pixel_weight: float = 0.0
    steps: int = 40_000
    batch_size: int = 16
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class DecoderConfig:
    """The mask decoder, as wide as the encoder, and how long, in steps of ours, it learns from what; 0 is off.

    Attributes:
        pseudo_steps: on frames of unlabeled videos with the segmenter's masks.
        labelled_steps: on frames with true masks, then.
        tuning_steps: on drawn frames 22 with true masks, last.
        tuning_rate: the learning rate of these.
    """

    layers: int = 6
    heads: int = 3
    pseudo_steps: int = 20_000
    labelled_steps: int = 10_000
    tuning_steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 1e-3
    tuning_rate: float = 1e-4


@dataclass(frozen=True)
class JepaSizes:
    """The three networks and their training."""

    encoder: EncoderConfig = EncoderConfig()
    generator: GeneratorConfig = GeneratorConfig()
    decoder: DecoderConfig = DecoderConfig()


QUICK = JepaSizes(
    EncoderConfig(width=96, layers=4, momentum=0.95, epochs=4, steps=200, batch_size=64),
    GeneratorConfig(width=192, layers=4, heads=3, pixel_weight=100.0, steps=300, batch_size=4, learning_rate=1e-3),
    DecoderConfig(
        layers=2,
        pseudo_steps=400,
        labelled_steps=200,
        tuning_steps=40,
        batch_size=8,
        learning_rate=3e-3,
        tuning_rate=1e-3,
    ),
)
"""What two CPU cores can try in minutes: few steps, so the target follows faster and pixels help the generator."""

SMOKE = JepaSizes(
    EncoderConfig(width=24, layers=1, epochs=1, steps=2, batch_size=2),
    GeneratorConfig(width=24, layers=1, steps=2, batch_size=2),
    DecoderConfig(layers=1, pseudo_steps=2, labelled_steps=2, tuning_steps=2, batch_size=2),
)
"""What learns nothing, to see whether everything runs."""

SIZES = {"report": JepaSizes(), "quick": QUICK, "smoke": SMOKE}


@dataclass(frozen=True)
class PretrainingRecipe(Recipe):
    """The schedules of I-JEPA, with the report's numbers; all are functions of the step.

    The rate rises from a tenth over 15 of 300 epochs and falls to a thousandth by a cosine, by which the weight decay
    rises from 0.04 to 0.4; the momentum of the target rises to 1 linearly.
    """

    weight_decay: float = 0.04
    last_weight_decay: float = 0.4
    warmup: float = 15 / 300
    momentum: float = 0.996

    def rate(self, step: int) -> float:
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.learning_rate * (0.1 + 0.9 * step / warmup)
        return self.learning_rate * (0.001 + 0.999 * half_cosine(step - warmup, self.steps - 1 - warmup))

    def decay(self, step: int) -> float:
        change = self.weight_decay - self.last_weight_decay
        return self.last_weight_decay + change * half_cosine(step, self.steps - 1)

    def momentum_at(self, step: Tensor) -> Tensor:
        """Return the momentum with which the target follows at a step."""
        return self.momentum + (1 - self.momentum) * step / max(1, self.steps - 1)


def half_cosine(step: int, last: int) -> float:
    """Return what falls from 1 at step 0 to 0 at step ``last`` as half a cosine wave."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, last)))


class JepaPipeline(nn.Module):
    """Eleven frames → eleven drawn frames → class logits of the last."""

    def __init__(self, config: JepaSizes):
        super().__init__()
        encoder, generator, decoder = config.encoder, config.generator, config.decoder
        self.generator = ViViT(generator.width, generator.layers, generator.heads)
        self.segmenter = PatchSegmenter(
            Encoder(encoder.width, encoder.layers, encoder.heads),
            MaskDecoder(encoder.width, decoder.layers, decoder.heads),
        )

    def forward(self, clip: Clip) -> Tensor:
        """Map B clips, of which it looks at frames alone, to (B, 49, 160, 240) logits of frame 22."""
        return self.segmenter(self.draw(clip.frames))

    def draw(self, clip: Tensor) -> Tensor:
        """Return the (B, 3, 160, 240) frame 22 that follows a (B, 11, 160, 240, 3) uint8 clip."""
        return last_frame(self.generator, clip)


def last_frame(generator: ViViT, clip: Tensor) -> Tensor:
    """Return the (B, 3, 160, 240) frame 22 in [0, 1] drawn after a (B, 11, 160, 240, 3) uint8 clip."""
    return generator(as_clip(clip, 1))[:, -1].clamp(0, 1)


def drawn_and_read(draw: Callable[[Tensor], Tensor], segmenter: nn.Module, clip: Clip) -> tuple[Tensor, Tensor]:
    """Return the frames 22 that ``draw`` makes of the frames of B clips, and the masks that are read off them."""
    drawn = draw(clip.frames).float()
    return drawn, segmenter.classes(drawn)


def train_encoder(
    config: EncoderConfig,
    videos: Sequence[FrameVideos],
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> None:
    """Pretrain the I-JEPA encoder on single frames of videos without masks.

    Raises:
        UserError: the encoder collapsed, see :func:`look_at_features`.
    """
    torch.manual_seed(seed)
    network = Jepa(config.width, config.layers, config.heads)
    recipe = PretrainingRecipe(config.steps, config.learning_rate, momentum=config.momentum, evaluations=config.epochs)
    draw_frames = frame_batches(config.batch_size, videos, seed)

    def batch(step: int) -> dict[str, Tensor]:
        hidden, seen = draw_patches(config.batch_size, np.random.default_rng((seed, step)))
        return draw_frames(step) | {"hidden": hidden, "seen": seen}

    def loss(jepa: Jepa, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        network.follow(recipe.momentum_at(network.updates))
        predicted, target = jepa(as_images(tensors["frames"]), tensors["seen"], tensors["hidden"])
        return {"loss": F.mse_loss(predicted.float(), target)}

    def evaluate(jepa: Jepa) -> dict[str, float]:
        return look_at_features(jepa.target, held_out, device)

    fit(network, loss, batch, folder, recipe, device, seed, evaluate)


def train_generator(
    config: GeneratorConfig,
    encoder: Encoder,
    segmenter: SegmentationUNet,
    videos: Sequence[FrameVideos],
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> None:
    """Train ViViT to generate frames 12–22 whose encoder features match those of the true frames.

    The ``segmenter`` only takes part in the log: it says what a U-Net would make of the drawn frame 22.
    """
    torch.manual_seed(seed)
    encoder.requires_grad_(False)

    def loss(generator: ViViT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn, future = generator(as_clip(tensors["clip"], 1)), as_clip(tensors["future"], 1)
        features = F.mse_loss(encoder(drawn.flatten(0, 1)).float(), encoder(future.flatten(0, 1)).float())
        pixels = F.mse_loss(drawn.float(), future)
        return {"loss": features + config.pixel_weight * pixels, "features": features, "pixels": pixels}

    def evaluate(generator: ViViT) -> dict[str, float]:
        draw = partial(drawn_and_read, partial(last_frame, generator), segmenter)
        return evaluate_frames(draw, held_out, folder, device)

    network = ViViT(config.width, config.layers, config.heads)
    batch = video_batches(config.batch_size, videos, seed, with_future=True)
    fit(network, loss, batch, folder, Recipe(config.steps, config.learning_rate), device, seed, evaluate)


def train_jepa(
    config: JepaSizes,
    encoder_folder: Path,
    generator_folder: Path,
    labelled: FrameVideos,
    unlabeled: FrameVideos | None,
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> FramesPredictor:
    """Train the mask decoder on pseudo-labelled, labelled and generated frames in turn, and return the predictor.

    Args:
        config: all networks; the decoder's steps.
        encoder_folder: of :func:`train_encoder`.
        generator_folder: of :func:`train_generator`.
        labelled: videos with true masks.
        unlabeled: videos with the segmenter's masks.
        held_out: labelled videos.
        folder: each kind of training has a folder in it.
        device: where to train.
        seed: of everything random.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2))
    torch.manual_seed(seed)
    pipeline = JepaPipeline(config).to(device).eval()
    load_weights(pipeline.generator, generator_folder, device)
    pipeline.segmenter.encoder.load_state_dict(load_encoder(config.encoder, encoder_folder, device).state_dict())
    decoder = config.decoder
    kinds = (
        ("pseudo", unlabeled, decoder.pseudo_steps),
        ("labelled", labelled, decoder.labelled_steps),
        ("tuned", labelled, decoder.tuning_steps),
    )
    for name, videos, steps in kinds:
        if steps > 0 and videos is not None:
            if not (folder / name / WEIGHTS).exists():
                train_decoder(decoder, pipeline, name == "tuned", steps, videos, held_out, folder / name, device, seed)
            load_weights(pipeline.segmenter.decoder, folder / name, device)  # the EMA
    save_weights(pipeline, folder)
    return FramesPredictor(pipeline)


def load_jepa(folder: Path, device: torch.device) -> FramesPredictor:
    """Rebuild the predictor that :func:`train_jepa` left in ``folder``."""
    config = TypeAdapter(JepaSizes).validate_json((folder / "config.json").read_text())
    return FramesPredictor(load_weights(JepaPipeline(config), folder, device))


def load_patch_segmenter(folder: Path, device: torch.device) -> PatchSegmenter:
    """Return what reads masks off true frames: the decoder of ``folder`` as it was before tuning on drawn ones."""
    segmenter = load_jepa(folder, device).pipeline.segmenter
    learned = [folder / kind for kind in ("labelled", "pseudo") if (folder / kind).is_dir()]
    if learned:
        load_weights(segmenter.decoder, learned[0], device)
    return segmenter


def load_encoder(config: EncoderConfig, folder: Path, device: torch.device) -> Encoder:
    """Return the target encoder that :func:`train_encoder` left in ``folder``, in evaluation mode."""
    return load_weights(Jepa(config.width, config.layers, config.heads), folder, device).target


def train_decoder(
    config: DecoderConfig,
    pipeline: JepaPipeline,
    drawn: bool,
    steps: int,
    videos: FrameVideos,
    held_out: FrameVideos,
    folder: Path,
    device: torch.device,
    seed: int,
) -> None:
    """Train the pipeline's decoder on true frames, or on ``drawn`` frames 22; everything else stays as it is.

    See :func:`train_jepa` for the other arguments.
    """
    encoder = pipeline.segmenter.encoder

    def loss(decoder: MaskDecoder, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            features = encoder(pipeline.draw(tensors["clip"]) if drawn else as_images(tensors["frames"]))
        logits = decoder(features).float()
        return {"loss": F.cross_entropy(logits, tensors["mask"][:, 0].long(), ignore_index=IGNORE)}

    def evaluate(decoder: MaskDecoder) -> dict[str, float]:
        segmenter = PatchSegmenter(encoder, decoder)
        if drawn:
            return evaluate_frames(partial(drawn_and_read, pipeline.draw, segmenter), held_out, folder, device)
        chosen = held_out.rows[:EVALUATION_CLIPS]
        reached = score(segment_in_chunks(segmenter, held_out.frames[chosen, -1], device), held_out.masks[chosen, -1])
        return {"jaccard": reached.jaccard, "object_iou": reached.object_iou}

    batch = (
        video_batches(config.batch_size, [videos], seed, with_future=False)
        if drawn
        else frame_batches(config.batch_size, [videos], seed)
    )
    recipe = Recipe(steps, config.tuning_rate if drawn else config.learning_rate)
    fit(pipeline.segmenter.decoder, loss, batch, folder, recipe, device, seed, evaluate)


def frame_batches(batch_size: int, videos: Sequence[FrameVideos], seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws single frames and mirrors half of them.

    Its tensors are uint8: ``frames`` (B, 160, 240, 3), and ``mask`` (B, 1, 160, 240) if the videos have masks.
    """

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, step))
        tensors: dict[str, list[np.ndarray]] = {}
        for part, drawn in draw_videos([len(v.rows) for v in videos], batch_size, rng):
            row, time = videos[part].rows[drawn], rng.integers(NUM_FRAMES)
            side = slice(None, None, -1 if rng.random() < 0.5 else 1)
            tensors.setdefault("frames", []).append(videos[part].frames[row, time, :, side])
            if videos[part].masks is not None:
                tensors.setdefault("mask", []).append(videos[part].masks[row, time : time + 1, :, side])
        return {name: torch.from_numpy(np.stack(arrays)) for name, arrays in tensors.items()}

    return batch


@torch.inference_mode()
def look_at_features(encoder: Encoder, held_out: FrameVideos, device: torch.device) -> dict[str, float]:
    """Return the ``spread`` of an encoder's features over frames from all over the held-out videos.

    Raises:
        UserError: the encoder collapsed: it gives all frames the same features.
    """
    total = len(held_out.rows) * NUM_FRAMES
    rows, times = np.divmod(np.linspace(0, total - 1, min(LOOKED_AT, total)).astype(int), NUM_FRAMES)
    features, chunk = [], FRAMES_AT_ONCE[device.type]
    for i in range(0, len(rows), chunk):
        frames = torch.from_numpy(held_out.frames[held_out.rows[rows[i : i + chunk]], times[i : i + chunk]]).to(device)
        with autocast(device):
            features.append(encoder(as_images(frames)).float())
    reached = spread(torch.cat(features))
    if not reached >= COLLAPSED:
        raise UserError(
            f"the encoder collapsed: its features of different frames differ by {reached:.1e} of their scale, expected "
            f"at least {COLLAPSED}; lower its learning_rate or raise its momentum in SIZES of predictors/jepa.py."
        )
    return {"spread": reached}


MEMBER = Member(
    load_jepa,
    lambda config: JepaPipeline(SIZES[config.jepa.size]),
    readers={"mask decoder on true frame 22": load_patch_segmenter},
)
