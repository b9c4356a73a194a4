"""The objects predictor: masks and frames → tracks → simulated motion → drawn probabilities of frame 22.

The physics lives in ``solution.physics``, what is read off a clip with it in ``solution.kalman`` and
``solution.rollout``, the fit of outlines in ``solution.tracks`` and ``solution.edges``, that of the physics in
``solution.motion``; here they are put together.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from data_prep.errors import UserError
from data_prep.scene import CLIP_FRAMES, NUM_FRAMES
from solution.config import ObjectsConfig
from solution.drawing import draw, fit_margin
from solution.edges import load_edges, track
from solution.kalman import Belief, observe
from solution.models.edges import EdgeNetwork
from solution.motion import find_windows, fit_motion
from solution.physics import Constants
from solution.predictors import Clip, Member
from solution.rollout import roll_out
from solution.tracks import Tracks

HORIZON = NUM_FRAMES - CLIP_FRAMES
FITTED_ON = 100
"""Videos, at most, that the simulator's constants are fitted to."""
EDGES = "edges.safetensors"


class Objects:
    """The predictor; mirrored masks are fitted anew, which averages out the errors of the fit.

    Args:
        constants: of the simulator.
        config: how many trajectories and positions are drawn.
        device: where tracks are followed and drawn.
        edges: reads places off frames; without it they are read off masks.
    """

    symmetries = frozenset({"flip"})

    def __init__(
        self, constants: Constants, config: ObjectsConfig, device: torch.device, edges: EdgeNetwork | None = None
    ):
        self.constants, self.config, self.device, self.edges = constants, config, device, edges

    @torch.no_grad()
    def predict(self, clip: Clip) -> Tensor:
        return self.predict_tracks(track(self.edges, clip.masks, clip.frames))

    @torch.no_grad()
    def predict_tracks(self, history: Tracks) -> Tensor:
        """Return the (B, 49, 160, 240) probabilities from tracks of the 11 frames."""
        history = history.to(self.device)
        return self.predict_belief(observe(history, self.constants), history)

    def predict_belief(self, belief: Belief, history: Tracks) -> Tensor:
        """Return the same from what is believed after the 11 frames."""
        position, yaw = roll_out(belief, self.constants, HORIZON, self.config.modes)
        present = history.visible.any(1)
        samples, margin = self.config.samples, self.constants.margin
        return draw(position, yaw, history.classes, history.shape, present, samples, margin)


def train_objects(config: ObjectsConfig, tracks: Tracks, folder: Path) -> None:
    """Fit the simulator's constants to tracks of whole videos (22 frames), into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
    tracks = tracks.to("cpu")
    windows = find_windows(tracks)
    margin = fit_margin(tracks.frames(slice(CLIP_FRAMES, None)))
    constants = fit_motion(tracks, windows, Constants(margin=margin))
    (folder / "physics.json").write_text(json.dumps(asdict(constants), indent=1))
    rests_on = {"videos": len(tracks), "windows": len(windows), "hit": int(windows.hit.any(1).sum())}
    (folder / "fitted_to.json").write_text(json.dumps(rests_on))


def load_objects(folder: Path, device: torch.device) -> Objects:
    """Return the predictor that :func:`train_objects` left in ``folder``.

    Raises:
        UserError: another version of the kit left it there.
    """
    config = ObjectsConfig(**json.loads((folder / "config.json").read_text()))
    path = folder / "physics.json"
    try:
        constants = TypeAdapter(Constants).validate_json(path.read_text())
    except ValidationError:
        raise UserError(f"{path} was made by another version of the kit; train the run again.") from None
    edges = load_edges(folder / EDGES, device) if (folder / EDGES).exists() else None
    return Objects(constants, config, device, edges)


MEMBER = Member(load_objects, reads_unlabeled=lambda config: False, at_once=sys.maxsize)
