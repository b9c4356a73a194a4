"""Score a prediction, check a leaderboard file, or predict and score the validation videos with a run."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click
import numpy as np
from torch import Tensor

from data_prep.classes import IGNORE
from data_prep.competition import first_gap
from data_prep.errors import UserError, exits_cleanly
from solution.evaluation import FORESIGHT, evaluate, foresight, print_table
from solution.fates import fate_groups, fates
from solution.metrics import Score, score
from solution.page import write_page
from solution.pipeline import Pipeline
from solution.report import material_of_file, material_of_run, record_run, save_validation
from solution.runs import STAGES, choose_device, pack_and_report, read_run
from solution.strips import check_picture, write_strips
from solution.submission import (
    check_different,
    check_submission,
    check_writable,
    hidden_numbers,
    load_submission,
    load_truth,
)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--truth", type=click.Path(path_type=Path), help="Score FILE against this split's folder or tensor.")
@click.option("--hidden", type=click.Path(path_type=Path), help="Only check the format of FILE for this folder.")
@click.option("--run", "run_name", help="Predict the val videos of --data with this run, and score every method.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the competition, for --run and --report.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write a page that shows where points were lost.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw typical objects (.png, .jpg), with --run.")
@click.option("--record", type=click.Path(path_type=Path), help="Also add the scores of --run to this JSON file.")
@click.option("--device", "device_name", help="cpu or cuda, for --run. Default: cuda where there is one.")
@exits_cleanly
def main(
    file: Path | None,
    truth: Path | None,
    hidden: Path | None,
    run_name: str | None,
    data: Path | None,
    as_json: bool,
    report: Path | None,
    picture: Path | None,
    record: Path | None,
    device_name: str | None,
) -> None:
    """Score FILE (--truth), check its format (--hidden), or score a trained run on val (--run, --data)."""
    written = [path for path in (report, picture, record) if path]
    for path in written:
        check_writable(path, overwrite=True)
    check_different(written, [path for path in (file, truth) if path])
    if file and truth and not (hidden or run_name or picture or record) and (report or not data):
        print_score(score_file(file, truth, data, report), as_json)
    elif file and hidden and not (truth or run_name or data or report or picture or record or as_json):
        check_format(file, hidden)
    elif run_name and data and not (file or truth or hidden):
        if picture:
            check_picture(picture)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():  # progress is no part of the object
            scores = score_run(run_name, data, device_name, report, picture, record)
        if as_json:
            methods = {name: reached.as_json() for name, reached in scores.items()}
            click.echo(json.dumps(scores["ensemble"].as_json() | {"methods": methods}))
        else:
            print_table(scores)
    else:
        raise UserError("expected FILE with --truth, FILE with --hidden, or --run with --data; see --help.")


def score_file(file: Path, truth: Path, data: Path | None, report: Path | None) -> Score:
    """Score a leaderboard file or any prediction of the same form against the truth, and write its page if wanted."""
    known = load_truth(truth)
    for problem in known.problems:
        click.echo(f"left out: {problem.file}: {problem.problem}", err=True)
    check_known(known.masks, truth)
    prediction = load_submission(file, len(known.masks))
    if report:
        with redirect_stdout(sys.stderr):
            packed = pack_and_report(data, required=()) if data else {}
        write_page(report, material_of_file(file, prediction.numpy(), known, truth, packed))
    return score(prediction, known.masks)


def check_known(truth: np.ndarray | Tensor, source: Path) -> None:
    """Raise ``UserError`` if not one pixel of the truth is a class."""
    if (truth == IGNORE).all():
        raise UserError(f"{source} has no usable mask, so that there is nothing to score on; add its masks.")


def check_format(file: Path, hidden: Path) -> None:
    """Print every problem of a leaderboard file's format; exit code 1 if there is one."""
    numbers = hidden_numbers(hidden)
    problems = check_submission(file, len(numbers))
    for problem in problems:
        click.echo(f"{file}: {problem}")
    if problems:
        raise SystemExit(1)
    gap = first_gap(numbers)
    click.echo(f"{file} has the right format for {len(numbers)} hidden videos{gap and f' ({gap})'}.")


def score_run(
    run_name: str,
    data: Path,
    device_name: str | None,
    report: Path | None,
    picture: Path | None,
    record: Path | None,
) -> dict[str, Score]:
    """Predict val from its first 11 frames on the path of submit.py, score every method, and remember the scores."""
    device = choose_device(device_name)
    config, trained = read_run(run_name)  # what is wrong with it is said before the data are packed
    packed = pack_and_report(data, required=("val",))
    pipeline = Pipeline(config, packed, STAGES, device)
    pipeline.done |= trained
    val = packed["val"]
    truth = val.masks[:, -1]
    check_known(truth, Path(val.masks.filename).parent)
    fate = fates(val.masks)
    groups = fate_groups(fate)
    evaluation = evaluate(pipeline, val, None if val.frames is None else val.frames[:, -1], truth, groups)
    best = {FORESIGHT: foresight(val.masks, groups)} if val.frames is None else {}
    scores = evaluation.scores | best
    save_validation(run_name, data, scores)
    material = material_of_run(run_name, pipeline, evaluation, scores, fate)
    if report:
        write_page(report, material)
    if picture:
        write_strips(picture, material)
    if record:
        described = f"run {run_name} of {data.name}, scored on its {len(val)} val videos"
        record_run(run_name, scores, pipeline, described, record)
    return scores


def print_score(reached: Score, as_json: bool) -> None:
    """Print the score of one prediction for people, or as JSON."""
    if as_json:
        click.echo(json.dumps(reached.as_json()))
        return
    click.echo(f"Jaccard {reached.jaccard:.4f} on {reached.videos} videos ({reached.videos_left_out} left out)")
    click.echo(f"object IoU {reached.object_iou:.4f} ± {reached.object_iou_se:.4f} over {reached.objects} objects")
    click.echo(f"{reached.ignored:.2%} of the pixels are ignored")
    for name, iou in reached.per_class.items():
        click.echo(f"  {name:24} {iou:.4f}")


if __name__ == "__main__":
    main()
