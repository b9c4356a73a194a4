"""One class for every object of a clip, by whole looks at it: training and use of the classifier.

The segmenter names pixels; an object's material and shape show in all of it, and in all frames. Whose pixels they are
has been settled before, in ``solution.settling``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from data_prep.classes import BACKGROUND, NUM_CLASSES
from data_prep.scene import CLIP_FRAMES, HEIGHT, RADIUS, WIDTH, project
from solution.edges import colours
from solution.losses import share
from solution.models.classifier import CROP, GROUPS, PARTS, ObjectClassifier
from solution.settling import Candidates, find_candidates
from solution.tracks import Tracks, side
from solution.training import Recipe, autocast, fit, load_weights

LOOK, ROOM = 0.8, 1.0
"""Half the sides of a crop, and of what a crop is cut from in training; in widths of an object."""
LEARNT_FROM = 0.05
"""Share of the inside that shows, from which an object is learnt from."""
MOST_LOOKS = 30_000
"""Crops to learn from at most, drawn at random; each is 22 kB."""
TURN, ZOOM, SHEAR, SHIFT = 0.04, 0.05, 0.025, 0.055
"""Standard deviations by which crops are turned (radians), scaled, sheared and shifted (shares of the crop)."""
RECOLOURED = 0.5
"""Share of the crops with red, green and blue exchanged, from which shape and material are learnt, but no colour."""
BRIGHTNESS = 0.05
"""Standard deviations by which colours are multiplied and shifted in training."""
LEAST_SHOWN = 0.02
"""A look counts by the share of the inside that shows, at least so much."""
SAME_PLACE = 1.5 * RADIUS
"""Farther from each other than that, two outlines in one frame are two objects'; touching ones are two radii apart."""
KEPT = 4.0
"""By how many nats another class must be likelier than what the pixels were called."""
ONE_OBJECT = 5.0
"""Nats in favour of two classes being one object."""
CROPS_AT_ONCE = 512


@dataclass(frozen=True)
class ClassifierConfig:
    """The network and how it is trained; ``batch`` counts crops. If not ``used``, the segmenter's classes stay."""

    used: bool = True
    width: int = 64
    steps: int = 6000
    batch: int = 384
    learning_rate: float = 4e-3


def crops(frames: Tensor, image: Tensor, position: Tensor, pixels: int, reach: float) -> Tensor:
    """Return (N, 3, pixels, pixels) float32 crops, about -2 to 2, around where objects stand.

    Args:
        frames: (F, 160, 240, 3) uint8.
        image: (N,) which frame.
        position: (N, 2) on the floor.
        pixels: of the crops' sides, between which colours are interpolated.
        reach: half the sides, in widths of the object.
    """
    centre = project(F.pad(position, (0, 1), value=RADIUS))
    step = reach * (2 * (torch.arange(pixels, device=position.device) + 0.5) / pixels - 1)
    offset = torch.stack(torch.meshgrid(step, step, indexing="xy"), -1)
    points = centre[:, None, None] + side(centre[:, 1])[:, None, None, None] * offset
    return colours(frames, image, points).permute(0, 3, 1, 2)


def train_classifier(
    config: ClassifierConfig,
    truth: Tracks,
    frames: np.ndarray,
    rows: np.ndarray,
    folder: Path,
    device: torch.device,
    seed: int,
) -> ObjectClassifier:
    """Train the network to name the objects of labelled frames.

    Args:
        config: network and recipe.
        truth: tracks of all frames of the videos ``rows``, from their true masks.
        frames: (N, 22, 160, 240, 3) uint8.
        rows: (n,) of the videos to learn from.
        folder: of the stage.
        device: where to train.
        seed: of weights, order and augmentation.
    """
    torch.manual_seed(seed)
    recipe = Recipe(config.steps, config.learning_rate)
    batch = look_batches(config, truth, frames, rows, seed)
    return fit(ObjectClassifier(config.width), look_loss, batch, folder, recipe, device, seed)


