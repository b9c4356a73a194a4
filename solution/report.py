"""What is shown of results that exist: the material of a report page, runs side by side, and README's table.

Nothing here trains or predicts.
"""

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from data_prep.classes import BACKGROUND, NUM_CLASSES
from data_prep.errors import UserError, exits_cleanly
from data_prep.files import read_json, write_text
from data_prep.pack import PackedSplit, open_split
from data_prep.scene import CLIP_FRAMES
from solution import processes
from solution.evaluation import score_baselines
from solution.fates import fates
from solution.machine import commit, hardware, versions
from solution.metrics import Score, score
from solution.page import Material
from solution.pipeline import Pipeline
from solution.results_table import (
    ALL_RESULTS,
    README,
    all_results,
    markdown_table,
    number,
    read_results,
    record_result,
    results_block,
    score_row,
    with_error,
    with_results,
)
from solution.runs import RUNS
from solution.stages import Stage
from solution.submission import Truth


def material_of_run(
    name: str,
    pipeline: Pipeline,
    scores: dict[str, Score],
    masks: np.ndarray,
    presence: np.ndarray,
    fate: np.ndarray,
) -> Material:
    """Return the material of a run's page on val; for the arrays see :class:`solution.page.Material`."""
    val = pipeline.packed["val"]
    seconds = {stage: f"{done.seconds:.0f} s" for stage, done in pipeline.done.items()}
    return Material(
        title=f"Run {name} on {len(val)} val videos",
        prediction=masks,
        truth=val.masks[:, -1],
        scores=scores,
        own="ensemble",
        videos=val.videos,
        frames=val.frames,
        fates=fate,
        presence=presence,
        about={
            "Configuration": asdict(pipeline.config),
            "Time of the stages": seconds,
            "Decoding": json.loads((pipeline.done["decoding"].folder / "decoding.json").read_text()),
            "Commit, hardware, versions": {"commit": commit(), "hardware": hardware(pipeline.device)} | versions(),
        },
    )


def material_of_file(
    file: Path, prediction: np.ndarray, truth: Truth, source: Path, packed: dict[str, PackedSplit]
) -> Material:
    """Return the material of a leaderboard file's page.

    Args:
        file: for the title.
        prediction: (N, 160, 240) uint8 of the file.
        truth, source: what it is scored against, and the path of that.
        packed: the competition, where it was given.
    """
    split, true_masks, videos = matching_split(truth, source, packed), truth.masks.numpy(), truth.videos
    frames = all_masks = None
    if split is not None:
        row_of = {video: row for row, video in enumerate(split.videos)}
        numbers = videos or split.videos
        shown = [row for row, video in enumerate(numbers) if video in row_of]
        prediction, true_masks, videos = prediction[shown], true_masks[shown], [numbers[row] for row in shown]
        rows = [row_of[video] for video in videos]
        frames, all_masks = split.frames, split.masks
        if rows != list(range(len(split))):  # else the arrays stay memory-mapped
            frames, all_masks = (None if array is None else array[rows] for array in (frames, all_masks))
    scores = {"all background": score(np.full_like(prediction, BACKGROUND), true_masks)}
    if all_masks is not None:  # the baselines see what a flawless segmenter would
        seen = np.where(all_masks[:, :CLIP_FRAMES] < NUM_CLASSES, all_masks[:, :CLIP_FRAMES], BACKGROUND)
        baselines = score_baselines(seen, true_masks)
        scores |= {f"{name}, from true masks": reached for name, reached in baselines.items() if name not in scores}
    return Material(
        title=f"{file.name} against {source.name}",
        prediction=prediction,
        truth=true_masks,
        scores=scores | {file.name: score(prediction, true_masks)},
        own=file.name,
        videos=videos,
        frames=frames,
        fates=None if all_masks is None else fates(all_masks),
        about={"Files": {"prediction": str(file), "truth": str(source)}, "Versions": versions() | {"commit": commit()}},
    )


