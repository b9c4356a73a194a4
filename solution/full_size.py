"""The whole kit on a stand-in competition of the real one's size, or a share of it: data, training, file, scores.

Every part can be stopped at a time limit, and the same command goes on; what it adds up to is one recorded result.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.deadline import TimeIsUp, deadline, stop_signal
from data_prep.errors import exits_cleanly
from data_prep.pack import PackedSplit, open_packed
from data_prep.standin.writer import Settings, make_standin
from solution import processes
from solution.ablate import Plan
from solution.evaluation import print_table, score_split
from solution.presets import PRESETS, configured
from solution.report import record_run
from solution.results_table import RESULTS
from solution.runs import STAGES, Positive, choose_device
from solution.stages import Pipeline, Stage, counted
from solution.submission import load_truth

DATA = Path("data")
FULL_SIZE = {"train": 1000, "val": 1000, "unlabeled": 13_000, "hidden": 5000}
LEAST = 2
SEED = 1
"""Other videos than those of the small stand-in, on which the kit was developed."""


@click.command()
@click.option("--scale", default=1.0, show_default=True, type=Positive(), help="1: full size.")
@click.option("--unlabeled", type=click.IntRange(0), help="Unlabeled videos.  [default: 13,000 times the scale]")
@click.option("--minutes", type=Positive(), help="Stop after so many; call again to go on.")
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
            scores = run(pipeline, data)
    except TimeIsUp:
        click.echo(state(pipeline))
        if stop_signal():
            raise
        return
    if processes.is_first():
        print_table(scores)
        sizes = ", ".join(f"{len(split)} {name}" for name, split in packed.items())
        path = RESULTS / f"full-{recipe}-{size}.json"
        record_run(path, scores, pipeline, f"stand-in of {sizes} videos, scored on hidden", {"stand-in": made})
        click.echo(f"{path} holds the result.")


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


def run(pipeline: Pipeline, data: Path) -> dict:
    """Make every stage and return the scores on hidden by method."""
    hidden = pipeline.packed["hidden"]
    pipeline.predictions(hidden)
    truth = load_truth(data / "hidden_truth.pt").masks.numpy()
    return score_split(pipeline, hidden, np.load(data / "hidden_last_frames.npy", mmap_mode="r"), truth)


def state(pipeline: Pipeline | None) -> str:
    """Return what is done and what is left, in words."""
    if pipeline is None:
        return "Time is up in stand-in. Left: it and all stages. The same command goes on from here."
    plan = Plan(pipeline.config, pipeline.packed, STAGES, pipeline.device)
    plan.predictions_stage(pipeline.packed["hidden"])
    left = [name for name in [*plan.done, "methods_hidden"] if name not in pipeline.done] + ["scores"]
    done = ", ".join(["stand-in", *pipeline.done])
    return f"Time is up in {left[0]}. Done: {done}; left: {', '.join(left)}. The same command goes on from here."