def look_batches(
    config: ClassifierConfig, truth: Tracks, frames: np.ndarray, rows: np.ndarray, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function from a step to its batch: crops around objects of any frames, distorted, half mirrored.

    Its tensors are ``crops`` (B, 3, 48, 48), ``parts`` (B, 3) int64 shape, material and colour, and ``coloured`` (B,)
    bool: the colours are as filmed. For the other arguments see :func:`train_classifier`.
    """
    found = (truth.visible & (truth.shown > LEARNT_FROM)).nonzero()
    found = found[torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:MOST_LOOKS]]
    parts = PARTS[truth.classes[found[:, 0], found[:, 2]] - 1]
    roomy = round(CROP * ROOM / LOOK)
    stored = torch.empty(len(found), 3, roomy, roomy, dtype=torch.float16)
    for some in torch.arange(len(found)).split(CROPS_AT_ONCE):
        video, frame, slot = found[some].unbind(1)
        seen = torch.from_numpy(frames[rows[video.numpy()], frame.numpy()])
        stored[some] = crops(seen, torch.arange(len(some)), truth.position[video, frame, slot], roomy, ROOM).half()

    def batch(step: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        size = config.batch

        def normal(deviation: float, *shape: int) -> Tensor:
            return deviation * torch.randn(size, *shape, generator=random)

        chosen = torch.randint(len(found), (size,), generator=random)
        mirror = torch.where(torch.rand(size, generator=random) < 0.5, -1.0, 1.0)
        scale, turn = LOOK / ROOM * torch.exp(normal(ZOOM)), normal(TURN)
        across = torch.stack((mirror * turn.cos(), normal(SHEAR) - turn.sin()), 1) * scale[:, None]
        down = torch.stack((mirror * turn.sin(), turn.cos()), 1) * scale[:, None]
        affine = torch.cat((torch.stack((across, down), 1), normal(SHIFT, 2, 1)), 2)
        grid = F.affine_grid(affine, [size, 3, CROP, CROP], align_corners=False)
        looks = F.grid_sample(stored[chosen].float(), grid, align_corners=False)
        coloured = torch.rand(size, generator=random) >= RECOLOURED
        order = torch.rand(size, 3, generator=random).argsort(1)
        order[coloured] = torch.arange(3)
        looks = looks.gather(1, order[:, :, None, None].expand_as(looks))
        looks = looks * (1 + normal(BRIGHTNESS, 1, 1, 1)) + normal(BRIGHTNESS, 3, 1, 1)
        return {"crops": looks, "parts": parts[chosen], "coloured": coloured}

    return batch


def look_loss(model: ObjectClassifier, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the cross-entropies of a batch of :func:`look_batches`: their sum, and each by itself."""
    groups = model(batch["crops"]).split(GROUPS, 1)
    shape, material, colour = (
        F.cross_entropy(group, part, reduction="none") for group, part in zip(groups, batch["parts"].T, strict=True)
    )
    coloured = batch["coloured"]
    shape, material, colour = shape.mean(), material.mean(), share((colour * coloured).sum(), coloured.sum())
    parts = {"shape": shape.detach(), "material": material.detach(), "colour": colour.detach()}
    return {"loss": shape + material + colour} | parts


def name_objects(network: ObjectClassifier, masks: Tensor, frames: Tensor, videos_at_once: int = 32) -> Tensor:
    """Return the masks with the classes that their objects most likely have, all different in a video.

    The first ``CLIP_FRAMES`` frames decide for all. A class that is given to another object and seen only later, or
    nowhere well, becomes background.

    Args:
        network: trained on frames of the same look.
        masks: (V, T, 160, 240) uint8, settled.
        frames: (V, at least 11, 160, 240, 3) uint8.
        videos_at_once: how many are looked at together.
    """
    parts = (slice(first, first + videos_at_once) for first in range(0, len(masks), videos_at_once))
    return torch.cat([_name_objects(network, masks[some], frames[some]) for some in parts])


@torch.inference_mode()
def _name_objects(network: ObjectClassifier, masks: Tensor, frames: Tensor) -> Tensor:
    clip = masks[:, :CLIP_FRAMES].contiguous()
    seen = find_candidates(clip)
    _, shown, _ = seen.outlines.judge(seen.position, seen.yaw)
    images = frames[:, :CLIP_FRAMES].reshape(-1, HEIGHT, WIDTH, 3)
    evidence = torch.zeros(*seen.classes.shape, NUM_CLASSES - 1, device=masks.device)
    for some in torch.arange(len(shown), device=masks.device).split(CROPS_AT_ONCE):
        looks = crops(images, seen.outlines.image[some], seen.position[some], CROP, LOOK)
        with autocast(masks.device):
            likely = sum(network.log_likelihood(each) for each in (looks, looks.flip(3))) / 2
        weighted = shown[some, None].clamp_min(LEAST_SHOWN) * likely
        evidence.index_put_((seen.video[some], seen.slot[some]), weighted, accumulate=True)
    apart = _apart(seen).cpu()
    table = torch.arange(256, dtype=torch.uint8).repeat(len(masks), 1)
    for video, classes in enumerate(seen.classes.cpu()):
        there = ~apart[video].diagonal()
        called = classes[there]
        merit = evidence[video].cpu()[there]
        merit[torch.arange(len(called)), called - 1] += KEPT
        named = torch.from_numpy(likeliest_classes(merit.numpy(), apart[video][there][:, there].numpy())) + 1
        table[video, named] = BACKGROUND
        table[video, called] = named.to(torch.uint8)
    return table.to(masks.device).gather(1, masks.flatten(1).long()).view_as(masks)


def _apart(seen: Candidates) -> Tensor:
    """Return (V, C, C) bool: the two show in one frame far from each other; on the diagonal, one never shows at all."""
    videos, frames, count = seen.area.shape
    place = seen.position.new_full((videos, frames, count, 2), torch.nan)
    place[seen.video, seen.frame, seen.slot] = seen.position
    gap = (place[:, :, :, None] - place[:, :, None]).norm(dim=-1)
    never = place[..., 0].isnan().all(1)
    return (gap > SAME_PLACE).any(1) | torch.diag_embed(never)


def likeliest_classes(merit: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return (C,) int64 columns: what each row is, all different, but for rows that are better taken for one object.

    Args:
        merit: (C, 48) log-likelihoods of the classes.
        apart: (C, C) bool, symmetric: the two cannot be one object.
    """
    rows = [[row] for row in range(len(merit))]

    def assigned(rows: list[list[int]]) -> tuple[float, np.ndarray]:
        summed = np.stack([merit[some].sum(0) for some in rows])
        columns = linear_sum_assignment(summed, maximize=True)[1]
        return summed[range(len(rows)), columns].sum(), columns

    if not rows:
        return np.empty(0, np.int64)
    best, columns = assigned(rows)
    while True:
        tried = [
            [some for k, some in enumerate(rows) if k not in (i, j)] + [rows[i] + rows[j]]
            for i, j in itertools.combinations(range(len(rows)), 2)
            if not apart[np.ix_(rows[i], rows[j])].any()
        ]
        found = max(((*assigned(each), each) for each in tried), key=lambda one: one[0], default=(-np.inf,))
        if found[0] + ONE_OBJECT <= best:
            break
        best, columns, rows = found
    named = np.empty(len(merit), np.int64)
    for some, column in zip(rows, columns, strict=True):
        named[some] = column
    return named


def load_classifier(config: ClassifierConfig, folder: Path, device: torch.device) -> ObjectClassifier:
    """Return the trained network of a stage folder, in evaluation mode."""
    return load_weights(ObjectClassifier(config.width), folder, device)
