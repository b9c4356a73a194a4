"""Recorded results: one JSON file per experiment, and the Markdown that is made from all of them.

A result says by which command, commit, hardware and versions it came about; nothing here computes a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from data_prep.errors import UserError
from data_prep.files import write_text
from solution.machine import ROOT, commit, hardware, versions

RESULTS = ROOT / "solution" / "results"
README, OTHER_RESULTS = ROOT / "README.md", RESULTS / "README.md"
START, END = "<!-- results -->", "<!-- /results -->"


def without_paths(words: list[str]) -> list[str]:
    """Return the words of a command with the paths that a user gave replaced by the names of their options."""
    before = ["", *words]
    return [
        option.removeprefix("--").upper() if option in ("--data", "--record", "--report", "--picture") else word
        for option, word in zip(before, words, strict=False)
    ]


def record_result(
    path: Path,
    rows: list[dict],
    *,
    command: str,
    seeds: list[int],
    data: str,
    device: torch.device,
    stages: dict[str, dict] | None = None,
    note: str = "",
) -> None:
    """Write an experiment's result as JSON, with the commit, hardware and versions it was made by.

    Args:
        path: the file; its stem names the experiment. Those in ``solution/results`` appear in README or beside them.
        rows: dicts of ``method``, ``jaccard``, ``jaccard_sd``, ``object_iou``, ``object_iou_se``, ``n`` (runs),
            ``minutes`` and, if known, ``by_group``, see ``Score``; None where a number does not exist.
        command: that repeats it.
        seeds: of the runs.
        data: what it was trained and scored on, in words.
        device: where it ran.
        stages: by name, the ``seconds`` and ``peak_gib`` of what was built for it.
        note: what a reader must know to read the numbers.
    """
    result = {
        "name": path.stem,
        "command": command,
        "commit": commit(),
        "hardware": hardware(device),
        "versions": versions(),
        "seeds": seeds,
        "data": data,
        "rows": rows,
        "stages": stages or {},
        "note": note,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1) + "\n")


def number(value: float | None, form: str = ".4f") -> str:
    """Return a number as text; a dash where there is none."""
    return "–" if value is None else format(value, form)


def with_error(value: float | None, error: float | None, form: str = ".4f") -> str:
    """Return ``value ± error``, without the error where there is none."""
    return number(value, form) + ("" if error is None else f" ± {error:{form}}")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def group_names(rows: list[dict]) -> list[str]:
    """Return the names of the groups of objects that any row has a mean IoU of."""
    return list(dict.fromkeys(name for row in rows for name in row.get("by_group", {})))


def group_cells(row: dict, names: list[str]) -> list[str]:
    """Return a row's mean IoUs of these groups as text."""
    return [number(row.get("by_group", {}).get(name), ".3f") for name in names]


SHOWN = (
    "quick-standin",
    "ablate-edges-imprecise",
    "ablate-copies",
    "ablate-members",
    "ablate-dynamics-blender",
    "ablate-dynamics",
)
"""The results that README shows, in this order."""
OTHERS = """Older or smaller experiments, each made by the command below its table. The main ones, and how to read the
columns, are in the README of the kit. A score is comparable with those of the same commit and data only: before 8aee94a
the spheres of the stand-in slid as cubes do and all solids weighed the same, before 3d74293 cubes and cylinders were
drawn 1 to 2 % too large, before 7d91c03 an object whose shape the U-Net left undecided was taken for floor (these
two: some .002, on rendered videos .012), and before b7a811a edges were learned once and silhouettes drawn as they are,
which matters where labels are imprecise."""


def results_block(names: Iterable[str], folder: Path = RESULTS) -> str:
    """Return the Markdown of those of the named results that a folder has."""
    files = (folder / f"{name}.json" for name in names)
    sections = [_section(json.loads(path.read_text())) for path in files if path.exists()]
    return "\n\n".join(sections) or "No results are recorded yet."


def other_results(folder: Path = RESULTS) -> str:
    """Return the text of the page that shows every result that README does not."""
    names = sorted({path.stem for path in folder.glob("*.json")} - set(SHOWN))
    return f"# Other results\n\n{OTHERS}\n\n{results_block(names, folder)}\n"


def _section(result: dict) -> str:
    groups = group_names(result["rows"])
    rows = [
        [
            row["method"],
            with_error(row["jaccard"], row["jaccard_sd"]),
            with_error(row["object_iou"], row["object_iou_se"]),
            *group_cells(row, groups),
            str(row["n"]),
            number(row["minutes"], ".1f"),
        ]
        for row in result["rows"]
    ]
    table = markdown_table(["method", "Jaccard ± sd", "object IoU ± se", *groups, "runs", "minutes"], rows)
    made = f"Commit {result['commit']}, {result['hardware']}, torch {result['versions']['torch']}"
    seeds = f", seeds {', '.join(map(str, result['seeds']))}" if result["seeds"] else ""
    note = f" {result['note']}" if result["note"] else ""
    if result.get("stages"):
        costs = (f"{name} {cost['seconds']:.0f} s" for name, cost in result["stages"].items())
        note += f" Stages: {', '.join(costs)}."
    return f"**{result['name']}** · {result['data']}\n\n{table}\n\n`{result['command']}` · {made}{seeds}.{note}"


def with_results(readme: str, block: str, path: Path = README) -> str:
    """Return a README's text with what is between its markers replaced.

    Raises:
        UserError: the markers are missing.
    """
    if START not in readme or END not in readme.split(START, 1)[1]:
        raise UserError(f"{path} has no {START} … {END} to put the results between; add both on lines of their own.")
    between = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{START}\n{block}\n{END}", readme, count=1)
