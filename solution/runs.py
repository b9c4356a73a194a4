"""Runs: a name under which a config, its data and its stages are remembered, and how a command opens one.

A run's folder holds ``run.json`` only; weights and predictions lie in the folders of the stages it names.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection
from pathlib import Path

import click
import torch

from data_prep.competition import integrity_report
from data_prep.errors import UserError
from data_prep.pack import PackedSplit, is_packed, open_packed, pack, read_problems
from data_prep.standin.writer import Settings, make_standin
from solution.config import from_json, to_json
from solution.stages import Pipeline, Stage

RUNS = Path("runs")
STAGES = RUNS / "stages"
STANDIN = Path("data/standin")
STANDIN_SETTINGS = Settings(train=160, val=24, unlabeled=240, hidden=100, seed=0, kind="raw")


def choose_device(name: str | None) -> torch.device:
    """Return the device a user asked for, or the GPU where there is one, else the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: there is no such device here; expected cpu or cuda.") from None
    return device


def default_data() -> Path | None:
    """Return ``./data`` if a competition lies there."""
    data = Path("data")
    return data if any((data / name).is_dir() for name in ("Dataset_Student", "train", "hidden")) else None


def standin_data(device: torch.device) -> Path:
    """Return the folder of a small stand-in competition, made here unless it is there."""
    click.echo(f"No --data and no competition in ./data: making a small stand-in competition in {STANDIN}.")
    make_standin(STANDIN, STANDIN_SETTINGS, device.type)
    return STANDIN


def pack_and_report(data: Path, required: Collection[str] = ("train", "hidden")) -> dict[str, PackedSplit]:
    """Return the packed splits of a competition, packing it first where that is not done, and print what is wrong.

    Raises:
        UserError: a required split is absent, or see :func:`data_prep.pack.pack`.
    """
    if is_packed(data):
        packed = open_packed(data)
        absent = [split for split in required if split not in packed]
        if absent:
            raise UserError(f"{data} has no packed {absent[0]} split, which is needed; pack one that has.")
        return packed
    place = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    folder = RUNS / "packed" / f"{data.resolve().name}-{place}"
    packed = pack(data, folder, required)
    click.echo(", ".join(f"{len(split)} {name}" for name, split in packed.items()) + f" videos of {data}")
    click.echo(integrity_report(read_problems(folder), folder / "problems.json"))
    return packed


def save_run(name: str, pipeline: Pipeline) -> None:
    """Remember the config and the trained stages of a pipeline under a name."""
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": json.loads(to_json(pipeline.config)),
        "stages": {
            stage: {"folder": str(done.folder), "key": done.key, "seconds": done.seconds}
            for stage, done in pipeline.done.items()
        },
        "device": str(pipeline.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    partial = folder / "run.partial"
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(folder / "run.json")


def open_run(name: str, packed: dict[str, PackedSplit], device: torch.device) -> Pipeline:
    """Return a run's trained pipeline, set on other data that it only predicts.

    Raises:
        UserError: there is no such run, or a stage of it was deleted.
    """
    path = RUNS / name / "run.json"
    if not path.is_file():
        known = sorted(p.parent.name for p in RUNS.glob("*/run.json"))
        hint = f"there are {', '.join(known)}" if known else "there is none; make one with `python submit.py`"
        raise UserError(f"{path} is missing: expected the name of a finished run, {hint}.")
    record = json.loads(path.read_text())
    pipeline = Pipeline(from_json(json.dumps(record["config"])), packed, STAGES, device)
    for stage, found in record["stages"].items():
        if stage.startswith(("masks_", "predictions_")):
            continue
        folder = Path(found["folder"])
        if not (folder / "done.json").is_file():
            raise UserError(f"{folder} is missing or unfinished, which run {name} needs; run submit.py again.")
        pipeline.done[stage] = Stage(folder, found["key"], found["seconds"])
    return pipeline
