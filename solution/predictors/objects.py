"""The objects predictor: masks and frames → tracks → simulated and learnt motion → drawn probabilities of frame 22.

The physics lives in ``solution.physics``, what is read off a clip with it in ``solution.kalman`` and
``solution.rollout``, the network in ``solution.models.dynamics``, the fit of outlines in ``solution.tracks`` and
``solution.edges``; here they are put together and trained.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from data_prep.classes import CUBE
from data_prep.scene import CAMERA, CLIP_FRAMES, FRAME_SECONDS, NUM_FRAMES, RADIUS
from solution.checkpoints import load_weights
from solution.config import ObjectsConfig
from solution.drawing import draw, fit_margin
from solution.edges import load_edges, track
from solution.forecast import Forecast
from solution.losses import forecast_loss
from solution.models.dynamics import Dynamics
from solution.models.edges import EdgeNetwork
from solution.motion import find_windows, fit_constants
from solution.physics import Constants
from solution.predictors import Clip, Member
from solution.rollout import Rollout, roll_out
from solution.tracks import Tracks
from solution.training import Recipe, fit

HORIZON = NUM_FRAMES - CLIP_FRAMES
SIMULATED_AT_ONCE = 1000
FITTED_ON = 100
"""Videos, at most, that the simulator's constants are fitted to."""
EDGES = "edges.safetensors"
TRUTH = ("position", "seen", "yaw", "judged")
"""Of a training batch: what a network does not see."""
APART = 3 * RADIUS
"""Units between the centres of two solids; nearer ones may touch, if only between two frames."""


def moved(tracks: Tracks, angle: Tensor, mirror: Tensor, shift: Tensor) -> Tracks:
    """Return the tracks with the floor mirrored in y (B,) bool, turned (B,) radians, and shifted (B, 2).

    Covariances, which no network looks at, stay those of the floor as it was filmed.
    """
    yaw = torch.where(mirror[:, None, None], -tracks.yaw, tracks.yaw) + angle[:, None, None]
    position = move(tracks.position, angle, mirror) + shift[:, None, None]
    return replace(tracks, position=position, yaw=yaw)


def without_bystanders(tracks: Tracks, random: torch.Generator) -> Tracks:
    """Return the tracks without half of those objects that never were seen near another."""
    position, visible = tracks.position, tracks.visible
    gap = (position[:, :, None] - position[:, :, :, None]).norm(dim=-1)  # (B, T, K, K)
    both = visible[:, :, None] & visible[:, :, :, None] & ~torch.eye(visible.shape[2], dtype=torch.bool)
    met = (both & (gap < APART)).any(1).any(-1)
    stays = met | (torch.rand(met.shape, generator=random) < 0.5)
    return replace(tracks, classes=tracks.classes * stays, visible=visible & stays[:, None])


def move(vectors: Tensor, angle: Tensor, mirror: Tensor) -> Tensor:
    """Return (B, ..., 2) vectors mirrored in y where asked, then turned by (B,) radians."""
    lead = [-1] + [1] * (vectors.ndim - 2)
    cos, sin = angle.cos().view(lead), angle.sin().view(lead)
    x, y = vectors.unbind(-1)
    y = torch.where(mirror.view(lead), -y, y)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), -1)


def moved_rollout(rollout: Rollout, angle: Tensor, mirror: Tensor, shift: Tensor) -> Rollout:
    """Return the rollout on a floor moved as in :func:`moved`."""
    yaw = torch.where(mirror[:, None, None], -rollout.yaw, rollout.yaw) + angle[:, None, None]
    path = move(rollout.path, angle, mirror) + shift[:, None, None, None]
    return replace(rollout, path=path, yaw=yaw, velocity=move(rollout.velocity, angle, mirror))


