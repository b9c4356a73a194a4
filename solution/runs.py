"""Runs: a name under which a config, its data and its stages are remembered, and how a command opens one.

A run's folder holds ``run.json`` and, once it can predict, what prediction needs of its stages: it can be copied to
another machine and used there. Everything else lies in the folders of the stages that ``run.json`` names.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import click
import torch

from data_prep.competition import SPLITS, integrity_report, refuse_gap
from data_prep.device import usable_device
from data_prep.errors import UserError
from data_prep.files import read_json, write_bytes, write_text
from data_prep.pack import PackedSplit, is_packed, open_packed, pack, read_problems
from data_prep.standin.writer import Settings, make_standin
from solution.config import Config, from_json, to_json
from solution.machine import commit
from solution.pipeline import Pipeline
from solution.stages import VERSION, Stage, finished

RUNS = Path("runs")
STAGES = RUNS / "stages"
OTHER_FOLDERS = ("stages", "packed", "ablations")
FINISHED = "decoding"
"""The last stage before prediction."""
TRAINED = "trained"
"""Folder in that of a run with copies of the stages that prediction needs."""
STANDIN = Path("data/standin")
STANDIN_SETTINGS = Settings(train=160, val=24, unlabeled=240, hidden=100, seed=0, kind="raw")


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


def found_data() -> Path | None:
    """Return :func:`default_data`, else the stand-in that was made here; None where there is neither."""
    return default_data() or (STANDIN if (STANDIN / "hidden_truth.pt").is_file() else None)


def default_preset(data: Path | None, device: torch.device) -> str:
    """Return the preset that every command takes where none is named; without ``data`` a stand-in is made."""
    return "full" if data and device.type == "cuda" else "quick"


def standin_data(device: torch.device, splits: Collection[str] = SPLITS) -> Path:
    """Make these splits of a small stand-in competition unless they exist, and return its folder."""
    click.echo(f"No --data and no competition in ./data: making a small stand-in competition in {STANDIN}.")
    without = {split: 0 for split in SPLITS if split not in splits}
    make_standin(STANDIN, replace(STANDIN_SETTINGS, **without), device.type)
    return STANDIN


def pack_and_report(
    data: Path,
    required: Collection[str] = ("train", "hidden"),
    allow_gaps: bool = False,
    run: str | None = None,
    wanted: Collection[str] = SPLITS,
) -> dict[str, PackedSplit]:
    """Return the packed splits of a competition, packing it first where that is not done, and print what is wrong.

    Args:
        data, required, allow_gaps, wanted: see :func:`data_prep.pack.pack`, also for what it raises.
        run: the name of a run that is about to learn from the data; a note is printed if it has learned from others.

    Raises:
        UserError: a required split is absent.
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
        packed = pack(data, folder, required, allow_gaps, wanted)
        click.echo(", ".join(f"{len(split)} {name}" for name, split in packed.items()) + f" videos of {data}")
        click.echo(integrity_report(read_problems(folder), folder / "problems.json"))
    if run and learned_from(run) not in (None, data_key(packed)):
        path = run_folder(run) / "run.json"
        click.echo(f"{path} was trained on other data and will be replaced; give --run another name to keep it.")
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
    """Write ``run.json`` of a pipeline's config and stages; an unfinished run never replaces a finished one."""
    folder = run_folder(name)
    path = folder / "run.json"
    if FINISHED not in pipeline.done and is_finished(folder):
        click.echo(f"{path} belongs to a finished run and is kept; give --run another name to save this one.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    trained = keep_trained(folder, pipeline) if FINISHED in pipeline.done else {}
    record = {
        "config": json.loads(to_json(pipeline.config)),
        "stages": {
            stage: {"folder": str(done.folder), "key": done.key, "seconds": done.seconds}
            for stage, done in pipeline.done.items()
        },
        "trained": {stage: f"{kept.parent.name}/{kept.name}" for stage, kept in trained.items()},
        "data": data_key(pipeline.packed),
        "videos": {name: len(split) for name, split in pipeline.packed.items()},
        "device": str(pipeline.device),
        "versions": {"stages": VERSION, "python": platform.python_version(), "torch": torch.__version__},
        "commit": commit(),
    }
    write_text(path, json.dumps(record, indent=1))
    for old in (folder / TRAINED).glob("*"):
        if old not in trained.values():
            shutil.rmtree(old)


def keep_trained(folder: Path, pipeline: Pipeline) -> dict[str, Path]:
    """Link or copy the stages that prediction needs into a run's folder; return their folders there."""
    names = ("segmenter", FINISHED, *pipeline.config.ensemble.members)
    kept = {}
    for name, stage in pipeline.done.items():
        if name.partition(".")[0] not in names:
            continue
        kept[name] = folder / TRAINED / f"{name}-{stage.key[:12]}"
        files = json.loads((stage.folder / "done.json").read_text()).get("files", {})
        for file in (*files, "done.json"):  # last, since it marks the stage as complete
            target = kept[name] / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(stage.folder / file, target)
            except OSError:
                write_bytes(target, (stage.folder / file).read_bytes())
    return kept


def find_run(run: str | Path) -> Path:
    """Return the folder of a run, given its name or a folder that may come from another machine.

    Raises:
        UserError: there is no such run.
    """
    named = Path(run).name == str(run) and (RUNS / run / "run.json").is_file()
    folder = RUNS / run if named else Path(run)
    if not (folder / "run.json").is_file():
        names = sorted(path.parent.name for path in RUNS.glob("*/run.json"))
        hint = f"there are {', '.join(names)}" if names else "there is none in ./runs, make one with `python submit.py`"
        raise UserError(f"run {run}: expected the name of a run or a folder with run.json; {hint}.")
    return folder


def read_run(run: str | Path) -> tuple[Config, dict[str, Stage]]:
    """Return the config of a finished run and its stages, and print a note if another commit made it.

    Stages that prediction needs lie in the run's own folder, and their files are checked.

    Raises:
        UserError: there is no such run (see :func:`find_run`), or it is unfinished, damaged or of another version.
    """
    config, stages, made_by = _read(find_run(run))
    if "unknown" not in (made_by, commit()) and made_by != commit():
        note = f"Note: run {run} was made by commit {made_by}, this is {commit()}; other code may predict otherwise."
        click.echo(note, err=True)
    return config, stages


def _read(folder: Path) -> tuple[Config, dict[str, Stage], str]:
    path = folder / "run.json"
    record = read_json(path, "copy the run's folder again, or run submit.py again")
    try:
        stages = {
            name: Stage(Path(made["folder"]), made["key"], made["seconds"])
            for name, made in record["stages"].items()
            if not name.startswith(("masks_", "predictions_"))  # of other videos
        }
        trained = {name: (folder / place, stages[name].key) for name, place in record["trained"].items()}
        version, made_by = record["versions"]["stages"], record["commit"]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged or of another version of the kit; run submit.py again.") from None
    if version != VERSION:
        raise UserError(f"{path} is of version {version} of the stages, the code of {VERSION}; use the code it is of.")
    try:
        config = from_json(json.dumps(record["config"]))
    except (ValueError, KeyError):
        raise UserError(f"{path} has a config of another version of the kit; run submit.py again.") from None
    if FINISHED not in trained:
        raise UserError(f"{path} has no stage {FINISHED}: the run is not finished; start its submit.py again.")
    return config, stages | {name: finished(place, key) for name, (place, key) in trained.items()}, made_by


def is_finished(folder: Path) -> bool:
    """Tell whether a folder holds a finished run."""
    try:
        _read(folder)
    except UserError:
        return False
    return True


def last_run() -> Path | None:
    """Return the folder of the finished run in ./runs that was saved last; None where there is none."""
    saved = sorted(RUNS.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path.parent for path in saved if is_finished(path.parent)), None)
