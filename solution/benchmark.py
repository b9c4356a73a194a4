"""How fast the kit is here: scoring, packing, rendering the stand-in, SimVP against plain float32, single steps.

Every command prints its numbers and records them with commit, hardware and versions. Nothing is trained but by
``full``, the whole kit on a stand-in competition of any size, which lives in a file of its own.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F

from data_prep import pack as packing
from data_prep.competition import find_competition
from data_prep.device import num_cores
from data_prep.errors import UserError, exits_cleanly
from data_prep.files import write_text
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from data_prep.standin.physics import simulate, video_seed
from data_prep.standin.writer import Settings, Source, make_videos, paint_videos
from solution.full_size import full
from solution.machine import commit, hardware, peak_gib, reset_peak, versions
from solution.metrics import score as score_masks
from solution.models.simvp import TRANSLATORS, SimVP
from solution.presets import PRESETS
from solution.profiling import jobs, peak_flops, profile_job, with_batch
from solution.runs import choose_device
from solution.training import autocast, autocast_dtype

RECORDS = Path(__file__).parent / "results" / "benchmarks"
DEVICE = click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")


def record(name: str, rows: list[dict], device: torch.device) -> None:
    """Print rows of numbers and write them to ``RECORDS``, with what they were measured on."""
    for row in rows:
        click.echo(json.dumps(row))
    made = {
        "command": shlex.join(["python", "-m", "solution.benchmark", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(device),
        "cores": num_cores(),
        "versions": versions(),
        "rows": rows,
    }
    RECORDS.mkdir(parents=True, exist_ok=True)
    write_text(RECORDS / f"{name}.json", json.dumps(made, indent=1) + "\n")


@click.group()
def main() -> None:
    """Measure this machine; the numbers go to solution/results/benchmarks, those of full to solution/results."""


main.add_command(full)


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

    Name a small one: it is read into memory, and packed three times beside DATA.
    """
    splits = find_competition(data, required=()).splits
    paths = [
        path for split, videos in splits.items() for video in videos.values() for path in sorted(video.glob("*.png"))
    ]
    if not paths:
        raise UserError(f"{data} has no frames to pack; name a raw competition.")
    bare = max(packing.decode_rate(paths) for _ in range(3))  # the first reads the files into memory
    rates = []
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=data.resolve().parent) as folder:
            start = time.perf_counter()
            packing.pack(data, Path(folder), required=())
            rates.append(len(paths) / (time.perf_counter() - start))
    row = {"frames": len(paths), "pack_frames_per_s": max(rates), "imdecode_frames_per_s": bare}
    record("pack", [row | {"ratio": max(rates) / bare}], torch.device("cpu"))


@main.command()
@click.option("--videos", default=None, type=click.IntRange(1), help="[default: 256 on a GPU, else 8]")
@DEVICE
@exits_cleanly
def render(videos: int | None, device_name: str | None) -> None:
    """Film stand-in videos, physics and masks included, on one device; writing them is not measured."""
    device = choose_device(device_name)
    on_gpu = device.type == "cuda"
    videos, at_once = videos or (256 if on_gpu else 8), 32 if on_gpu else 4
    numbers, source = list(range(videos)), Source(Settings(videos, 0, 0, 0, 0, "packed"))

    def make() -> None:
        for first in range(0, videos, at_once):
            make_videos(numbers[first : first + at_once], source, device.type, NUM_FRAMES)

    seconds = best_seconds(make, 2, device)
    frames = videos * NUM_FRAMES
    record("render", [{"frames": frames, "frames_per_s": frames / seconds, "threads": torch.get_num_threads()}], device)


def measure(model: SimVP, clip: torch.Tensor, repeats: int, plain: bool) -> dict[str, float | str]:
    """Return training and forward clips/s (best of ``repeats``) and the peak memory in GiB.

    ``plain`` is what anybody would write first: float32, contiguous, not compiled.
    """
    device = clip.device
    reset_peak(device)
    if not plain:
        model = model.to(memory_format=torch.channels_last)
        if device.type == "cuda":
            model.compile()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, fused=device.type == "cuda")

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, enabled=False) if plain else autocast(device):
            return model(clip)

    def train() -> None:
        F.mse_loss(forward().float(), clip).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode():
            forward()

    train_seconds = best_seconds(train, repeats, device)
    model.eval()
    forward_seconds = best_seconds(infer, repeats, device)
    return {
        "precision": "float32" if plain else str(autocast_dtype(device)).removeprefix("torch."),
        "train_clips_per_s": len(clip) / train_seconds,
        "forward_clips_per_s": len(clip) / forward_seconds,
        "peak_gib": peak_gib(device),
    }


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
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="[default: full on a GPU, else quick]")
@click.option("--batch", default=None, type=click.IntRange(2), help="Samples a step.  [default: the preset's]")
@DEVICE
@exits_cleanly
def profile(preset: str | None, batch: int | None, device_name: str | None) -> None:
    """Take a few training steps of every network of a preset: seconds, operations, share of the peak, what is slow."""
    device = choose_device(device_name)
    preset = preset or ("full" if device.type == "cuda" else "quick")
    peak = peak_flops(device)
    about = {"preset": preset, "precision": str(autocast_dtype(device)).removeprefix("torch."), "peak_flops": peak}
    about["threads"] = torch.get_num_threads()
    config = PRESETS[preset] if batch is None else with_batch(PRESETS[preset], batch)
    record(
        f"profile-{preset}",
        [{"network": name} | about | profile_job(make, device, peak) for name, make in jobs(config).items()],
        device,
    )


@main.command()
@DEVICE
@click.option("--batch", default=None, type=click.IntRange(1), help="Clips at a time.  [default: 16 on a GPU, else 1]")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--hid-s", "hid_S", default=64, show_default=True)
@click.option("--hid-t", "hid_T", default=256, show_default=True)
@exits_cleanly
def simvp(device_name: str | None, batch: int | None, repeats: int, hid_S: int, hid_T: int) -> None:
    """Train and run SimVP on clips of the competition's size, as this kit does and as plain float32."""
    device = choose_device(device_name)
    clips = batch or (16 if device.type == "cuda" else 1)
    rows = []
    for translator in TRANSLATORS:
        for plain in (True, False):
            torch.manual_seed(0)
            model = SimVP(hid_S=hid_S, hid_T=hid_T, translator=translator).to(device)
            clip = torch.rand(clips, CLIP_FRAMES, 3, HEIGHT, WIDTH, device=device)
            about = {"translator": translator, "threads": torch.get_num_threads(), "clips": clips}
            rows.append(about | measure(model, clip, repeats, plain))
    record("simvp", rows, device)


if __name__ == "__main__":
    main()
