"""Prediction errors of two laws of motion five frames ahead: the stand-in's engine and the simulator.

Windows of motion are measured on real videos, with a run's edge network, or come from files of true tracks. Also
printed: the constants fitted to them, the filter's errors of velocity in the standard deviations that it states, and
what ``objects`` makes of true masks, and would make of the true motion in the clip's last frame.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from data_prep.classes import CUBE, CYLINDER, SHAPES, SPHERE
from data_prep.errors import UserError, exits_cleanly
from data_prep.scene import CLIP_FRAMES, FRAME_SECONDS, HEIGHT, RADIUS, WIDTH, project
from data_prep.standin.engine import LAW, Law, slide
from data_prep.standin.physics import Trajectories
from data_prep.standin.tracks import read_tracks
from solution.config import ObjectsConfig
from solution.edges import track
from solution.ensemble import decode
from solution.kalman import Belief, observe
from solution.metrics import score
from solution.motion import (
    HORIZON,
    NEAR,
    NOISES,
    PRIOR,
    Windows,
    clear_places,
    errors,
    find_windows,
    fit_motion,
    foreseen,
    gaps,
)
from solution.physics import COMPONENTS, Constants
from solution.predictors.objects import Objects, load_objects
from solution.runs import choose_device, pack_and_report, read_run
from solution.tracks import MAX_OBJECTS, Tracks, join, least_turn

PERCENTILES = (50, 75, 90)
VIDEOS_AT_ONCE = 16
NORMAL = "0.67 1.15 1.64"
"""The same percentiles of a standard normal's absolute value."""
STEADY = 0.02
"""Acceleration that friction explains, units per frame²."""
MOVING = 0.1
"""Least speed of a solid whose velocity is judged, units/s."""
LOOKS = 3
"""Least number of frames of the clip in which it was seen."""
AROUND = slice(CLIP_FRAMES - 3, CLIP_FRAMES + 3)
"""Frames that tell the state in the clip's last one."""
THRESHOLD = 0.4
"""Of probabilities from which an object is drawn; see ``solution.ensemble``."""


def moved_by_engine(windows: Windows, law: Law = LAW) -> Tensor:
    """Return (W, HORIZON, K, 2) where the stand-in's engine says that the solids of windows will be."""
    names = ("deceleration", "damping", "drag", "spin_deceleration")
    start = windows.start(replace(Constants(), **{name: getattr(law, name) for name in names}))
    places = start.position[:, None].repeat(1, HORIZON, 1, 1)
    parts = (start.shape, start.position, start.yaw, start.velocity, start.spin, start.roll)
    for window, there in enumerate(start.there.numpy()):
        solids = [part[window].numpy()[there] for part in parts]
        moved = slide(solids[0], *(part.astype(np.float64) for part in solids[1:]), frames=HORIZON + 1, law=law)
        places[window][:, torch.from_numpy(there)] = torch.from_numpy(moved[0][1:])
    return places


def true_tracks(videos: list[Trajectories]) -> Tracks:
    """Return noise-free tracks of solids while their centre is in view."""
    length = len(videos[0].yaw)
    classes = torch.zeros(len(videos), MAX_OBJECTS, dtype=torch.int64)
    position = torch.zeros(len(videos), length, MAX_OBJECTS, 2)
    yaw = torch.zeros(len(videos), length, MAX_OBJECTS)
    for index, video in enumerate(videos):
        count = len(video.class_ids)
        classes[index, :count] = torch.from_numpy(video.class_ids.astype(np.int64))
        position[index, :, :count] = torch.from_numpy(video.position)
        yaw[index, :, :count] = torch.from_numpy(video.yaw)
    column, row = project(torch.cat((position, torch.full_like(position[..., :1], RADIUS)), -1)).unbind(-1)
    visible = (column > 0) & (column < WIDTH) & (row > 0) & (row < HEIGHT) & (classes > 0)[:, None]
    return Tracks(
        classes=classes,
        visible=visible,
        position=position * visible[..., None],
        yaw=least_turn(yaw) * visible,
        border=torch.zeros_like(visible),
        shown=visible.float(),
        pixels=visible.float(),
        covariance=torch.zeros(*yaw.shape, 3, 3),
    )


def predictor_of(run: str | None, device: torch.device) -> Objects:
    """Return the predictor of a run, or the one that learned nothing, which reads places off masks alone.

    Raises:
        UserError: there is no such run, or it has no edge network.
    """
    if run is None:
        return Objects(Constants(), ObjectsConfig(), device)
    _, stages = read_run(run)
    predictor = load_objects(stages["objects"].folder, device) if "objects" in stages else None
    if predictor is None or predictor.edges is None:
        raise UserError(f"run {run} has no edge network; name one that was trained with edges, or leave out --run.")
    return predictor


