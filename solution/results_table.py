"""Recorded results: one JSON file of all experiments, and the Markdown that is made from it.

A result says by which command, commit, hardware and versions it came about; nothing here computes a score.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import torch

from data_prep.errors import UserError
from data_prep.files import read_json, write_text
from solution.machine import ROOT, commit, hardware, versions
from solution.metrics import Score

RESULTS = ROOT / "solution" / "results" / "results.json"
README, ALL_RESULTS = ROOT / "README.md", RESULTS.with_name("README.md")
START, END = "<!-- results -->", "<!-- /results -->"


def given_command() -> str:
    """Return the command that this process was started by, with the names of options instead of a user's paths."""
    program, *words = sys.argv
    shown = (
        ["-m", f"solution.{Path(program).stem}"] if Path(program).parent.name == "solution" else [Path(program).name]
    )
    for option, word in zip(["", *words], words, strict=False):
        is_path = option in ("--data", "--record", "--report", "--picture")
        shown.append(option.removeprefix("--").upper() if is_path else word)
    return shlex.join(["python", *shown])


def record_result(
    name: str,
    rows: list[dict],
    *,
    seeds: list[int],
    data: str,
    device: torch.device,
    stages: dict[str, dict] | None = None,
    note: str = "",
    path: Path | None = None,
) -> None:
    """Add an experiment's result to a file, with the command, commit, hardware and versions it was made by.

    Args:
        name: of the experiment; replaces an older result of this name.
        rows: dicts of ``method``, ``jaccard``, ``jaccard_sd``, ``object_iou``, ``object_iou_se``, ``n`` (runs),
            ``minutes`` and perhaps ``by_group``, see ``Score``, None if unknown; of a benchmark any numbers by name.
        seeds: of the runs.
        data: what it was trained and scored on, in words.
        device: where it ran.
        stages: by name, the ``seconds`` and ``peak_gib`` of what was built for it.
        note: what a reader must know to read the numbers.
        path: the file; by default ``RESULTS``.
    """
    path = path or RESULTS
    result = {
        "name": name,
        "data": data,
        "command": given_command(),
        "commit": commit(),
        "hardware": hardware(device),
        "versions": versions(),
        "seeds": seeds,
        "note": note,
        "stages": stages or {},
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [other for other in read_results(path) if other["name"] != name] if path.exists() else []
    write_text(path, as_json([*others, result]))


def read_results(path: Path | None = None) -> list[dict]:
    """Return all recorded results."""
    return read_json(path or RESULTS, "restore it")


def as_json(results: list[dict]) -> str:
    """Return results as JSON text with a line for every field and every row."""
    blocks = []
    for result in results:
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items() if key != "rows"]
        rows = ",\n".join(f"   {json.dumps(row)}" for row in result["rows"])
        blocks.append(" {\n" + ",\n".join([*lines, f'  "rows": [\n{rows}\n  ]']) + "\n }")
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def number(value: float | None, form: str = ".4f") -> str:
    """Return a number as text; a dash where there is none."""
    return "–" if value is None else format(value, form)


def with_error(value: float | None, error: float | None, form: str = ".4f") -> str:
    """Return ``value ± error``, without the error where there is none."""
    return number(value, form) + ("" if error is None else f" ± {error:{form}}")


