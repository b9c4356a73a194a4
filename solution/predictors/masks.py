"""The mask-space predictor: SimVP on slots, all horizons at once or one frame at a time.

A clip's classes take at most K slots, so the network learns one physics instead of 48; its probabilities are handed
back to the classes afterwards. Where masks come from is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES, SHAPE_OF_CLASS, SHAPES
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.checkpoints import load_weights
from solution.clips import MaskVideos, draw_videos
from solution.config import MasksConfig, without
from solution.losses import mask_loss
from solution.metrics import score
from solution.models.simvp import SimVP
from solution.predictors import Clip, Member
from solution.training import Recipe, autocast, fit

LAST_WEIGHT = 3.0
"""Of frame 22's cross-entropy in oneshot, where the other horizons weigh 1."""
EMPTY = -1
"""Shape of a slot that no object of the clip takes."""

MIN_PIXELS = 12
"""A class with fewer pixels in all frames of a clip together is flicker of the segmenter."""

STAYS = 4.0
"""Logit with which every pixel starts as what it last was, which a short training otherwise is mostly spent on."""

TEACHER_SHARE = 0.5
"""Share of a rollout's training that predicts one frame from true ones; steps and own feedback grow after it."""


def slots_of(config: MasksConfig) -> int:
    """Return how many slots a network has: one for each class where it has a channel for each."""
    return NUM_CLASSES - 1 if config.form == "published" else config.slots


