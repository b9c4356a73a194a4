"""What ``validate.py`` does once its options are read: scores of a file or of a run, and the check of a file's format.

What scoring a file does not need, everything that predicts or draws, is imported where it is used: it takes seconds.
"""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click
import numpy as np
from torch import Tensor

from data_prep.classes import IGNORE
from data_prep.competition import first_gap
from data_prep.errors import UserError
from solution.metrics import Score, score
from solution.submission import (
    SUBMISSION,
    check_outputs,
    check_submission,
    hidden_numbers,
    load_submission,
    load_truth,
)

USES = "expected FILE with --truth for its score, FILE with --hidden for its format, or --run with --data for val"


def validate(
    file: Path | None,
    truth: Path | None,
    hidden: Path | None,
    run: str | None,
    data: Path | None,
    as_json: bool,
    report: Path | None,
    picture: Path | None,
    record: Path | None,
    device_name: str | None,
) -> None:
    """Do what the options of ``validate.py`` say."""
    file, hidden, run, data = fill_in(file, truth, hidden, run, data)
    check_outputs([path for path in (report, picture, record) if path], [path for path in (file, truth) if path])
    if file and truth and not (hidden or run or picture or record) and (report or not data):
        print_score(score_file(file, truth, data, report), as_json)
    elif file and hidden and not (truth or run or data or report or picture or record or as_json):
        check_format(file, hidden)
    elif run and data and not (file or truth or hidden):
        with redirect_stdout(sys.stderr) if as_json else nullcontext():  # progress is no part of the object
            scores = score_run(run, data, device_name, report, picture, record)
        print_scores(scores, as_json)
    else:
        raise UserError(f"{USES}; see --help.")


def fill_in(
    file: Path | None, truth: Path | None, hidden: Path | None, run: str | None, data: Path | None
) -> tuple[Path | None, Path | None, str | None, Path | None]:
    """Return file, hidden, run and data, with what is here for those left out: rather a run than a file.

    Raises:
        UserError: there is neither.
    """
    given = file, hidden, run, data
    if (truth or hidden) and not (file or run) and SUBMISSION.is_file():
        file = SUBMISSION
    elif not (file or truth or hidden or (run and data)):
        from solution.runs import found_data, last_run

        last, place = run or last_run(), data or found_data()
        if last and place:
            run, data = str(last), place
        elif place and not (run or data) and SUBMISSION.is_file():
            file, hidden = SUBMISSION, place
        else:
            raise UserError(f"{USES}; there is no finished run in ./runs, or no data to score it on.")
    if (file, hidden, run, data) != given:
        named = {"FILE": file, "--hidden": hidden, "--run": run, "--data": data}
        click.echo("Taken: " + ", ".join(f"{name} {value}" for name, value in named.items() if value), err=True)
    return file, hidden, run, data


def score_file(file: Path, truth: Path, data: Path | None, report: Path | None) -> Score:
    """Score a leaderboard file or any prediction of the same form against the truth, and write its page if wanted."""
    true = load_truth(truth)
    for problem in true.problems:
        click.echo(f"left out: {problem.file}: {problem.problem}", err=True)
    check_scorable(true.masks, truth)
    prediction = load_submission(file, len(true.masks))
    if report:
        from solution.page import write_page
        from solution.report import material_of_file
        from solution.runs import pack_and_report

        with redirect_stdout(sys.stderr):
            packed = pack_and_report(data, required=()) if data else {}
        write_page(report, material_of_file(file, prediction.numpy(), true, truth, packed))
    return score(prediction, true.masks)


def check_scorable(truth: np.ndarray | Tensor, source: Path) -> None:
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
    run: str, data: Path, device_name: str | None, report: Path | None, picture: Path | None, record: Path | None
) -> dict[str, Score]:
    """Predict val from its first 11 frames on the path of submit.py; return every method's score, kept with the run."""
    from solution.evaluation import FORESIGHT, evaluate, fates_of, foresight
    from solution.fates import fate_groups
    from solution.page import write_page
    from solution.pipeline import Pipeline
    from solution.report import material_of_run, record_run, save_validation
    from solution.runs import STAGES, choose_device, find_run, pack_and_report, read_run
    from solution.strips import check_picture, write_strips

    if picture:
        check_picture(picture)
    device = choose_device(device_name)
    folder = find_run(run)
    config, trained = read_run(folder)  # what is wrong with it is said before the data are packed
    packed = pack_and_report(data, required=("val",), wanted=("val",))
    pipeline = Pipeline(config, packed, STAGES, device)
    pipeline.done |= trained
    val = packed["val"]
    truth = val.masks[:, -1]
    check_scorable(truth, Path(val.masks.filename).parent)
    fate = fates_of(pipeline, val)
    groups, last_frames = fate_groups(fate), None if val.frames is None else val.frames[:, -1]
    scores, masks, presence = evaluate(pipeline, val, truth, last_frames, groups)
    if val.frames is None:
        scores[FORESIGHT] = foresight(val.masks, groups)
    save_validation(folder, data, scores)
    material = material_of_run(folder.name, pipeline, scores, masks, presence, fate)
    if report:
        write_page(report, material)
    if picture:
        write_strips(picture, material)
    if record:
        described = f"run {folder.name} of {data.name}, scored on its {len(val)} val videos"
        record_run(folder.name, scores, pipeline, described, record)
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


def print_scores(scores: dict[str, Score], as_json: bool) -> None:
    """Print the scores of every method for people, or as JSON with that of the ensemble first."""
    from solution.evaluation import print_table

    if not as_json:
        print_table(scores)
        return
    methods = {name: reached.as_json() for name, reached in scores.items()}
    click.echo(json.dumps(scores["ensemble"].as_json() | {"methods": methods}))