def tracks_of_videos(folder: Path, predictor: Objects) -> tuple[Tracks, np.ndarray]:
    """Return the tracks of a competition's labelled videos of N frames, and the (V, 160, 240) masks of the last ones.

    Raises:
        UserError: there are none.
    """
    parts, last = [], []
    for split in pack_and_report(folder, ()).values():
        if split.masks is None:
            continue
        for first in range(0, len(split), VIDEOS_AT_ONCE):
            rows = slice(first, first + VIDEOS_AT_ONCE)
            frames = None if split.frames is None else torch.from_numpy(np.array(split.frames[rows]))
            masks = torch.from_numpy(np.array(split.masks[rows]))
            parts.append(track(predictor.edges, masks.to(predictor.device), frames).to("cpu"))
            last.append(masks[:, -1].numpy())
    if not parts:
        raise UserError(f"{folder} has no videos with masks of every frame; name a folder that has.")
    return join(parts), np.concatenate(last)


def deviations(tracks: Tracks, constants: Constants) -> dict[str, np.ndarray]:
    """Return by shape (n,) errors of the filter's velocities after the clip, over the standard deviations it states.

    The truth is the mean velocity from one frame after the clip to four, without what friction and air took until
    then, of cubes and cylinders whose course is smooth there and that touch nothing around the clip's last frame.
    """
    belief = observe(tracks.frames(slice(CLIP_FRAMES)), constants)
    first, last = CLIP_FRAMES, CLIP_FRAMES + 3
    clear = clear_places(tracks)
    step = tracks.position[:, 1:] - tracks.position[:, :-1]
    change = (step[:, 1:] - step[:, :-1]).norm(dim=-1)[:, CLIP_FRAMES - 1 : last - 1]
    seconds = FRAME_SECONDS * (last - first)
    velocity = (tracks.position[:, last] - tracks.position[:, first]) / seconds
    speed = velocity.norm(dim=-1, keepdim=True)
    loss = velocity.new_tensor(constants.deceleration)[tracks.shape.clamp_min(0)][..., None]
    loss = loss + (constants.damping + constants.drag * speed) * speed
    before = velocity * (1 + (FRAME_SECONDS + seconds / 2) * loss / speed.clamp_min(1e-6))
    smooth = clear[:, CLIP_FRAMES - 1 : last + 1].all(1) & (change < STEADY).all(1) & (tracks.shape != SPHERE)
    smooth &= (speed[..., 0] > MOVING) & (tracks.visible[:, :CLIP_FRAMES].sum(1) >= LOOKS)
    ends = tracks.frames(slice(first - 1, first + 1))
    smooth &= ~(ends.visible & (gaps(ends).amin(-1) < NEAR)).any(1)
    deviation = belief.variance()[..., 2:4].sqrt()
    error = ((belief.state.velocity - before) / deviation).abs()
    return {SHAPES[kind]: error[smooth & (tracks.shape == kind)].flatten().numpy() for kind in (CUBE, CYLINDER)}


def true_start(belief: Belief, tracks: Tracks) -> tuple[Belief, Tensor]:
    """Return the belief after the clip with what later frames show of it, and (V, K) bool: of which solids they do.

    The solids are those whose course is smooth in the frames ``AROUND`` the clip's last one; a parabola through it says
    where they are then and how fast.
    """
    clear = clear_places(tracks)
    course = tracks.position[:, AROUND]  # (V, F, K, 2)
    smooth = clear[:, AROUND].all(1) & (course.diff(n=2, dim=1).norm(dim=-1) < STEADY).all(1)
    seconds = FRAME_SECONDS * (torch.arange(AROUND.start, AROUND.stop) - (CLIP_FRAMES - 1))
    powers = torch.stack((torch.ones_like(seconds), seconds, seconds.square()), 1)
    place, velocity, _ = torch.einsum("cf,vfkx->cvkx", torch.linalg.pinv(powers), course)
    chosen = smooth[..., None]
    state = replace(
        belief.state,
        position=torch.where(chosen, place, belief.state.position),
        velocity=torch.where(chosen, velocity, belief.state.velocity),
    )
    unsure = torch.ones(*smooth.shape, COMPONENTS, dtype=belief.covariance.dtype)
    unsure[..., :4] = (~chosen).to(unsure)
    unsure = unsure.flatten(1)
    return Belief(state, belief.covariance * unsure[:, :, None] * unsure[:, None]), smooth