def matching_split(truth: Truth, source: Path, packed: dict[str, PackedSplit]) -> PackedSplit | None:
    """Return the split whose videos the truth shows: the truth itself where it is packed, else one of the others."""
    if (source / "index.json").is_file():
        return open_split(source)
    for split in (packed[name] for name in ("hidden", "val", "train") if name in packed):
        if set(split.videos) & set(truth.videos or ()) or (truth.videos is None and len(split) == len(truth.masks)):
            return split
    return None


def save_validation(run: Path, data: Path, scores: dict[str, Score]) -> None:
    """Remember in a run's folder what ``validate.py --run`` reached."""
    record = {
        "data": str(data),
        "commit": commit(),
        "scores": {name: reached.as_json() for name, reached in scores.items()},
    }
    write_text(run / "validation.json", json.dumps(record, indent=1))


def record_run(
    name: str,
    scores: dict[str, Score],
    pipeline: Pipeline,
    data: str,
    path: Path | None = None,
    before: dict[str, Stage] | None = None,
) -> None:
    """Record the scores of one run by method as a result; see :func:`solution.results_table.record_result`.

    Minutes are those of the pipeline's stages without scoring; ``before`` are stages that were made for it elsewhere.
    """
    scoring = ("methods_", "fates_")
    minutes = sum(stage.seconds for name, stage in pipeline.done.items() if not name.startswith(scoring)) / 60
    stages = (before or {}) | pipeline.done
    rows = [
        score_row(method, reached, minutes if method in ("submission", "ensemble") else None)
        for method, reached in scores.items()
    ]
    record_result(
        name,
        rows,
        seeds=[pipeline.config.seed],
        data=data,
        device=pipeline.device,
        stages={name: {"seconds": stage.seconds, "peak_gib": stage.peak_gib} for name, stage in stages.items()},
        note=f"Minutes are those of all stages together, in {processes.count()} process(es).",
        path=path,
    )


def compare_runs(names: tuple[str, ...]) -> str:
    """Return Markdown tables of the scores on val and of the time per stage of some runs.

    Raises:
        UserError: there is no such run, or it was not validated.
    """
    scores, seconds = {}, {}
    for name in names:
        remedy = f"make the run with `python submit.py --run {name}`"
        stages = read_json(RUNS / name / "run.json", remedy)["stages"]
        remedy = f"score the run with `python validate.py --run {name} --data DIR`"
        scores[name] = read_json(RUNS / name / "validation.json", remedy)["scores"]
        seconds[name] = {stage: cost["seconds"] for stage, cost in stages.items()}
    methods = dict.fromkeys(method for by_method in scores.values() for method in by_method)
    rows = [[method, *(described(scores[name].get(method)) for name in names)] for method in methods]
    stages = dict.fromkeys(stage for by_stage in seconds.values() for stage in by_stage)
    times = [[stage, *(number(seconds[name].get(stage), ".0f") for name in names)] for stage in stages]
    times.append(["together", *(number(sum(seconds[name].values()), ".0f") for name in names)])
    first = markdown_table(["Jaccard (object IoU ± se)", *names], rows)
    return f"{first}\n\n{markdown_table(['seconds', *names], times)}"


def described(reached: dict | None) -> str:
    if reached is None:
        return "–"
    return f"{number(reached['jaccard'])} ({with_error(reached['object_iou'], reached['object_iou_se'], '.3f')})"


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--readme", is_flag=True, help="Rewrite the tables of results from solution/results/results.json.")
@exits_cleanly
def main(runs: tuple[str, ...], readme: bool) -> None:
    """Compare RUNS by their scores on val and the time of their stages."""
    if readme == bool(runs):
        raise UserError("expected names of runs to compare, or --readme.")
    if runs:
        click.echo(compare_runs(runs))
        return
    results = read_results()
    write_text(README, with_results(README.read_text(), results_block(results)))
    write_text(ALL_RESULTS, all_results(results))
    click.echo(f"{README} and {ALL_RESULTS} show the recorded results.")


if __name__ == "__main__":
    main()
