"""The mask-space predictor: SimVP on slots, all horizons at once or one frame at a time, or on classes as published.

A clip's classes take at most K slots, so the network learns one physics instead of 48; its probabilities are handed
back to the classes afterwards. Where masks come from is not known here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.classes import BACKGROUND, IGNORE, NUM_CLASSES, SHAPE_OF_CLASS, SHAPES
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.checkpoints import WEIGHTS, load_weights
from solution.clips import MaskVideos, draw_videos
from solution.config import MasksConfig, without
from solution.losses import mask_loss
from solution.metrics import score
from solution.models.simvp import SimVP
from solution.predictors import Clip, Member
from solution.training import OneCycle, Recipe, autocast, fit

SLOTS = 8
"""How many objects a clip may have."""

LAST_WEIGHT = 3.0
"""Of frame 22's cross-entropy in oneshot, where the other horizons weigh 1."""
EMPTY = -1
"""Shape index of an empty slot."""

MIN_PIXELS = 12
"""A class with fewer pixels in all frames of a clip together is noise of the segmenter."""

STAYS = 4.0
"""Logit of the prior that nothing moves, which a short training would otherwise mostly be spent on."""

HORIZONS = NUM_FRAMES - CLIP_FRAMES

TEACHER_SHARE = 0.5
"""Share of a rollout's training with teacher forcing and one predicted frame; after it the number of frames and the
share of predictions that are fed back grow."""

EPOCHS, CYCLE_EPOCHS = 17, 20
"""Of the published training without feedback, and of its one-cycle schedule, which was not finished."""