def start_text(predictor: Objects, tracks: Tracks, truth: np.ndarray) -> str:
    """Return the object IoU that a predictor reaches from true masks, and with :func:`true_start`, as text."""
    drawn = {"true masks": [], "true start": []}
    known = 0
    for first in range(0, len(tracks), VIDEOS_AT_ONCE):
        part = tracks[first : first + VIDEOS_AT_ONCE]
        history = part.frames(slice(CLIP_FRAMES))
        belief = observe(history, predictor.constants)
        started, told = true_start(belief, part)
        known += int(told.sum())
        for name, start in {"true masks": belief, "true start": started}.items():
            drawn[name].append(decode(predictor.predict_belief(start, history), THRESHOLD).numpy())
    scores = {name: score(np.concatenate(masks), truth) for name, masks in drawn.items()}
    reached = ", ".join(f"{name} {of.object_iou:.3f} ± {of.object_iou_se:.3f}" for name, of in scores.items())
    return f"object IoU of frame 22: {reached} ({known} solids start as later frames show)"


def constants_text(constants: Constants) -> str:
    """Return the constants that can be fitted in one line."""
    values = asdict(constants)
    names = (*PRIOR, *NOISES, "first_roll", "drift")
    return ", ".join(f"{name} {' '.join(f'{v:.3f}' for v in np.ravel(values[name]))}" for name in names)


def together(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the values of several dictionaries of the same keys, one after the other."""
    parts = list(parts)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def table(title: str, tracks: Tracks, windows: Windows) -> str:
    """Return the errors of all laws, the constants found and the filter's errors as text.

    Each half of the videos is judged by constants fitted to the other, so that none tells its own law.
    """
    halves = [(half, find_windows(half)) for half in (tracks[::2], tracks[1::2])]
    crossed = [(*half, fit_motion(*other, Constants())) for half, other in zip(halves, halves[::-1], strict=True)]
    columns = " ".join(f"{f'{p} %':>6}" for p in PERCENTILES)
    kinds = {"hit": "with a hit", "free": "without"}
    lines = [
        f"{title}: units of error after {HORIZON} frames ({HORIZON * FRAME_SECONDS:.1f} s), {len(windows)} windows",
        f"{'':38}" + "".join(f" {name:>11} {columns}" for name in kinds.values()),
    ]
    errors_by = {
        "the stand-in's engine": errors(windows, moved_by_engine(windows)),
        "simulator, default constants": errors(windows, foreseen(windows, [Constants()])[0]),
        "simulator, fitted to the other half": together(
            errors(own, foreseen(own, [law])[0]) for _, own, law in crossed
        ),
    }
    for law, error_by_kind in errors_by.items():
        cells = []
        for kind in kinds:
            error = error_by_kind[kind]
            values = np.percentile(error, PERCENTILES) if len(error) else [np.nan] * len(PERCENTILES)
            cells.append(f" {len(error):>11} " + " ".join(f"{value:6.4f}" for value in values))
        lines.append(f"{law:38}" + "".join(cells))
    lines.append(f"default:       {constants_text(Constants())}")
    lines.append(f"fitted to all: {constants_text(fit_motion(tracks, windows, Constants()))}")
    lines.append(f"velocity at frame 11, errors in stated deviations, normally {NORMAL}:")
    deviations_by = {
        "default": deviations(tracks, Constants()),
        "fitted to the other half": together(deviations(half, law) for half, _, law in crossed),
    }
    for law, error_by_shape in deviations_by.items():
        for shape, error in error_by_shape.items():
            if len(error):
                shares = " ".join(f"{value:.2f}" for value in np.percentile(error, PERCENTILES))
                lines.append(f"  {f'{law}, {shape}':36} {shares} ({len(error)})")
    return "\n".join(lines)


@click.command()
@click.argument("real", type=click.Path(path_type=Path), required=False)
@click.option("--run", help="Run whose edge network finds the places. Default: they are read off the masks alone.")
@click.option("--tracks", type=click.Path(path_type=Path), multiple=True, help="File of true tracks; repeatable.")
@click.option("--videos", type=click.IntRange(1), default=300, show_default=True, help="Of every file of tracks.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@exits_cleanly
def main(real: Path | None, run: str | None, tracks: tuple[Path, ...], videos: int, device_name: str | None) -> None:
    """Print how far laws of motion are off on the labelled videos in REAL and on files of tracks."""
    if real is None and not tracks:
        raise click.UsageError("name a folder with labelled videos, or --tracks FILE, to read motion off.")
    true = {str(file): (true_tracks(read_tracks(file)[:videos]), None) for file in tracks}
    predictor = predictor_of(run, choose_device(device_name))
    seen = {} if real is None else {str(real): tracks_of_videos(real, predictor)}
    for name, (tracks_there, truth) in (seen | true).items():
        windows = find_windows(tracks_there)
        if not len(windows):
            raise UserError(f"{name}: expected solids that move smoothly for some frames, found none; add videos.")
        click.echo(table(name, tracks_there, windows))
        if truth is not None:
            click.echo(start_text(predictor, tracks_there, truth))


if __name__ == "__main__":
    main()
