"""What ``submit.py`` does once its options are read: from raw frames to the leaderboard file, or with a trained run."""

import hashlib
import time
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.classes import BACKGROUND, NUM_CLASSES, class_name
from data_prep.errors import UserError
from solution import processes
from solution.evaluation import compare, print_table
from solution.pipeline import Pipeline, configured, needed_splits
from solution.report import record_run
from solution.runs import (
    STAGES,
    choose_device,
    default_data,
    default_preset,
    pack_and_report,
    read_run,
    run_folder,
    save_run,
    standin_data,
)
from solution.stages import Stage
from solution.strips import check_picture, write_predicted
from solution.submission import check_outputs, check_submission, check_writable, load_truth, save_submission


@processes.together
def submit(
    data: Path | None,
    out: Path,
    preset: str | None,
    run_name: str | None,
    settings: tuple[str, ...],
    members: str | None,
    use: str | None,
    picture: Path | None,
    device_name: str | None,
    record: Path | None,
    overwrite: bool,
    allow_gaps: bool,
) -> None:
    """Do what the options of ``submit.py`` say."""
    start = time.perf_counter()
    check_writable(out, overwrite)
    check_outputs([path for path in (out, record, picture) if path])
    if picture:
        check_picture(picture)
    device = choose_device(device_name)
    data = data or default_data()
    if use is not None:
        alone = {"--preset": preset, "--set": settings, "--members": members, "--run": run_name, "--record": record}
        if besides := [option for option, given in alone.items() if given]:
            raise UserError(f"--use {use} predicts with a run as it was trained; leave out {', '.join(besides)}.")
        if data is None:
            raise UserError(f"--use {use}: expected --data with the folder of the videos to predict, found none.")
        use_run(use, data, out, picture, device, overwrite, allow_gaps)
        return
    if picture:
        raise UserError("--picture draws what a trained run predicts: expected --use RUN beside it, found none.")
    preset = preset or default_preset(data, device)
    if members is not None:
        settings = (*settings, f"ensemble.members={members}")
    config = configured(preset, settings)
    run_name = run_name or preset
    folder = run_folder(run_name)
    with processes.first_goes_first():
        splits = needed_splits(config)
        data = data or standin_data(device, splits)
        packed = pack_and_report(data, allow_gaps=allow_gaps, run=run_name, wanted=splits)
    click.echo(f"Preset {preset} on {device}, run {folder}:")
    pipeline = Pipeline(config, packed, STAGES, device)
    hidden = packed["hidden"]
    masks = np.array(pipeline.predictions(hidden))
    if not processes.is_first():
        return
    save_run(run_name, pipeline)
    write_file(masks, out, overwrite)
    if (data / "hidden_truth.pt").is_file():
        truth = load_truth(data / "hidden_truth.pt").masks.numpy()
        last_frames = np.load(data / "hidden_last_frames.npy", mmap_mode="r")
        scores = compare(pipeline, hidden, {"submission": masks}, truth, last_frames)
        print_table(scores)
        if record:
            sizes = ", ".join(f"{len(split)} {name}" for name, split in packed.items())
            record_run(run_name, scores, pipeline, f"stand-in of {sizes} videos, scored on hidden", record)
    print_profile(pipeline.done, time.perf_counter() - start)


def use_run(
    run: str, data: Path, out: Path, picture: Path | None, device: torch.device, overwrite: bool, allow_gaps: bool
) -> None:
    """Predict the hidden videos of a folder, or the one video that it is, with a trained run."""
    start = time.perf_counter()
    config, trained = read_run(run)  # what is wrong with it is said before the data are packed
    with processes.first_goes_first():
        packed = pack_and_report(data, ("hidden",), allow_gaps, wanted=("hidden",))
    hidden = packed["hidden"]
    if picture and hidden.frames is None:
        raise UserError(f"--picture {picture}: expected frames to draw on, {data} holds masks only; leave it out.")
    if hidden.frames is not None and "segmenter" not in trained:
        raise UserError(f"--use {run}: expected a run that was trained on frames, this one knows masks only.")
    click.echo(f"Run {run} on {device}:")
    pipeline = Pipeline(config, {"hidden": hidden}, STAGES, device)
    pipeline.done |= trained
    masks = np.array(pipeline.predictions(hidden))
    if not processes.is_first():
        return
    write_file(masks, out, overwrite)
    if picture:
        write_predicted(picture, hidden, masks)
    print_profile(pipeline.done, time.perf_counter() - start)


def write_file(masks: np.ndarray, out: Path, overwrite: bool) -> None:
    """Write the leaderboard file, check it as ``validate.py`` does, and print what it holds."""
    save_submission(torch.from_numpy(masks), out, overwrite)
    if problems := check_submission(out, len(masks)):
        raise UserError(f"{out} does not pass its own check: {'; '.join(problems)}.")
    sha256 = hashlib.sha256(out.read_bytes()).hexdigest()
    counts = sum(np.bincount(mask.ravel(), minlength=NUM_CLASSES) for mask in masks)
    share = counts / counts.sum()
    drawn = [label for label in np.argsort(-share) if share[label] and label != BACKGROUND]
    click.echo(f"\n{out}: {masks.shape} {masks.dtype}, SHA-256 {sha256}")
    click.echo(f"  {share[BACKGROUND]:.1%} background, {len(drawn)} of {NUM_CLASSES - 1} object classes:")
    for row in range(0, len(drawn), 4):
        click.echo("  " + "".join(f"{class_name(label):>23} {share[label]:7.3%}" for label in drawn[row : row + 4]))


def print_profile(done: dict[str, Stage], seconds: float) -> None:
    """Print what of a command's seconds each stage took that it finished, the longest first, and which were there."""
    made = {name: stage.seconds for name, stage in done.items() if not stage.kept}
    rest = max(0.0, seconds - sum(made.values()))  # a stage that went on counts its earlier commands too
    made["packing, scoring and all else"] = rest
    click.echo(f"\n{'time per stage':32}{seconds:7.0f} s")
    for name, spent in sorted(made.items(), key=lambda item: -item[1]):
        click.echo(f"  {name:30}{spent:7.0f} s {spent / max(sum(made.values()), 1e-9):5.0%}")
    if kept := [name for name, stage in done.items() if stage.kept]:
        click.echo(f"  done before: {', '.join(kept)}")