class SlotSimVP(nn.Module):
    """SimVP from slot masks to slot masks, with pixel unshuffling before it and pixel shuffling after it."""

    def __init__(self, config: MasksConfig):
        super().__init__()
        square = config.downscale * config.patch
        if HEIGHT % square or WIDTH % square:
            raise ValueError(f"downscale × patch divides {HEIGHT} and {WIDTH}, {square} does not")
        self.patch, self.downscale, self.rolls = config.patch, config.downscale, config.form == "rollout"
        self.is_compiled = False
        self.simvp = SimVP(
            2 + len(SHAPES),
            config.patch**2,
            CLIP_FRAMES,
            1 if self.rolls else config.horizons,
            *config.size,
            config.translator,
        )
        if self.rolls and (HEIGHT // square % self.simvp.multiple or WIDTH // square % self.simvp.multiple):
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

    def probabilities(self, masks: Tensor) -> Tensor:
        """Return the (B, 49, H, W) float32 probabilities of frame 22 after (B, 11, H, W) uint8 masks."""
        seen = subsample(masks, self.downscale)
        classes = slot_classes(seen, SLOTS).to(masks.device)
        logits = self(to_slots(seen, classes), slot_shapes(classes))[:, -1]
        return to_classes(upsample(logits, self.downscale).softmax(1), classes)

    def certain(self, slots: Tensor) -> Tensor:
        """Return (B, T, K + 1, H, W) float32 probabilities of 0 and 1 of (B, T, H, W) slots."""
        numbers = torch.arange(SLOTS + 1, dtype=torch.uint8, device=slots.device)[:, None, None]
        return (slots[:, :, None] == numbers).float()

    def planes(self, slots: Tensor, shapes: Tensor) -> Tensor:
        """Return (B, T, K + 3, H/patch, W/patch): the share of each square that each slot, then each shape covers.

        ``slots``: (B, T, H, W) uint8. Pixels are counted as bytes, many times faster than pooling one-hot floats.
        """
        device = slots.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        table = torch.full((len(slots), 256), IGNORE, dtype=torch.uint8, device=slots.device)
        table[:, 1 : SLOTS + 1] = shapes  # EMPTY wraps to IGNORE
        numbers = torch.arange(SLOTS + 1, dtype=torch.uint8, device=slots.device)[:, None, None]
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
        """Return what SimVP sees of (B, T, K + 3, h, w) planes: (n, T, 5, h, w) for n objects apart.

        An object's five planes are its own, that of all others, and those of the shapes.
        """
        clip, slot = (shapes != EMPTY).nonzero(as_tuple=True)
        own = planes[clip, :, slot]  # (n, T, h, w)
        others = planes[:, :, :SLOTS].sum(2)[clip] - own
        return torch.cat((own[:, :, None], others[:, :, None], planes[clip, :, SLOTS:]), 2)

    def join(self, drawn: Tensor, shapes: Tensor) -> Tensor:
        """Return (B, T, (K + 1)·patch², h, w) of what SimVP drew of :meth:`split`'s planes; 0 for the background."""
        clip, slot = (shapes != EMPTY).nonzero(as_tuple=True)
        _, horizons, *sides = drawn.shape
        joined = drawn.new_zeros(len(shapes), SLOTS + 1, horizons, *sides)
        joined[clip, slot + 1] = drawn
        return joined.transpose(1, 2).flatten(2, 3)

    def logits(self, predicted: Tensor, last: Tensor, shapes: Tensor) -> Tensor:
        """Return (B, T, K + 1, H, W) float32: the prior that nothing moves plus corrections; -1e4 for empty slots.

        Args:
            predicted: SimVP's corrections, see :meth:`join`.
            last: (B, 1, K + 1, H, W) probabilities of the last frame that is known.
            shapes: (B, K) as in :meth:`forward`.
        """
        empty = F.pad(shapes == EMPTY, (1, 0))[:, None, :, None, None]
        corrections = F.pixel_shuffle(self.join(predicted, shapes), self.patch).float()
        return (corrections + STAYS * last).masked_fill(empty, -1e4)


class ClassSimVP(nn.Module):
    """The published network: masks through an embedding of the classes at half the resolution to the next frame's.

    Maps (B, 11, H, W) uint8 masks to (B, 49, H, W) logits. Of the eleven frames that SimVP draws it is the first.
    """

    def __init__(self, config: MasksConfig):
        super().__init__()
        self.embedding = nn.Embedding(NUM_CLASSES, NUM_CLASSES)
        self.down = nn.Conv2d(NUM_CLASSES, NUM_CLASSES, 3, stride=2, padding=1)
        frames = CLIP_FRAMES, CLIP_FRAMES
        self.simvp = SimVP(NUM_CLASSES, NUM_CLASSES, *frames, *config.size, config.translator)
        self.up = nn.ConvTranspose2d(NUM_CLASSES, NUM_CLASSES, 2, stride=2)
        self.readout = nn.Conv2d(NUM_CLASSES, NUM_CLASSES, 1)

    def forward(self, masks: Tensor) -> Tensor:
        embedded = self.embedding(masks.flatten(0, 1).int()).movedim(-1, 1)  # (B·11, 49, H, W)
        seen = self.down(embedded).unflatten(0, masks.shape[:2])
        return self.readout(self.up(self.simvp(seen, [0])[:, 0]))

    def probabilities(self, masks: Tensor) -> Tensor:
        """Return the (B, 49, H, W) float32 probabilities of frame 22 after (B, 11, H, W) uint8 masks."""
        for _ in range(HORIZONS - 1):
            masks = self.fed_back(masks)
        return self(masks).float().softmax(1)

    @torch.no_grad()
    def fed_back(self, masks: Tensor) -> Tensor:
        """Return the (B, 11, H, W) uint8 masks one frame later: with what follows most probably as the last."""
        following = self(masks).argmax(1, keepdim=True).to(torch.uint8)
        return torch.cat((masks[:, 1:], following), 1)


def build_masks(config: MasksConfig) -> SlotSimVP | ClassSimVP:
    """Return the untrained network."""
    return ClassSimVP(config) if config.form == "published" else SlotSimVP(config)


def slot_classes(masks: np.ndarray | Tensor, slots: int) -> Tensor:
    """Return (B, K) int64: the classes that (B, T, H, W) uint8 ``masks`` show, ascending, then 0 for each empty slot.

    At most K classes, those with the most pixels, and none with fewer than ``MIN_PIXELS``.
    """
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
    """A trained network behind the protocol; it looks at the clip's masks alone."""

    symmetries = frozenset({"flip"})

    def __init__(self, network: SlotSimVP | ClassSimVP):
        self.network = network

    @torch.inference_mode()
    def predict(self, clip: Clip) -> Tensor:
        with autocast(clip.masks.device):
            return self.network.probabilities(clip.masks)


def subsample(masks: Tensor, downscale: int) -> Tensor:
    """Return every ``downscale``-th row and column of (..., H, W), from the first on."""
    return masks[..., ::downscale, ::downscale].contiguous()


def upsample(logits: Tensor, downscale: int) -> Tensor:
    """Return (B, K, H, W) logits interpolated between those of the pixels that :func:`subsample` leaves."""
    if downscale == 1:
        return logits
    height, width = (downscale * side for side in logits.shape[-2:])
    padded = F.pad(logits, (0, 1, 0, 1), mode="replicate")
    between = F.interpolate(padded, (height + 1, width + 1), mode="bilinear", align_corners=True)
    return between[..., :height, :width]


def windows(
    videos: Sequence[MaskVideos], batch_size: int, ahead: int, starts: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return (B, 11, H, W) inputs and (B, ``ahead``, H, W) targets that follow them, uint8, half of them mirrored.

    The first frame is one of the first ``starts`` of a video that is drawn.
    """
    inputs, targets = [], []
    for part, row in draw_videos([len(part.inputs) for part in videos], batch_size, rng):
        first = rng.integers(starts)
        last = first + CLIP_FRAMES
        side = slice(None, None, -1 if rng.random() < 0.5 else 1)
        inputs.append(videos[part].inputs[row, first:last, :, side])
        targets.append(videos[part].targets[row, last : last + ahead, :, side])
    return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))


def slot_batches(config: MasksConfig, videos: Sequence[MaskVideos], seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws videos, mirrors half of them and gives classes slots."""

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, step))
        ahead, own_share = _schedule(config, step)
        if config.form == "rollout":
            inputs, targets = windows(videos, config.batch_size, ahead, HORIZONS - ahead + 1, rng)
        else:
            inputs, targets = windows(videos, config.batch_size, HORIZONS, 1, rng)
            targets = targets[:, -ahead:]
        inputs, targets = subsample(inputs, config.downscale), subsample(targets, config.downscale)
        classes = slot_classes(inputs, SLOTS)
        tensors = {"slots": to_slots(inputs, classes), "shapes": slot_shapes(classes)}
        tensors["target"] = to_slots(targets, classes)
        if config.form == "rollout":
            tensors["own"] = torch.from_numpy(rng.random((config.batch_size, ahead)) < own_share)
        return tensors

    return batch


