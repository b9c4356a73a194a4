"""One training step of every network, by the real training loop: what it costs, and how near the device's peak it is.

The videos are a few of the stand-in's, with noise for frames: what is in them decides nothing here.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from data_prep.standin.physics import simulate, video_seed
from data_prep.standin.writer import paint_videos
from solution.clips import FrameVideos, MaskVideos
from solution.config import Config
from solution.edges import FEATURES, edge_batches, edges_loss
from solution.machine import peak_gib, reset_peak
from solution.models.edges import EdgeNetwork
from solution.models.simvp import TRANSLATORS
from solution.predictors.drawn import video_batches
from solution.predictors.frames import FramePipeline, frames_loss
from solution.predictors.masks import SlotSimVP, slot_batches, slots_loss
from solution.predictors.objects import build, dynamics_loss, training_batches
from solution.segmenter import build_segmenter, crop_batches, crops_loss
from solution.tracks import find_tracks
from solution.training import COMPILED_FROM, Recipe, autocast, autocast_dtype, compile_network, fit

VIDEOS = 8
WARM_UP, MEASURED = 3, 5
"""Training steps; the first compile."""
TOP = 3


@dataclass(frozen=True)
class Job:
    """What :func:`solution.training.fit` trains, for so many steps: a network, its loss, and its batches by step."""

    model: nn.Module
    loss: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]
    batch: Callable[[int], dict[str, Tensor]]
    steps: int


def with_batch(config: Config, size: int) -> Config:
    """Return a config whose networks see as many samples in training, ``size`` of them a step."""

    def resized(section: str, name: str):
        found = getattr(config, section)
        return replace(found, **{name: size, "steps": round(found.steps * getattr(found, name) / size)})

    sections = dict.fromkeys(("segmenter", "edges"), "batch") | dict.fromkeys(
        ("objects", "masks", "frames"), "batch_size"
    )
    return replace(config, **{section: resized(section, name) for section, name in sections.items()})


def jobs(config: Config) -> dict[str, Callable[[], Job]]:
    """Return by name what makes the training of every network of a config."""
    masks = paint_videos([simulate(video_seed(0, number)) for number in range(VIDEOS)])
    frames = np.random.default_rng(0).integers(0, 256, (*masks.shape, 3), np.uint8)
    rows = np.arange(VIDEOS)

    def segmenter() -> Job:
        chosen = config.segmenter
        batch = crop_batches(chosen, frames, masks, rows, 0)
        return Job(build_segmenter(chosen), partial(crops_loss, chosen), batch, chosen.steps)

    def simvp(translator: str) -> Job:
        chosen = replace(config.frames, translator=translator)
        batch = video_batches(chosen.batch_size, [FrameVideos(frames, masks, rows)], 0, with_future=True)
        return Job(FramePipeline(chosen, nn.Identity()).simvp, partial(frames_loss, chosen), batch, chosen.steps)

    def slots() -> Job:
        chosen = config.masks
        batch = slot_batches(chosen, [MaskVideos(masks, masks)], 0)
        return Job(SlotSimVP(chosen), partial(slots_loss, chosen), batch, chosen.steps)

    def edges() -> Job:
        chosen = config.edges
        batch = edge_batches(chosen, find_tracks(torch.from_numpy(masks)), frames, masks, rows, 0)
        return Job(EdgeNetwork(FEATURES, chosen.width), edges_loss, batch, chosen.first_steps + chosen.steps)

    def dynamics() -> Job:
        chosen = replace(config.objects, dynamics="direct")
        batch = training_batches(find_tracks(torch.from_numpy(masks)), None, chosen, 0)
        return Job(build(chosen), dynamics_loss, batch, chosen.steps)

    simvps = {f"SimVP {translator}": partial(simvp, translator) for translator in TRANSLATORS}
    return {"segmenter": segmenter, **simvps, "SlotSimVP": slots, "edges": edges, "dynamics": dynamics}


def peak_flops(device: torch.device) -> float:
    """Return the operations per second of one large matrix product, the best of five, in autocast's precision."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.rand(size, size, device=device, dtype=autocast_dtype(device))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def profile_job(make: Callable[[], Job], device: torch.device, peak: float) -> dict[str, object]:
    """Return what a training step costs.

    ``step_s`` is the fastest and ``batch_s`` what one core needs to make its batch; ``flops`` are three times those of
    the forward pass (multiplication and addition count two), ``training_flops`` those of the whole training;
    ``share_of_peak`` is what they come to by the second over ``peak``; ``top`` are the operators with the largest
    shares of the time.
    """
    job = make()
    start = time.perf_counter()
    tensors = job.batch(0)
    batch_seconds = time.perf_counter() - start
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    model = job.model.to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), autocast(device):
        job.loss(model, tensors)
    flops = 3 * counter.get_total_flops()
    if device.type == "cuda" and job.steps >= COMPILED_FROM:
        compile_network(model)
    reset_peak(device)
    rows = train(job, device, WARM_UP + MEASURED)[WARM_UP:]
    step_seconds = min(float(row["step_s"]) for row in rows)
    gib = peak_gib(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        train(job, device, 2)
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, attribute) for event in profiler.key_averages()}
    largest = sorted(times, key=times.get, reverse=True)[:TOP]
    return {
        "batch": len(next(iter(tensors.values()))),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_s": step_seconds,
        "batch_s": batch_seconds,
        "peak_gib": gib,
        "flops": flops,
        "training_flops": flops * job.steps,
        "share_of_peak": flops / step_seconds / peak,
        "top": {name: times[name] / sum(times.values()) for name in largest},
    }


def train(job: Job, device: torch.device, steps: int) -> list[dict[str, str]]:
    """Train for so many steps on one batch and return the rows of the log, one for each step.

    The number of objects in a batch differs, and a GPU looks for the fastest way again for every new number.
    """
    batch = job.batch(0)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(steps, learning_rate=1e-6)  # at a larger rate noise diverges
        fit(job.model, job.loss, lambda _: batch, Path(folder), recipe, device)
        with open(Path(folder) / "log.csv") as file:
            return list(csv.DictReader(file))
