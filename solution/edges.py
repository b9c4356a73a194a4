"""Where the objects' edges are in the frames, far finer than in a segmenter's masks: training and use of the network.

Masks say which object is where, nearly; the frame says where exactly. The outlines are those of ``solution.tracks``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_prep.classes import CUBE
from data_prep.errors import UserError
from data_prep.scene import HEIGHT, WIDTH
from solution.config import EdgesConfig
from solution.losses import share
from solution.models.edges import EdgeNetwork
from solution.tracks import FINE, OUTLINES_AT_ONCE, Outlines, Tracks, find_tracks, least_turn, prior
from solution.training import Recipe, autocast, fit
from solution.workers import one_thread

PROFILES = 64
"""Profiles across every outline."""
RAYS = (PROFILES, FINE[1])
"""On which they lie, and normals of the convex hull."""
REACH = 5
"""Pixels that a profile reaches to either side of the edge."""
DECIDING = 2
"""A profile counts where nothing hides the edge or the floor within so many pixels of it."""
FEATURES = 5 * (2 * REACH + 1) + 8
LEARNT_FROM = 0.2
"""Share of the inside that shows, from which an object is learnt from."""
ERRORS = ((0.75, 0.01), (0.25, 0.04))
"""Shares of the outlines to learn from, and by how many units (five times as many radians) they are moved."""
ROUNDS = 2
IN_COMMON = 0.3
"""Standard deviation in pixels of what the edges of one object are all off by, and of that at top and bottom more than
at its sides: what the network was not trained on it does not see where it is."""
KEPT = (400.0, 400.0, 8.0)
"""Information on x, y and yaw (per unit² and radian²) that keeps an outline in place where no edge is seen."""


@dataclass(frozen=True)
class Profiles:
    """What N outlines of one shape show of their frames along R normals."""

    features: Tensor
    """(N, R, FEATURES) float32."""
    usable: Tensor
    """(N, R) bool."""
    points: Tensor
    """(N, R, 2) on the outline, in the image."""
    normal: Tensor
    """(N, R, 2) outwards, along which the profiles lie."""
    met: Tensor
    """(N, R) which of the outline's normals these are, for :meth:`Outlines.slopes`."""


def read_profiles(
    fitted: Outlines, frames: Tensor, kind: int, position: Tensor, yaw: Tensor, chosen: Tensor
) -> Profiles:
    """Return the profiles across outlines in the (F, 160, 240, 3) uint8 frames whose labels ``fitted`` has.

    Args:
        fitted: what the outlines belong to, with R rays.
        frames: the images.
        kind: shape of all outlines.
        position: (N, 2) of the outlines.
        yaw: (N,).
        chosen: (N,) which of ``fitted`` they are.
    """
    centre = fitted.centre(position)
    radius = fitted.radii(kind, position, yaw, centre)
    points = centre[:, None] + radius[..., None] * fitted.ray.T
    distance, met, normal = fitted.outside(kind, position, yaw, points)
    points = points - distance[..., None] * normal  # corners are cut by the ray's few normals
    step = torch.arange(-REACH, REACH + 1, device=points.device)
    sampled = points[:, :, None] + step[:, None] * normal[:, :, None]  # (N, R, S, 2)
    label = fitted.look(sampled, chosen)
    colour = colours(frames, fitted.image[chosen], sampled)
    usable = (label != 0)[..., REACH - DECIDING : REACH + DECIDING + 1].all(-1)
    shape = torch.nn.functional.one_hot(torch.full_like(chosen, kind), 3).float()
    rubber = ((fitted.label[chosen] - 1) // 8 % 2).float()
    of_object = torch.cat((shape, rubber[:, None]), 1)[:, None].expand(-1, points.shape[1], -1)
    height = points[..., 1:] / (HEIGHT / 2) - 1
    parts = (colour.flatten(2), (label != 0).float(), (label > 0).float(), usable[..., None].float())
    return Profiles(torch.cat((*parts, normal, of_object, height), -1), usable, points, normal, met)


def colours(frames: Tensor, image: Tensor, points: Tensor) -> Tensor:
    """Return (N, ..., 3) float32 colours, about -2 to 2, between the pixels of frames.

    Args:
        frames: (F, 160, 240, 3) uint8.
        image: (N,) which frame.
        points: (N, ..., 2) image points; outside the image its nearest pixel counts.
    """
    column, row = (points - 0.5).unbind(-1)
    left, top = column.floor(), row.floor()
    pixels = frames.view(-1, 3)
    first = image.view(-1, *[1] * (row.ndim - 1)) * HEIGHT * WIDTH
    mixed = 0.0
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - (row - top - down).abs()) * (1 - (column - left - right).abs())
            r, c = (top.long() + down).clamp(0, HEIGHT - 1), (left.long() + right).clamp(0, WIDTH - 1)
            corner = first + r * WIDTH + c
            mixed = mixed + weight[..., None] * pixels.index_select(0, corner.flatten()).view(*corner.shape, 3)
    return 4 * (mixed / 255 - 0.45)


