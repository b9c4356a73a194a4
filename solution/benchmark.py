"""How fast the kit is here: scoring, packing, a training step, and the whole kit on a competition of full size.

Every command prints its numbers and records them with commit, hardware and versions. ``full`` can be stopped at a time
limit, and the same command goes on; what it adds up to is one recorded result.
"""

import csv
import json
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep import pack as packing
from data_prep.competition import find_competition
from data_prep.deadline import TimeIsUp, deadline, stop_signal
from data_prep.device import num_cores
from data_prep.errors import UserError, exits_cleanly
from data_prep.pack import PackedSplit, open_packed
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from data_prep.standin.physics import simulate, video_seed
from data_prep.standin.writer import Settings, make_standin, paint_videos
from solution import processes
from solution.evaluation import evaluate, print_table
from solution.metrics import score as score_masks
from solution.models.simvp import TRANSLATORS
from solution.pipeline import Pipeline, configured
from solution.predictors.drawn import as_clip
from solution.predictors.frames import build_simvp, frames_loss
from solution.presets import PRESETS
from solution.report import record_run
from solution.results_table import record_result
from solution.runs import STAGES, choose_device
from solution.stages import Stage, counted
from solution.submission import load_truth
from solution.training import OneCycle, autocast_dtype, fit

DATA = Path("data")
POSITIVE = click.FloatRange(0, 10_000, min_open=True)
FULL_SIZE = {"train": 1000, "val": 1000, "unlabeled": 13_000, "hidden": 5000}
LEAST = 2
"""Videos of a split at the smallest scale."""
NETWORKS = tuple(TRANSLATORS)
SEED = 1
"""Other videos than those of the small stand-in, on which the kit was developed."""


def record(name: str, rows: list[dict], device: torch.device) -> None:
    """Print rows of numbers and record them."""
    for row in rows:
        click.echo(json.dumps(row))
    record_result(f"benchmark-{name}", rows, seeds=[], data="", device=device)


@click.group()
def main() -> None:
    """Measure this machine, or the whole kit; the numbers go to solution/results/results.json."""


@main.command()
@click.option("--videos", default=5000, show_default=True, type=click.IntRange(1))
@exits_cleanly
def score(videos: int) -> None:
    """Score as many masks as a leaderboard file has."""
    truth = standin_masks(min(videos, 64))[np.arange(videos) % min(videos, 64)]
    prediction = np.roll(truth, 3, axis=2)
    seconds = best_seconds(lambda: score_masks(prediction, truth), 3, torch.device("cpu"))
    record("score", [{"videos": videos, "seconds": seconds}], torch.device("cpu"))


def standin_masks(videos: int) -> np.ndarray:
    """Return (N, 160, 240) uint8 masks of frame 22 of stand-in videos."""
    paths = [simulate(video_seed(0, number)) for number in range(videos)]
    return np.concatenate([paint_videos([path])[:, -1] for path in paths])


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@exits_cleanly
def pack(data: Path) -> None:
    """Pack the raw competition DATA, against bare ``cv2.imdecode`` of the same files on all cores.

    Name a small one: it is read into memory, and packed four times beside DATA.
    """
    splits = find_competition(data, required=()).splits
    paths = [path for videos in splits.values() for video in videos.values() for path in sorted(video.glob("*.png"))]
    if not paths:
        raise UserError(f"{data} has no frames to pack; name a raw competition.")
    encoded = [np.fromfile(path, np.uint8) for path in paths]

    def decode_all() -> None:
        with ThreadPoolExecutor(num_cores()) as threads:
            list(threads.map(lambda data: cv2.imdecode(data, cv2.IMREAD_COLOR) is None, encoded))

    def pack_all() -> None:
        with tempfile.TemporaryDirectory(dir=data.resolve().parent) as folder:
            packing.pack(data, Path(folder), required=())

    bare, packed = (len(paths) / best_seconds(work, 3, torch.device("cpu")) for work in (decode_all, pack_all))
    row = {"frames": len(paths), "pack_frames_per_s": packed, "imdecode_frames_per_s": bare, "ratio": packed / bare}
    record("pack", [row], torch.device("cpu"))