def markdown_table(header: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """Return a Markdown table whose first columns are ``texts`` and whose others are numbers."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def score_row(method: str, reached: Score, minutes: float | None = None) -> dict:
    """Return the row of one run's score; see :func:`record_result`."""
    values = reached.as_json()
    shown = {name: values[name] for name in ("jaccard", "object_iou", "object_iou_se", "by_group")}
    return {"method": method, "jaccard_sd": None, "n": 1, "minutes": minutes} | shown


def score_table(rows: list[dict], with_difference: bool = False) -> str:
    """Return rows of scores as a Markdown table; ``with_difference`` of what ``solution.ablate`` adds to them."""
    groups = list(dict.fromkeys(name for row in rows for name in row.get("by_group", {})))
    header = ["method", "Jaccard ± sd", "object IoU ± se", *groups, "runs", "minutes"]
    cells = [
        [
            row["method"],
            with_error(row["jaccard"], row["jaccard_sd"]),
            with_error(row["object_iou"], row["object_iou_se"]),
            *(number(row.get("by_group", {}).get(name), ".3f") for name in groups),
            str(row["n"]),
            number(row["minutes"], ".1f"),
        ]
        for row in rows
    ]
    if with_difference:
        header.insert(2, "difference ± se")
        for line, row in zip(cells, rows, strict=True):
            difference = with_error(row.get("difference"), row.get("difference_se"), "+.4f")
            line.insert(2, difference.replace("± +", "± "))
    return markdown_table(header, cells)


SHOWN = (
    ("8 real videos", "copy frame 11", "real-quick", "copy frame 11"),
    ("8 real videos", "`quick`, trained on the stand-in", "real-quick", "objects"),
    ("8 real videos", "`quick`, given true masks of frames 1–11", "real-quick", "ensemble, from true masks"),
    ("8 real videos", "`quick` before its laws of motion were real ones", "real-quick-before", "objects"),
    ("8 real videos", "U-Net on the true frame 22", "real-quick", "U-Net on the true frame 22"),
    ("200 videos moved by Bullet, exact masks", "copy frame 11", "bullet-exact-masks", "copy frame 11"),
    ("200 videos moved by Bullet, exact masks", "`objects`", "bullet-exact-masks", "objects"),
    ("200 videos moved by Bullet, exact masks", "the same before", "bullet-exact-masks-before", "objects"),
    ("100 videos of the stand-in", "copy frame 11", "quick-standin", "copy frame 11"),
    ("100 videos of the stand-in", "`frames` at `quick`'s size: SimVP + U-Net", "frames-standin", "submission"),
    ("100 videos of the stand-in", "`quick`", "quick-standin", "submission"),
)
"""The rows that README shows: scored on what, what README calls the method, the experiment, and its name there."""


def results_block(results: list[dict]) -> str:
    """Return the Markdown of the rows that README shows, of those that are recorded."""
    recorded = {(result["name"], row["method"]): row for result in results for row in result["rows"] if "method" in row}
    rows = [
        [scored_on, label, number(row["jaccard"], ".3f"), with_error(row["object_iou"], row["object_iou_se"], ".3f")]
        for scored_on, label, *place in SHOWN
        if (row := recorded.get(tuple(place)))
    ]
    return markdown_table(["scored on", "method", "Jaccard", "object IoU ± se"], rows, texts=2)


ALL = """Every block is made from `results.json` by `python -m solution.report --readme` and names the commit it was
measured at. Videos are real (`real-…`), moved by Bullet (`bullet-…`), rendered with Blender or invented (all others).

- Columns from `late` to `still`: mean IoU of objects by fate, the first that fits: in none of frames 1–11, course
  broken near another object, over a quarter hidden, moved, none of these.
- Scores are comparable within one commit and one data set only: the stand-in's pictures and motion have come closer to
  real ones, and the fit of motion has become better, with every version. Before 9920d3d what was thrown turned in the
  stand-in, whatever turned went on for long, cubes and cylinders parted slower than real ones, and the fit did not see
  how cubes turn. Before 1fa4e45 the U-Net of `quick` was deeper and saw frames at half resolution. Before 128af1b the
  stand-in was moved by a planar engine, the simulator had the same laws, and neither had those of real video: scores on
  invented videos of before are too good, and tell nothing of motion. Records of versions between are in the history of
  `results.json`.
- What was chosen was chosen on exact masks of seed 31, on 100 videos of seed 17 and on the rendered sample. Two choices
  saw the 200 videos of seed 29 too: not to take an object of undecided shape for floor, and to learn edges twice.
- The U-Net on the true frame 22 is no strict ceiling: it sees that frame alone, while the clip's classes are settled
  over frames 1–11.
- Commands are those that were given; some settings have other names now."""


def all_results(results: list[dict]) -> str:
    """Return the text of the page that shows every result."""
    return "# Results\n\n" + "\n\n".join([ALL, *map(_section, results)]) + "\n"


def _section(result: dict) -> str:
    is_score = "jaccard" in result["rows"][0]
    made = f"Commit {result['commit']}, {result['hardware']}, torch {result['versions']['torch']}"
    seeds = f", seeds {', '.join(map(str, result['seeds']))}" if result["seeds"] else ""
    note = f" {result['note']}" if result["note"] else ""
    if result["stages"]:
        costs = (f"{name} {cost['seconds']:.0f} s" for name, cost in result["stages"].items())
        note += f" Stages: {', '.join(costs)}."
    table = (score_table if is_score else _numbers)(result["rows"])
    title = f"**{result['name']}**" + (f" · {result['data']}" if result["data"] else "")
    return f"{title}\n\n{table}\n\n`{result['command']}` · {made}{seeds}.{note}"


def _numbers(rows: list[dict]) -> str:
    names = [name for name, value in rows[0].items() if isinstance(value, (str, int, float))]
    return markdown_table(
        names, [[f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names] for row in rows]
    )


def with_results(readme: str, block: str) -> str:
    """Return a README's text with what is between its markers replaced.

    Raises:
        UserError: the markers are missing.
    """
    if START not in readme or END not in readme.split(START, 1)[1]:
        raise UserError(f"{README} has no {START} … {END} to put the results between; add both on lines of their own.")
    between = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{START}\n{block}\n{END}", readme, count=1)