def _schedule(config: MasksConfig, step: int) -> tuple[int, float]:
    """Return how many frames to predict at this step and which share of them to feed back."""
    if config.form == "oneshot":
        return config.horizons, 0.0
    progress = (step / config.steps - TEACHER_SHARE) / (1 - TEACHER_SHARE)
    if progress < 0:
        return 1, 0.0
    # Full length from the middle of this phase on, so that frame 22 itself is learned by rolling out.
    return min(HORIZONS, 1 + int(2 * progress * HORIZONS)), min(1.0, 2 * progress)


def class_batches(batch_size: int, videos: Sequence[MaskVideos], seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws any eleven frames of a video and the one after them."""

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, step))
        masks, target = windows(videos, batch_size, 1, HORIZONS, rng)
        return {"masks": masks, "target": target}

    return batch


@dataclass(frozen=True)
class Sampling(Recipe):
    """Scheduled sampling (Bengio et al., NeurIPS 2015) as the published recipe has it.

    With a probability that rises to 0.43 a batch's last frame is the network's own. It draws from the first six
    windows of a video, and its schedule was made for 20 epochs, of which the best network had seen three.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0

    BATCH = 4
    STARTS = 6
    EPOCHS = 3
    PLANNED_EPOCHS = 20

    def rate(self, step: int) -> float:
        return self.learning_rate

    def own_share(self, step: int) -> float:
        """Return the probability that a step feeds a frame back."""
        done = step / self.steps * self.EPOCHS / self.PLANNED_EPOCHS
        return 1 - 1.05 ** (-100 * max(0.0, done - 0.033))

    def batches(self, videos: MaskVideos, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """Return the function of the step that draws eleven frames and what follows them or, if told, one more."""

        def batch(step: int) -> dict[str, Tensor]:
            rng = np.random.default_rng((seed, step))
            masks, following = windows([videos], self.BATCH, 2, self.STARTS, rng)
            own = rng.random() < self.own_share(step)
            return {"masks": masks, "target": following[:, [int(own)]], "own": torch.full((self.BATCH,), own)}

        return batch


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
        videos: what to learn from: first labelled videos, then unlabeled ones with the segmenter's masks as their
            truth; what is published takes those of both.
        held_out: labelled training videos that are in none of ``videos``; every evaluation scores them.
        folder: made if missing; training resumes there.
        device: where to train.
        seed: of everything random.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2))
    torch.manual_seed(seed)
    network = build_masks(config)

    def evaluate(network: nn.Module) -> dict[str, float]:
        return evaluate_masks(network, held_out, device)

    if config.form != "published":
        recipe, loss, batch = Recipe(config.steps, config.learning_rate), slots_loss, slot_batches(config, videos, seed)
        return MasksPredictor(fit(network, partial(loss, config), batch, folder, recipe, device, seed, evaluate))
    videos = [MaskVideos(part.inputs, part.inputs) for part in videos]
    single = folder / "single"
    if not (single / WEIGHTS).exists():
        recipe = OneCycle(config.steps, config.learning_rate, cycle=round(config.steps * CYCLE_EPOCHS / EPOCHS))
        batch = class_batches(config.batch_size, videos, seed)
        fit(network, next_loss, batch, single, recipe, device, seed, evaluate)
    network = load_weights(build_masks(config), single, device)
    sampling = Sampling(max(1, Sampling.EPOCHS * Sampling.STARTS * len(videos[0]) // Sampling.BATCH))
    batch = sampling.batches(videos[0], seed)
    return MasksPredictor(fit(network, next_loss, batch, folder, sampling, device, seed, evaluate))


def slots_loss(config: MasksConfig, network: SlotSimVP, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of a batch of :func:`slot_batches`."""
    target = tensors["target"]
    horizon_weights = torch.ones(target.shape[1], device=target.device)
    if config.form == "oneshot":
        horizon_weights[-1] = LAST_WEIGHT
        logits = network(tensors["slots"], tensors["shapes"])
    else:
        logits = network(tensors["slots"], tensors["shapes"], target, tensors["own"], target.shape[1])
    return mask_loss(logits, target, 1.0, horizon_weights)


def next_loss(network: ClassSimVP, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of a batch of :func:`class_batches` or :meth:`Sampling.batches`."""
    masks = tensors["masks"]
    if "own" in tensors and tensors["own"].all():
        masks = network.fed_back(masks)
    return mask_loss(network(masks)[:, None], tensors["target"])


def evaluate_masks(network: SlotSimVP | ClassSimVP, videos: MaskVideos, device: torch.device) -> dict[str, float]:
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
    return MasksPredictor(load_weights(build_masks(config), folder, device))


def used(config: MasksConfig) -> dict:
    """Return the settings that decide the form of a config."""
    unused = {"oneshot": (), "rollout": ("horizons",), "published": ("horizons", "downscale", "patch")}
    return without(config, *unused[config.form])


MEMBER = Member(
    load_masks,
    lambda config: build_masks(config.masks),
    lambda config, videos, *place: train_masks(config.masks, videos.masks, videos.held_out, *place),
    lambda config: used(config.masks),
)
