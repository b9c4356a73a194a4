"""From raw frames to the leaderboard file, in one command."""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.errors import UserError, exits_cleanly
from solution import processes
from solution.evaluation import ceilings, print_table, score_baselines
from solution.metrics import Score, score
from solution.pipeline import MEMBERS, Pipeline, configured
from solution.presets import PRESETS
from solution.report import record_run
from solution.runs import (
    STAGES,
    choose_device,
    default_data,
    pack_and_report,
    read_trained,
    run_folder,
    save_run,
    standin_data,
)
from solution.stages import Stage
from solution.strips import check_picture, write_predicted
from solution.submission import check_different, check_submission, check_writable, describe, load_truth, save_submission


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the competition. Default: ./data, else a stand-in."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("submission.pt"), show_default=True, help="File to write."
)
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Default: full on a GPU with real data, else quick.")
@click.option("--run", "run_name", help="Name to remember this run by. Default: the preset's name.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value; repeatable.")
@click.option("--members", help=f"Predictors of the ensemble, separated by commas: {', '.join(MEMBERS)}.")
@click.option("--use", metavar="RUN", help="Predict --data with this run, a name or a folder, without training.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the first videos (.png, .jpg), with --use.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--record", type=click.Path(path_type=Path), help="Also add the stand-in's scores to this JSON file.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--allow-gaps", is_flag=True, help="Take hidden videos even if their numbers have a gap.")
@exits_cleanly
@processes.together
def main(
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
    """Train on a competition and write the masks of its hidden videos as a leaderboard file.

    With --use, a run that was trained before predicts any folder that has hidden videos, or that is one video.
    Finished stages are kept and interrupted ones go on: start the same command again until the file is there.
    """
    start = time.perf_counter()
    check_writable(out, overwrite)
    written = [path for path in (record, picture) if path]
    for path in written:
        check_writable(path, overwrite=True)
    check_different((out, *written))
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
    preset = preset or ("full" if data and device.type == "cuda" else "quick")
    if members is not None:
        settings = (*settings, f"ensemble.members={members}")
    config = configured(preset, settings)
    run_name = run_name or preset
    folder = run_folder(run_name)
    with processes.first_goes_first():
        data = data or standin_data(device)
        packed = pack_and_report(data, allow_gaps=allow_gaps, run=run_name)
    click.echo(f"Preset {preset} on {device}, run {folder}:")
    pipeline = Pipeline(config, packed, STAGES, device)
    hidden = packed["hidden"]
    masks = np.array(pipeline.predictions(hidden))
    if not processes.is_first():
        return
    save_run(run_name, pipeline)
    write_checked(masks, out, overwrite)
    print_description(out, pipeline.done, time.perf_counter() - start)
    if (data / "hidden_truth.pt").is_file():
        scores = score_against_standin(pipeline, data, masks)
        print_table(scores)
        if record:
            sizes = ", ".join(f"{len(split)} {name}" for name, split in packed.items())
            record_run(run_name, scores, pipeline, f"stand-in of {sizes} videos, scored on hidden", record)


def use_run(
    run: str, data: Path, out: Path, picture: Path | None, device: torch.device, overwrite: bool, allow_gaps: bool
) -> None:
    """Predict the hidden videos of a folder, or the one video that it is, with a trained run."""
    start = time.perf_counter()
    config, trained = read_trained(run)  # what is wrong with it is said before the data are packed
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
    write_checked(masks, out, overwrite)
    made = {name: stage for name, stage in pipeline.done.items() if name not in trained}
    print_description(out, made, time.perf_counter() - start)
    if picture:
        write_predicted(picture, hidden, masks)


def write_checked(masks: np.ndarray, out: Path, overwrite: bool) -> None:
    """Write the leaderboard file and check it as ``validate.py`` does."""
    save_submission(torch.from_numpy(masks), out, overwrite)
    problems = check_submission(out, len(masks))
    if problems:
        raise UserError(f"{out} does not pass its own check: {'; '.join(problems)}.")


def print_description(out: Path, done: dict[str, Stage], seconds: float) -> None:
    """Print what was written, the largest classes in it, and how long each stage took."""
    written = describe(out)
    click.echo(f"\n{out}: {written.shape} {written.dtype}, SHA-256 {written.sha256}")
    objects = sorted((share, name) for name, share in written.class_shares.items() if name != "background")[::-1]
    click.echo(f"  {written.class_shares.get('background', 0):.1%} background, {len(objects)} of 48 object classes:")
    for row in range(0, len(objects), 4):
        click.echo("  " + "".join(f"{name:>23} {share:7.3%}" for share, name in objects[row : row + 4]))
    stages = ", ".join(f"{name} {stage.seconds:.0f} s" for name, stage in done.items())
    click.echo(f"  time per stage: {stages}; this command {seconds:.0f} s")


def score_against_standin(pipeline: Pipeline, data: Path, masks: np.ndarray) -> dict[str, Score]:
    """Score the masks and the baselines on the stand-in's hidden videos, whose truth nobody but the stand-in knows."""
    hidden, truth = pipeline.packed["hidden"], load_truth(data / "hidden_truth.pt").masks.numpy()
    scores = score_baselines(hidden.frames, pipeline.masks_of(hidden), truth, pipeline.device)
    scores["submission"] = score(masks, truth)
    last_frames = np.load(data / "hidden_last_frames.npy", mmap_mode="r")
    return scores | ceilings(pipeline, last_frames, truth)


if __name__ == "__main__":
    main()