def best_seconds(run: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Return the seconds of the fastest of ``repeats`` runs, after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@main.command()
@click.option("--clips", default=1, show_default=True, type=click.IntRange(1), help="In a batch.")
@click.option("--steps", default=5, show_default=True, type=click.IntRange(1), help="The fastest counts.")
@click.option("--network", "networks", multiple=True, type=click.Choice(NETWORKS), default=NETWORKS, help="Repeatable.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@exits_cleanly
def simvp(clips: int, steps: int, networks: tuple[str, ...], device_name: str | None) -> None:
    """Time SimVP's training step of report-simvp: this kit's, the same in float32, and a bare one in float32."""
    device, rows = choose_device(device_name), []
    for network in networks:
        config = replace(PRESETS["report-simvp"].frames, network=network)
        bare = bare_step_seconds(build_simvp(config), random_batch(clips), steps, device)
        for dtype in dict.fromkeys((autocast_dtype(device), torch.float32)):
            seconds = step_seconds(build_simvp(config), partial(frames_loss, config), dtype, clips, steps, device)
            rows.append(
                {
                    "network": network,
                    "clips": clips,
                    "threads": torch.get_num_threads(),
                    "precision": str(dtype).removeprefix("torch."),
                    "step_ms": 1000 * seconds,
                    "bare_float32_ms": 1000 * bare,
                    "times_as_fast": bare / seconds,
                }
            )
    record("simvp", rows, device)


def random_batch(clips: int) -> dict[str, Tensor]:
    """Return noise as a batch of ``solution.predictors.drawn.video_batches``."""
    frames = np.random.default_rng(0).integers(0, 256, (2, clips, CLIP_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    return {name: torch.from_numpy(part) for name, part in zip(("clip", "future"), frames, strict=True)}


def step_seconds(
    model: nn.Module, loss: Callable, dtype: torch.dtype, clips: int, steps: int, device: torch.device
) -> float:
    """Return the seconds of the fastest step that :func:`solution.training.fit` makes after the first."""
    tensors = random_batch(clips)

    def in_dtype(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return loss(model, tensors)

    with tempfile.TemporaryDirectory() as folder:
        fit(model, in_dtype, lambda step: tensors, Path(folder) / "step", OneCycle(steps + 1), device)
        with open(Path(folder) / "step" / "log.csv") as file:
            return min(float(row["step_s"]) for row in list(csv.DictReader(file))[1:])


def bare_step_seconds(model: nn.Module, tensors: dict[str, Tensor], steps: int, device: torch.device) -> float:
    """Return the seconds of the fastest step of a loop with nothing but squared error and Adam."""
    model = model.to(device)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    clip, future = (as_clip(tensors[name].to(device), 1) for name in ("clip", "future"))

    def step() -> None:
        optimiser.zero_grad()
        F.mse_loss(model(clip), future).backward()
        optimiser.step()

    return best_seconds(step, steps, device)


@main.command()
@click.option("--scale", default=1.0, show_default=True, type=POSITIVE, help="1: full size.")
@click.option("--unlabeled", type=click.IntRange(0), help="Unlabeled videos.  [default: 13,000 times the scale]")
@click.option("--minutes", type=POSITIVE, help="Stop after so many; call again to go on.")
@click.option("--recipe", type=click.Choice(sorted(PRESETS)), default="full", show_default=True, help="A preset.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value; repeatable.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@exits_cleanly
@processes.together
def full(
    scale: float,
    unlabeled: int | None,
    minutes: float | None,
    recipe: str,
    settings: tuple[str, ...],
    device_name: str | None,
) -> None:
    """Train a preset on a stand-in competition, predict its hidden videos, and score every method."""
    config, device = configured(recipe, settings), choose_device(device_name)
    counts = {split: max(LEAST, round(scale * count)) for split, count in FULL_SIZE.items()}
    size = f"{scale:g}"
    if unlabeled is not None:
        counts["unlabeled"], size = unlabeled, f"{size}-unlabeled-{unlabeled}"
    data = DATA / f"standin-{size}"
    pipeline = None
    try:
        with deadline(math.inf if minutes is None else 60 * minutes):
            packed, made = make_data(data, counts, device)
            pipeline = Pipeline(config, packed, STAGES, device)
            pipeline.predictions(packed["hidden"])
            truth = load_truth(data / "hidden_truth.pt").masks.numpy()
            last_frames = np.load(data / "hidden_last_frames.npy", mmap_mode="r")
            scores, *_ = evaluate(pipeline, packed["hidden"], truth, last_frames)
    except TimeIsUp:
        done = ", ".join(["stand-in", *pipeline.done]) if pipeline else "nothing"
        click.echo(f"Time is up. Done: {done}. The same command goes on from here.")
        if stop_signal():
            raise
        return
    if processes.is_first():
        print_table(scores)
        sizes = ", ".join(f"{len(split)} {name}" for name, split in packed.items())
        name = f"full-{recipe}-{size}"
        record_run(name, scores, pipeline, f"stand-in of {sizes} videos, scored on hidden", before={"stand-in": made})
        click.echo(f"The result is recorded as {name}.")


def make_data(data: Path, counts: dict[str, int], device: torch.device) -> tuple[dict[str, PackedSplit], Stage]:
    """Return a packed stand-in competition of so many videos, made unless it is there, and what that took."""
    spent = data.with_name(f"{data.name}.json")
    data.parent.mkdir(exist_ok=True)
    with processes.first_goes_first():
        if processes.is_first() and not (data / "hidden_truth.pt").exists():
            with counted(spent, device):
                make_standin(data, Settings(**counts, seed=SEED, kind="packed"), device.type)
        packed = open_packed(data)
    cost = json.loads(spent.read_text())
    return packed, Stage(data, "", cost["seconds"], cost["peak_gib"])


if __name__ == "__main__":
    main()
