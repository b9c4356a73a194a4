"""Runs: a name under which a config, its data and its stages are remembered, and how a command opens one.

A run's folder holds ``run.json`` only; weights and predictions lie in the folders of the stages it names.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Collection
from pathlib import Path

import click
import torch

from data_prep.competition import integrity_report, refuse_gap
from data_prep.device import usable_device
from data_prep.errors import UserError
from data_prep.files import write_text
from data_prep.pack import PackedSplit, is_packed, open_packed, pack, read_problems
from data_prep.standin.writer import Settings, make_standin
from solution.config import Config, from_json, to_json
from solution.pipeline import Pipeline
from solution.stages import Stage, finished

RUNS = Path("runs")
STAGES = RUNS / "stages"
OTHER_FOLDERS = ("stages", "packed", "ablations")
FINISHED = "decoding"
"""The stage that needs all others: a run that has it can predict."""
STANDIN = Path("data/standin")
STANDIN_SETTINGS = Settings(train=160, val=24, unlabeled=240, hidden=100, seed=0, kind="raw")


class Positive(click.FloatRange):
    """A number above 0 as an option; unlike click's own range it takes neither nan nor inf."""

    def __init__(self):
        super().__init__(0, min_open=True)

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> float:
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, context)
        return number


def choose_device(name: str | None) -> torch.device:
    """Return the device a user asked for, or the GPU where there is one, else the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return usable_device(name)


def default_data() -> Path | None:
    """Return ``./data`` if a competition lies there."""
    data = Path("data")
    return data if any((data / name).is_dir() for name in ("Dataset_Student", "train", "hidden")) else None


def standin_data(device: torch.device) -> Path:
    """Return the folder of a small stand-in competition, made here unless it is there."""
    click.echo(f"No --data and no competition in ./data: making a small stand-in competition in {STANDIN}.")
    make_standin(STANDIN, STANDIN_SETTINGS, device.type)
    return STANDIN


def pack_and_report(
    data: Path,
    required: Collection[str] = ("train", "hidden"),
    allow_gaps: bool = False,
    run: str | None = None,
) -> dict[str, PackedSplit]:
    """Return the packed splits of a competition, packing it first where that is not done, and print what is wrong.

    Args:
        data: see :func:`data_prep.competition.find_competition`, as for the next two.
        required: splits without which nothing can be done.
        allow_gaps: whether numbers may be left out in ``hidden``.
        run: the name of a run that is about to learn from the data; where it has learned from others, that is said.

    Raises:
        UserError: a required split is absent, or see :func:`data_prep.pack.pack`.
    """
    if is_packed(data):
        packed = open_packed(data)
        absent = [split for split in required if split not in packed]
        if absent:
            raise UserError(f"{data} has no packed {absent[0]} split, which is needed; pack one that has.")
        if "hidden" in required and not allow_gaps:
            refuse_gap(data / "hidden", packed["hidden"].videos)
    else:
        place = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
        folder = RUNS / "packed" / f"{data.resolve().name}-{place}"
        packed = pack(data, folder, required, allow_gaps)
        click.echo(", ".join(f"{len(split)} {name}" for name, split in packed.items()) + f" videos of {data}")
        click.echo(integrity_report(read_problems(folder), folder / "problems.json"))
    if run and learned_from(run) not in (None, data_key(packed)):
        path = run_folder(run) / "run.json"
        click.echo(f"{path} is of other data: all is made anew for these; give --run another name to keep that run.")
    return packed


def run_folder(name: str) -> Path:
    """Return where a run of this name is remembered.

    Raises:
        UserError: no run can have this name here.
    """
    folder = RUNS / name
    if Path(name).name != name or name in ("..", *OTHER_FOLDERS) or (folder.exists() and not folder.is_dir()):
        raise UserError(f"--run {name}: {folder} cannot be the folder of a run; choose a plain name of your own.")
    return folder


def data_key(packed: dict[str, PackedSplit]) -> str:
    """Return a hash of the content of what a run learns from."""
    content = [packed[split].content for split in ("train", "unlabeled") if split in packed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def learned_from(name: str) -> str | None:
    """Return the :func:`data_key` that a run of this name remembers; None where there is none."""
    try:
        return json.loads((run_folder(name) / "run.json").read_text())["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_run(name: str, pipeline: Pipeline) -> None:
    """Remember the config and the trained stages of a pipeline under a name; a finished run gives way to one only."""
    folder = run_folder(name)
    path = folder / "run.json"
    if FINISHED not in pipeline.done and is_finished(name):
        click.echo(f"{path} remembers a finished run and stays; give --run another name to remember this one.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": json.loads(to_json(pipeline.config)),
        "stages": {
            stage: {"folder": str(done.folder), "key": done.key, "seconds": done.seconds}
            for stage, done in pipeline.done.items()
        },
        "data": data_key(pipeline.packed),
        "device": str(pipeline.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_text(path, json.dumps(record, indent=1))


def read_run(name: str) -> tuple[Config, dict[str, Stage]]:
    """Return a finished run's config and its trained stages.

    Raises:
        UserError: there is no such run, it is unfinished or of another version, or a stage of it was deleted.
    """
    path = run_folder(name) / "run.json"
    if not path.is_file():
        known = sorted(p.parent.name for p in RUNS.glob("*/run.json"))
        hint = f"there are {', '.join(known)}" if known else "there is none; make one with `python submit.py`"
        raise UserError(f"{path} is missing: expected the name of a finished run, {hint}.")
    try:
        record = json.loads(path.read_text())
        config = from_json(json.dumps(record["config"]))
        stages = {
            stage: Stage(Path(found["folder"]), found["key"], found["seconds"])
            for stage, found in record["stages"].items()
            if not stage.startswith(("masks_", "predictions_"))
        }
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged or of another version of the kit; run submit.py again.") from None
    if FINISHED not in stages:
        raise UserError(f"{path} has no stage {FINISHED}: the run is not finished; `submit.py --run {name}` does that.")
    for stage in stages.values():
        finished(stage.folder, stage.key)
    return config, stages


def is_finished(name: str) -> bool:
    """Tell whether there is a finished run of this name."""
    try:
        read_run(name)
    except UserError:
        return False
    return True