def last_seen(history: Tracks) -> tuple[Tensor, Tensor]:
    """Return (B, K) int64 frame in which each object was last visible, and (B, K, 2) where."""
    frames = history.visible.shape[1]
    index = torch.arange(1, frames + 1, device=history.visible.device)[:, None]
    last = (index * history.visible).amax(1) - 1
    where = history.position.gather(1, last.clamp_min(0)[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]
    return last.clamp_min(0), where


def network_inputs(history: Tracks, rollout: Rollout, camera: Tensor) -> dict[str, Tensor]:
    """Return what ``Dynamics.forward`` takes.

    Args:
        history: tracks of the 11 frames of B clips.
        rollout: the simulator's expectation for them.
        camera: (B, 2) the camera's place on the floor, which tells a turned floor from a straight one.
    """
    frames, objects = history.visible.shape[1:]
    seen = history.visible
    present = seen.any(1)
    last, origin = last_seen(history)
    offset = (history.position - origin[:, None]) * seen[..., None]
    cube = (history.shape == CUBE)[:, None] & seen
    facing = torch.stack(((4 * history.yaw).cos() * cube, (4 * history.yaw).sin() * cube), -1)
    timed = torch.cat((4 * offset, seen[..., None], history.border[..., None], history.shown[..., None], facing), -1)
    before = (last - 1).clamp_min(0)[:, None]
    earlier = history.position.gather(1, before[..., None].expand(-1, -1, -1, 2))[:, 0]
    moves = seen.gather(1, before)[:, 0] & (last > 0)
    velocity = (origin - earlier) * moves[..., None]
    shape = torch.nn.functional.one_hot(history.shape.clamp_min(0), 3)
    gap = (frames - 1 - last)[..., None] / frames
    view = camera[:, None].expand(-1, objects, -1)
    features = [timed.transpose(1, 2).flatten(2), origin, 4 * velocity, moves[..., None], gap, shape, view / 4]
    expected = rollout.path[:, :, 0]
    aside = rollout.path - expected[:, :, None]
    spread = aside.square().sum(-1).mean(2).sqrt()  # (B, K, F)
    is_cube = (history.shape == CUBE)[..., None, None]
    turn = torch.stack(((4 * rollout.yaw).cos(), (4 * rollout.yaw).sin()), -1) * is_cube
    struck = rollout.hit.clamp_max(2.0)
    mode_features = torch.cat((4 * aside.flatten(3), struck, turn), -1)
    closing = rollout.velocity * FRAME_SECONDS
    features += [
        4 * (expected - origin[:, :, None]).flatten(2),
        4 * spread,
        struck[:, :, 0],
        struck.mean(2),
        4 * closing,
        rollout.doubt.clamp_min(1e-4).log() / 4,
        turn[:, :, 0],
    ]
    away = origin[:, None] - origin[:, :, None]  # (B, K, K, 2) from each object to each other
    closing = closing[:, None] - closing[:, :, None]
    speed = closing.square().sum(-1)
    meeting = (-(away * closing).sum(-1) / speed.clamp_min(1e-4)).clamp(-5, 20)
    nearest = (away + meeting[..., None] * closing).norm(dim=-1)
    near = [away.norm(dim=-1), meeting / 10, nearest, ((nearest < 0.5) & (meeting > 0)).float()]
    near.append((expected[:, None] - expected[:, :, None]).norm(dim=-1).amin(-1))
    return {
        "features": torch.cat(features, -1) * present[..., None],
        "pairs": torch.cat((away, 4 * closing, torch.stack(near, -1)), -1),
        "present": present,
        "modes": mode_features,
        "anchor": rollout.path,
        "facing": turn,
    }


def build(config: ObjectsConfig) -> Dynamics:
    features, pairs, modes = CLIP_FRAMES * 7 + 11 + HORIZON * 5 + 6, 9, HORIZON * 3 + 2
    return Dynamics(features, pairs, modes, HORIZON, config.width, config.layers)


class Objects:
    """The predictor; mirrored masks are fitted anew, which averages out the errors of the fit."""

    symmetries = frozenset({"flip"})

    def __init__(
        self,
        model: Dynamics | None,
        constants: Constants,
        config: ObjectsConfig,
        device: torch.device,
        edges: EdgeNetwork | None = None,
    ):
        self.model, self.constants, self.config, self.device, self.edges = model, constants, config, device, edges

    @torch.no_grad()
    def predict(self, clip: Clip) -> Tensor:
        return self.predict_tracks(track(self.edges, clip.masks, clip.frames))

    @torch.no_grad()
    def predict_tracks(self, history: Tracks) -> Tensor:
        """Return the probabilities from tracks of the 11 frames."""
        history = history.to(self.device)
        present = history.visible.any(1)
        forecast, margin = self.forecast(history), self.constants.margin
        return draw(forecast, history.classes, history.shape, present, self.config.samples, margin)

    def forecast(self, history: Tracks) -> Forecast:
        """Return where the objects will be, from tracks of the 11 frames on the predictor's device."""
        rollout = roll_out(history, self.constants, HORIZON, self.config.modes)
        if self.model is None:
            return simulated(rollout)
        camera = torch.tensor(CAMERA[:2], device=self.device).expand(len(history), 2)
        return self.model(**network_inputs(history, rollout, camera))


def simulated(rollout: Rollout) -> Forecast:
    """Return the simulator's versions as a mixture of equal weights and little doubt beyond their spread."""
    weights = torch.zeros_like(rollout.yaw)
    turn = torch.stack(((4 * rollout.yaw).cos(), (4 * rollout.yaw).sin()), -1)
    scale = torch.full_like(rollout.path[..., 0], 0.01)
    return Forecast(weights, rollout.path, scale, turn, torch.full_like(weights[..., 0], 10.0))


def training_batches(
    tracks: Tracks, rollout: Rollout, config: ObjectsConfig, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function from a step to its batch: videos in random order, augmented.

    The floor is mirrored, turned and shifted, and some bystanders are left out; a rollout still has them, and one
    version in a hundred is hit by one.
    """
    videos = len(tracks)

    def batch(step: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        epoch, place = divmod(step * config.batch_size, videos)
        order = [
            torch.randperm(videos, generator=torch.Generator().manual_seed(seed * 7919 + e))
            for e in range(epoch, epoch + 2 + config.batch_size // videos)
        ]
        chosen = torch.cat(order)[place : place + config.batch_size]
        size = len(chosen)
        angle = torch.rand(size, generator=random) * 2 * math.pi
        mirror = torch.rand(size, generator=random) < 0.5
        shift = torch.randn(size, 2, generator=random) * 0.3
        video = moved(without_bystanders(tracks[chosen], random), angle, mirror, shift)
        expected = Rollout(**{f.name: getattr(rollout, f.name)[chosen] for f in fields(Rollout)})
        expected = moved_rollout(expected, angle, mirror, shift)
        camera = move(torch.tensor(CAMERA[:2]).expand(size, 2), angle, mirror) + shift
        history, future = video.frames(slice(CLIP_FRAMES)), video.frames(slice(CLIP_FRAMES, None))
        inputs = network_inputs(history, expected, camera)
        seen = future.visible.transpose(1, 2) & inputs["present"][..., None]
        yaw = torch.where(video.shape == CUBE, future.yaw[:, -1], torch.nan)
        truth = {"position": future.position.transpose(1, 2), "seen": seen, "yaw": yaw, "judged": inputs["present"]}
        return inputs | truth

    return batch


def dynamics_loss(model: Dynamics, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    truth = [batch[name] for name in TRUTH]
    forecast = model(**{name: value for name, value in batch.items() if name not in TRUTH})
    return forecast_loss(forecast, *truth)


def train_objects(
    config: ObjectsConfig,
    tracks: Tracks,
    labelled: int,
    folder: Path,
    device: torch.device,
    seed: int = 0,
) -> Objects:
    """Train on the tracks of whole videos (22 frames) and return the predictor, which also lies in ``folder``.

    Args:
        config: of the predictor.
        tracks: to learn from.
        labelled: so many of them, the first, come from labelled videos.
        folder: for what is learned.
        device: to train on.
        seed: of all that is drawn at random.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
    future = tracks[slice(min(FITTED_ON, labelled))].frames(slice(CLIP_FRAMES, None))
    windows = find_windows(tracks[:FITTED_ON].to("cpu"))
    constants = fit_constants(windows, Constants(margin=fit_margin(future)))
    (folder / "physics.json").write_text(json.dumps(asdict(constants), indent=1))
    rests_on = {"videos": min(FITTED_ON, len(tracks)), "windows": len(windows), "hit": int(windows.hit.any(1).sum())}
    (folder / "fitted_to.json").write_text(json.dumps(rests_on))
    if config.dynamics == "simulated":
        return Objects(None, constants, config, device)
    rollout = foreseen(tracks, constants, config, device)
    torch.manual_seed(seed)
    model = build(config)
    batch = training_batches(tracks.to("cpu"), rollout, config, seed)
    model = fit(model, dynamics_loss, batch, folder, Recipe(config.steps, config.learning_rate), device, seed)
    return Objects(model, constants, config, device)


def foreseen(tracks: Tracks, constants: Constants, config: ObjectsConfig, device: torch.device) -> Rollout:
    """Return what the simulator expects of all videos after frame 11, on the CPU."""
    history = tracks.frames(slice(CLIP_FRAMES))
    parts = [
        roll_out(history[slice(i, i + SIMULATED_AT_ONCE)].to(device), constants, HORIZON, config.modes)
        for i in range(0, len(tracks), SIMULATED_AT_ONCE)
    ]
    return Rollout(**{f.name: torch.cat([getattr(part, f.name).cpu() for part in parts]) for f in fields(Rollout)})


def load_objects(folder: Path, device: torch.device) -> Objects:
    """Return the predictor that :func:`train_objects` left in ``folder``."""
    config = ObjectsConfig(**json.loads((folder / "config.json").read_text()))
    constants = Constants(**json.loads((folder / "physics.json").read_text()))
    model = None if config.dynamics == "simulated" else load_weights(build(config), folder, device)
    edges = load_edges(folder / EDGES, device) if (folder / EDGES).exists() else None
    return Objects(model, constants, config, device, edges)


MEMBER = Member(
    load_objects,
    lambda config: build(config.objects) if config.objects.dynamics == "corrected" else None,
    at_once=sys.maxsize,
)