def train_edges(
    config: EdgesConfig,
    truth: Tracks,
    frames: np.ndarray,
    masks: np.ndarray,
    rows: np.ndarray,
    folder: Path,
    device: torch.device,
    seed: int,
) -> EdgeNetwork:
    """Train the network to move outlines, wrong by a little, to where the objects are.

    Args:
        config: network and recipe.
        truth: tracks of the first T frames of the videos ``rows``.
        frames: (N, at least T, 160, 240, 3) uint8.
        masks: (N, at least T, 160, 240) uint8, the segmenter's.
        rows: (n,) of the videos to learn from.
        folder: of the stage.
        device: where to train.
        seed: of weights, order and errors.

    Raises:
        UserError: the true masks show no whole object.
    """
    torch.manual_seed(seed)
    batch = edge_batches(config, truth, frames, masks, rows, seed)
    recipe = Recipe(config.steps, config.learning_rate, muon=True, ahead=True)
    with one_thread():
        return fit(EdgeNetwork(FEATURES, config.width), edges_loss, batch, folder, recipe, device, seed)


def edges_loss(model: EdgeNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean negative log-likelihood of a batch of :func:`edge_batches`, and the mean error in pixels.

    An offset's distribution is Laplace's; the constant is left out.
    """
    offset, log_scale = model(batch["features"])
    known = batch["known"]
    error = (batch["offset"] - offset).abs()
    surprise = 2**0.5 * error * torch.exp(-log_scale) + log_scale
    loss, error = (share((part * known).sum(), known.sum()) for part in (surprise, error))
    return {"loss": loss, "error": error.detach()}


def edge_batches(
    config: EdgesConfig, truth: Tracks, frames: np.ndarray, masks: np.ndarray, rows: np.ndarray, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function from a step to its batch: outlines of any frames, moved off the truth, half of them mirrored.

    Its tensors are ``features`` (B, R, FEATURES), ``offset`` (B, R) pixels outwards to the true edge, and ``known``
    (B, R) bool; for the other arguments see :func:`train_edges`.
    """
    found = (truth.visible & (truth.shown > LEARNT_FROM)).nonzero()
    if not len(found):
        raise UserError("the masks of the train videos show no whole object to learn from; check that they are right.")

    def batch(step: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        size = config.batch
        video, frame, slot = found[torch.randint(len(found), (size,), generator=random)].unbind(1)
        row = rows[video.numpy()]
        side = torch.where(torch.rand(size, generator=random) < 0.5, -1.0, 1.0)
        seen, labels = (
            torch.from_numpy(mirrored(part, row, frame.numpy(), side.numpy() < 0)) for part in (frames, masks)
        )
        label, shape = truth.classes[video, slot], truth.shape[video, slot]
        outlines = Outlines(labels.reshape(-1), torch.arange(size), label, shape, size, *RAYS)
        image, other = truth.visible[video, frame].nonzero(as_tuple=True)
        outlines.remember(truth.position[video, frame][image, other], image, truth.classes[video][image, other])
        position = truth.position[video, frame, slot] * torch.stack((torch.ones_like(side), side), -1)
        yaw = truth.yaw[video, frame, slot] * side
        (_, small), (often, large) = ERRORS
        error = torch.where(torch.rand(size, generator=random) < often, large, small)
        moved = position + error[:, None] * torch.randn(size, 2, generator=random)
        turned = yaw + 5 * error * torch.randn(size, generator=random) * (shape == CUBE)
        features = torch.zeros(size, PROFILES, FEATURES)
        offset, known = torch.zeros(size, PROFILES), torch.zeros(size, PROFILES, dtype=torch.bool)
        for kind, some in enumerate(outlines.chosen):
            if len(some):
                read = read_profiles(outlines, seen, kind, moved[some], turned[some], some)
                outside, *_ = outlines.outside(kind, position[some], yaw[some], read.points)
                features[some], offset[some] = read.features, -outside
                known[some] = read.usable & (outside.abs() < REACH)
        return {"features": features, "offset": offset, "known": known}

    return batch


def mirrored(images: np.ndarray, row: np.ndarray, frame: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Return the images[row, frame], mirrored left to right where (B,) bool ``turned`` says so."""
    picked = np.empty((len(row), *images.shape[2:]), images.dtype)
    for image, r, t, flips in zip(picked, row, frame, turned, strict=True):
        if flips:
            cv2.flip(images[r, t], 1, image)
        else:
            image[:] = images[r, t]
    return picked


def track(network: EdgeNetwork | None, masks: Tensor, frames: Tensor | None) -> Tracks:
    """Return the tracks of videos, places read off the frames where there are any and a network to read them.

    Args:
        network: trained on frames of the same look.
        masks: (V, T, 160, 240) uint8; values ≥ 49 mean "unknown".
        frames: (V, T, 160, 240, 3) uint8.
    """
    tracks = find_tracks(masks)
    if network is None or frames is None:
        return tracks
    return refine(network, tracks, masks, frames.to(masks.device))


@torch.no_grad()
def refine(network: EdgeNetwork, tracks: Tracks, masks: Tensor, frames: Tensor) -> Tracks:
    """Return the tracks with places, yaws and their covariances as the frames show them; see :func:`track`.

    What an object's edges in all frames are off by in common is solved for together with its places. It does not matter
    where both its top and bottom show, but where one is hidden, or outside the image, the object would seem to be
    elsewhere, and so faster or slower than it is.
    """
    length = frames.shape[1]
    video, frame, slot = tracks.visible.nonzero(as_tuple=True)
    label, shape = tracks.classes[video, slot], tracks.shape[video, slot]
    position, yaw = tracks.position[video, frame, slot], tracks.yaw[video, frame, slot]
    covariance = tracks.covariance[video, frame, slot]
    labels = masks.reshape(-1)
    outlines = Outlines(labels, video * length + frame, label, shape, len(tracks) * length, *RAYS)
    outlines.remember(position)
    images = frames.reshape(-1, HEIGHT, WIDTH, 3)
    owner = video * tracks.classes.shape[1] + slot
    precision = torch.eye(2, device=yaw.device).repeat(tracks.classes.numel(), 1, 1) / IN_COMMON**2
    total = yaw.new_zeros(tracks.classes.numel(), 2)
    lever = yaw.new_zeros(len(yaw), 3, 2)  # what x, y and yaw follow of what is in common
    for kind, chosen in enumerate(outlines.chosen):
        for some in chosen.split(OUTLINES_AT_ONCE[position.device.type]):
            for _ in range(ROUNDS):
                read = read_profiles(outlines, images, kind, position[some], yaw[some], some)
                with autocast(position.device):
                    offset, log_scale = network(read.features)
                on_edge = torch.zeros_like(offset)
                slope = outlines.slopes(kind, position[some], yaw[some], read.points, read.met, on_edge)
                weight = (read.usable * torch.exp(-2 * log_scale))[..., None]
                weighted = slope * weight
                information = weighted.transpose(1, 2) @ slope + prior(slope, KEPT)
                step = torch.linalg.solve(information, (weighted * offset[..., None]).sum(1))
                position[some] += step[:, :2].clamp(-0.1, 0.1)
                yaw[some] += step[:, 2].clamp(-0.2, 0.2)
                covariance[some] = torch.linalg.inv(information)
            common = torch.stack((torch.ones_like(offset), read.normal[..., 1].square() - 0.5), -1)
            heavy = (common * weight).transpose(1, 2)
            lever[some] = covariance[some] @ (weighted.transpose(1, 2) @ common)
            left = offset - (slope @ step[..., None])[..., 0]
            precision.index_add_(0, owner[some], heavy @ common - heavy @ slope @ lever[some])
            total.index_add_(0, owner[some], (heavy @ left[..., None])[..., 0])
    in_common = torch.linalg.solve(precision, total)[owner]
    step = -(lever @ in_common[..., None])[..., 0]
    position += step[:, :2].clamp(-0.3, 0.3)
    yaw += step[:, 2].clamp(-0.2, 0.2)
    found = {"position": position, "covariance": covariance}
    found["yaw"] = least_turn(yaw) * (shape == CUBE)
    for name, values in found.items():
        everywhere = getattr(tracks, name).clone()
        everywhere[video, frame, slot] = values
        found[name] = everywhere
    return replace(tracks, **found)


def load_edges(path: Path, device: torch.device) -> EdgeNetwork:
    """Return the network whose weights lie in a file, in evaluation mode."""
    weights = load_file(path)
    width, features = weights["across.weight"].shape
    network = EdgeNetwork(features, width)
    network.load_state_dict(weights)
    return network.to(device).eval()