class SlotSimVP(nn.Module):
    """SimVP between slot masks: on the way in each square of pixels is one pixel, on the way out pixels again."""

    def __init__(self, config: MasksConfig):
        super().__init__()
        square = config.downscale * config.patch
        if HEIGHT % square or WIDTH % square:
            raise ValueError(f"downscale × patch divides {HEIGHT} and {WIDTH}, {square} does not")
        self.patch, self.downscale, self.rolls = config.patch, config.downscale, config.rolls
        self.is_compiled = False
        self.separate, self.slots = config.form != "published", slots_of(config)
        self.simvp = SimVP(
            (2 if self.separate else self.slots) + len(SHAPES),
            (1 if self.separate else self.slots + 1) * config.patch**2,
            CLIP_FRAMES,
            1 if config.rolls else config.horizons,
            *config.size,
            config.translator,
        )
        if config.rolls and (HEIGHT // square % self.simvp.multiple or WIDTH // square % self.simvp.multiple):
            raise ValueError(
                f"a rollout of N_S={config.size[2]} needs sides that {square * self.simvp.multiple} divides"
            )

    def compile(self, *options, **named) -> None:
        """Compile SimVP alone, for any number of objects; what is around it looks at how many there are.

        A rollout calls parts of it and stays as it is.
        """
        self.simvp.compile(*options, **named)
        self.is_compiled = not self.rolls

    def forward(
        self, slots: Tensor, shapes: Tensor, truth: Tensor | None = None, own: Tensor | None = None, steps: int = 11
    ) -> Tensor:
        """Return logits (B, T, K + 1, H, W) of the background and every slot; T is ``steps`` in a rollout.

        Args:
            slots: (B, 11, H, W) uint8, 0 is background, k + 1 slot k.
            shapes: (B, K) index into ``SHAPES``, ``EMPTY`` where no object is.
            truth: (B, steps, H, W) true slots of the predicted frames, for a rollout in training.
            own: (B, steps) bool, which predictions are fed back; where false, or not given, see ``truth``.
            steps: how far a rollout goes.
        """
        planes, last = self.split(self.planes(slots, shapes), shapes), self.certain(slots[:, -1:])
        if not self.rolls:
            if self.is_compiled:
                torch._dynamo.maybe_mark_dynamic(planes, 0)
            return self.logits(self.simvp(planes), last, shapes)
        latent, skip = self.simvp.encode(planes.flatten(0, 1))
        latent = latent.unflatten(0, planes.shape[:2])
        skip = skip.unflatten(0, planes.shape[:2])[:, -1]
        predicted = []
        for step in range(steps):
            decoded = self.simvp.decode(self.simvp.translate(latent)[:, 0], skip)[:, None]
            predicted.append(self.logits(decoded, last, shapes))
            if step + 1 < steps:
                last = predicted[-1].softmax(2)  # soft feedback
                if truth is not None:
                    last = torch.where(own[:, step, None, None, None, None], last, self.certain(truth[:, [step]]))
                planes = self.split(self.soft_planes(last[:, :, 1:], shapes), shapes)
                newest, skip = self.simvp.encode(planes[:, 0])
                latent = torch.cat((latent[:, 1:], newest[:, None]), 1)
        return torch.cat(predicted, 1)

    def certain(self, slots: Tensor) -> Tensor:
        """Return (B, T, K + 1, H, W) float32 probabilities of 0 and 1 of (B, T, H, W) slots."""
        numbers = torch.arange(self.slots + 1, dtype=torch.uint8, device=slots.device)[:, None, None]
        return (slots[:, :, None] == numbers).float()

    def planes(self, slots: Tensor, shapes: Tensor) -> Tensor:
        """Return (B, T, K + 3, H/patch, W/patch): the share of each square that each slot, then each shape covers.

        ``slots``: (B, T, H, W) uint8. Pixels are counted as bytes, many times faster than pooling one-hot floats.
        """
        device = slots.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        table = torch.full((len(slots), 256), IGNORE, dtype=torch.uint8, device=slots.device)
        table[:, 1 : self.slots + 1] = shapes  # EMPTY wraps to IGNORE
        numbers = torch.arange(self.slots + 1, dtype=torch.uint8, device=slots.device)[:, None, None]
        counts = []
        for kinds, wanted in ((slots, numbers[1:]), (look_up(table, slots), numbers[: len(SHAPES)])):
            squares = F.pixel_unshuffle(kinds[:, :, None], self.patch)  # (B, T, patch², h, w)
            counts.append(sum((pixel[:, :, None] == wanted).to(torch.uint8) for pixel in squares.unbind(2)))
        return torch.cat(counts, 2).to(dtype) / self.patch**2

    def soft_planes(self, presence: Tensor, shapes: Tensor) -> Tensor:
        """Return the same of (B, T, K, H, W) probabilities of the slots."""
        of_shape = F.one_hot(shapes.clamp(min=0), len(SHAPES)) * (shapes != EMPTY)[..., None]  # (B, K, 3)
        presence = F.avg_pool2d(presence.flatten(0, 1), self.patch).unflatten(0, presence.shape[:2])
        shape_planes = torch.einsum("btkhw,bks->btshw", presence, of_shape.to(presence.dtype))
        return torch.cat((presence, shape_planes), 2)

    def split(self, planes: Tensor, shapes: Tensor) -> Tensor:
        """Return what SimVP sees of (B, T, K + 3, h, w) planes: themselves, or (n, T, 5, h, w) for n objects apart.

        An object's five planes are its own, that of all others, and those of the shapes.
        """
        if not self.separate:
            return planes
        clip, slot = (shapes != EMPTY).nonzero(as_tuple=True)
        own = planes[clip, :, slot]  # (n, T, h, w)
        others = planes[:, :, : self.slots].sum(2)[clip] - own
        return torch.cat((own[:, :, None], others[:, :, None], planes[clip, :, self.slots :]), 2)

    def join(self, drawn: Tensor, shapes: Tensor) -> Tensor:
        """Return (B, T, (K + 1)·patch², h, w) of what SimVP drew of :meth:`split`'s planes; 0 for the background."""
        if not self.separate:
            return drawn
        clip, slot = (shapes != EMPTY).nonzero(as_tuple=True)
        _, horizons, *sides = drawn.shape
        joined = drawn.new_zeros(len(shapes), self.slots + 1, horizons, *sides)
        joined[clip, slot + 1] = drawn
        return joined.transpose(1, 2).flatten(2, 3)

    def logits(self, predicted: Tensor, last: Tensor, shapes: Tensor) -> Tensor:
        """Return (B, T, K + 1, H, W) float32: the prior that nothing moves on, corrected; empty slots cannot win.

        Args:
            predicted: SimVP's corrections, see :meth:`join`.
            last: (B, 1, K + 1, H, W) probabilities of the last frame that is known.
            shapes: (B, K) as in :meth:`forward`.
        """
        empty = F.pad(shapes == EMPTY, (1, 0))[:, None, :, None, None]
        corrections = F.pixel_shuffle(self.join(predicted, shapes), self.patch).float()
        return (corrections + STAYS * last).masked_fill(empty, -1e4)


def slot_classes(masks: np.ndarray | Tensor, slots: int) -> Tensor:
    """Return (B, K) int64: the classes that (B, T, H, W) uint8 ``masks`` show, ascending, then 0 for each empty slot.

    With one slot for every class, slot k is class k + 1 whatever the masks show. Otherwise at most K classes, those
    with the most pixels, and none that is mere flicker.
    """
    if slots == NUM_CLASSES - 1:
        return torch.arange(1, NUM_CLASSES).repeat(len(masks), 1)
    classes = torch.zeros(len(masks), slots, dtype=torch.long)
    for row, mask in zip(classes, masks, strict=True):
        pixels = np.bincount(np.asarray(torch.as_tensor(mask).cpu()).ravel(), minlength=256)[:NUM_CLASSES]
        pixels[BACKGROUND] = 0
        largest = np.sort(np.argsort(-pixels, kind="stable")[:slots])
        kept = largest[pixels[largest] >= MIN_PIXELS]
        row[: len(kept)] = torch.from_numpy(kept)
    return classes


def to_slots(masks: Tensor, classes: Tensor) -> Tensor:
    """Return (B, T, H, W) uint8 slots of (B, T, H, W) uint8 classes: k + 1 for ``classes[:, k]``, 0 for any other.

    IGNORE stays IGNORE.
    """
    table = torch.zeros(len(masks), 256, dtype=torch.uint8, device=masks.device)
    numbers = torch.arange(1, classes.shape[1] + 1, dtype=torch.uint8, device=masks.device)
    table.scatter_(1, classes.to(masks.device), numbers.expand(len(masks), -1))
    table[:, BACKGROUND] = 0  # empty slots have written here
    table[:, IGNORE] = IGNORE
    return look_up(table, masks)


def look_up(table: Tensor, masks: Tensor) -> Tensor:
    """Return (B, ...) uint8 with every uint8 value v of clip b replaced by ``table[b, v]``; ``table``: (B, 256)."""
    return torch.stack([row[mask.int()] for row, mask in zip(table, masks, strict=True)])


def to_classes(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Return (B, 49, H, W) from (B, K + 1, H, W) slot probabilities; classes without a slot get 0."""
    batch, _, height, width = probabilities.shape
    index = F.pad(classes, (1, 0)).to(probabilities.device)  # slot 0 is the background
    return probabilities.new_zeros(batch, NUM_CLASSES, height, width).scatter_add_(
        1, index[:, :, None, None].expand_as(probabilities), probabilities
    )


def slot_shapes(classes: Tensor) -> Tensor:
    """Return (B, K) int64 shape of each slot's class; ``EMPTY`` for an empty slot."""
    return torch.from_numpy(SHAPE_OF_CLASS).to(classes.device)[classes]


class MasksPredictor:
    """A trained :class:`SlotSimVP` behind the protocol; it looks at the clip's masks alone."""

    symmetries = frozenset({"flip"})

    def __init__(self, network: SlotSimVP):
        self.network = network

    @torch.inference_mode()
    def predict(self, clip: Clip) -> Tensor:
        masks = thin(clip.masks, self.network.downscale)
        classes = slot_classes(masks, self.network.slots).to(clip.masks.device)
        with autocast(clip.masks.device):
            logits = self.network(to_slots(masks, classes), slot_shapes(classes))[:, -1]
        return to_classes(thicken(logits, self.network.downscale).softmax(1), classes)


def thin(masks: Tensor, downscale: int) -> Tensor:
    """Return every ``downscale``-th row and column of (..., H, W), from the first on."""
    return masks[..., ::downscale, ::downscale].contiguous()


def thicken(logits: Tensor, downscale: int) -> Tensor:
    """Return (B, K, H, W) logits between the (B, K, H / downscale, W / downscale) ones of what :func:`thin` leaves."""
    if downscale == 1:
        return logits
    height, width = (downscale * side for side in logits.shape[-2:])
    padded = F.pad(logits, (0, 1, 0, 1), mode="replicate")
    between = F.interpolate(padded, (height + 1, width + 1), mode="bilinear", align_corners=True)
    return between[..., :height, :width]


def slot_batches(config: MasksConfig, videos: Sequence[MaskVideos], seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws videos, mirrors half of them and gives classes slots."""
    lengths = [len(part.inputs) for part in videos]

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, step))
        ahead, own_share = _schedule(config, step)
        inputs, targets = [], []
        for part, row in draw_videos(lengths, config.batch_size, rng):
            start = rng.integers(NUM_FRAMES - CLIP_FRAMES - ahead + 1) if config.rolls else 0
            target_start = start + CLIP_FRAMES if config.rolls else NUM_FRAMES - ahead
            side = slice(None, None, -1 if rng.random() < 0.5 else 1)
            inputs.append(videos[part].inputs[row, start : start + CLIP_FRAMES, :, side])
            targets.append(videos[part].targets[row, target_start : target_start + ahead, :, side])
        inputs, targets = (thin(torch.from_numpy(np.stack(part)), config.downscale) for part in (inputs, targets))
        classes = slot_classes(inputs, slots_of(config))
        tensors = {"slots": to_slots(inputs, classes), "shapes": slot_shapes(classes)}
        tensors["target"] = to_slots(targets, classes)
        if config.rolls:
            tensors["own"] = torch.from_numpy(rng.random((config.batch_size, ahead)) < own_share)
        return tensors

    return batch


def _schedule(config: MasksConfig, step: int) -> tuple[int, float]:
    """Return how many frames to predict at this step and which share of them to feed back."""
    if not config.rolls:
        return config.horizons, 0.0
    longest = NUM_FRAMES - CLIP_FRAMES
    progress = (step / config.steps - TEACHER_SHARE) / (1 - TEACHER_SHARE)
    if progress < 0:
        return 1, 0.0
    # Full length from the middle of this phase on, so that frame 22 itself is learned by rolling out.
    return min(longest, 1 + int(2 * progress * longest)), min(1.0, 2 * progress)


def train_masks(
    config: MasksConfig,
    videos: Sequence[MaskVideos],
    held_out: MaskVideos,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> MasksPredictor:
    """Train the predictor into ``folder`` (weights, config, log) and return it.

    Args:
        config: the network and how to train it.
        videos: what to learn from: labelled videos, and unlabeled ones with the segmenter's masks as their truth.
        held_out: labelled training videos that are in none of ``videos``; every evaluation scores them.
        folder: made if missing; training resumes there.
        device: where to train.
        seed: of everything random.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2))
    torch.manual_seed(seed)
    recipe = Recipe(steps=config.steps, learning_rate=config.learning_rate)
    network = fit(
        SlotSimVP(config),
        partial(slots_loss, config),
        slot_batches(config, videos, seed),
        folder,
        recipe,
        device,
        seed,
        lambda network: evaluate_masks(network, held_out, device),
    )
    return MasksPredictor(network)


def slots_loss(config: MasksConfig, network: SlotSimVP, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of a batch of :func:`slot_batches`."""
    target = tensors["target"]
    horizon_weights = torch.ones(target.shape[1], device=target.device)
    if not config.rolls:
        horizon_weights[-1] = LAST_WEIGHT
        logits = network(tensors["slots"], tensors["shapes"])
    else:
        logits = network(tensors["slots"], tensors["shapes"], target, tensors["own"], target.shape[1])
    return mask_loss(logits, target, float(config.form != "published"), horizon_weights)


def evaluate_masks(network: SlotSimVP, videos: MaskVideos, device: torch.device) -> dict[str, float]:
    """Return the competition's ``jaccard`` and the mean ``object_iou`` on frame 22 of the videos."""
    predictor = MasksPredictor(network)
    predicted = []
    for start in range(0, len(videos.inputs), 8):
        masks = torch.tensor(videos.inputs[start : start + 8, :CLIP_FRAMES], device=device)
        predicted.append(predictor.predict(Clip(None, masks)).argmax(1).cpu())
    predicted, truth = torch.cat(predicted), np.asarray(videos.targets[:, -1])
    result = score(predicted.byte(), truth)
    return {"jaccard": result.jaccard, "object_iou": result.object_iou}


def load_masks(folder: Path, device: torch.device) -> MasksPredictor:
    """Rebuild the predictor that :func:`train_masks` left in ``folder``."""
    config = MasksConfig(**json.loads((folder / "config.json").read_text()))
    return MasksPredictor(load_weights(SlotSimVP(config), folder, device))


def used(config: MasksConfig) -> dict:
    """Return the settings that decide the form of a config."""
    return without(config, *(["horizons"] if config.rolls else []), *(["slots"] if config.form == "published" else []))


MEMBER = Member(
    load_masks,
    lambda config: SlotSimVP(config.masks),
    lambda config, videos, *place: train_masks(config.masks, videos.masks, videos.held_out, *place),
    lambda config: used(config.masks),
)
