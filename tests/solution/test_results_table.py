"""Recorded results: what they hold, the Markdown made of them, and README's markers."""

import json

import pytest
import torch

from data_prep.errors import UserError
from solution.results_table import (
    END,
    SHOWN,
    START,
    other_results,
    record_result,
    results_block,
    with_results,
    without_paths,
)

ROWS = [
    {
        "method": "ensemble",
        "jaccard": 0.51234,
        "jaccard_sd": 0.004,
        "object_iou": 0.5,
        "object_iou_se": 0.01,
        "n": 3,
        "minutes": 12.34,
        "by_group": {"still": 0.9, "late": None},
    },
    {
        "method": "copy",
        "jaccard": 0.2,
        "jaccard_sd": None,
        "object_iou": 0.19,
        "object_iou_se": None,
        "n": 1,
        "minutes": None,
    },
]


def record(path):
    cpu = torch.device("cpu")
    record_result(
        path,
        ROWS,
        command="python submit.py",
        seeds=[0, 1, 2],
        data="a stand-in",
        device=cpu,
        stages={"segmenter": {"seconds": 12.3, "peak_gib": 1.5}},
        note="Small.",
    )


def test_a_result_says_how_it_was_made(tmp_path):
    record(tmp_path / "quick.json")
    found = json.loads((tmp_path / "quick.json").read_text())
    expected = ["name", "command", "commit", "hardware", "versions", "seeds", "data", "rows", "stages", "note"]
    assert list(found) == expected and found["name"] == "quick" and found["rows"] == ROWS
    assert found["commit"] and "CPU" in found["hardware"] and "torch" in found["versions"]
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


def test_every_result_is_shown_once(tmp_path):
    assert "No results" in results_block(SHOWN, tmp_path) and "No results" in other_results(tmp_path)
    for name in ("b", "a", "ablate-dynamics", "quick-standin"):
        record(tmp_path / f"{name}.json")
    shown, others = results_block(SHOWN, tmp_path), other_results(tmp_path)
    assert shown.index("**quick-standin**") < shown.index("**ablate-dynamics**") and "**a**" not in shown
    assert others.index("**a**") < others.index("**b**") and "**quick-standin**" not in others
    assert "| ensemble | 0.5123 ± 0.0040 | 0.5000 ± 0.0100 | 0.900 | – | 3 | 12.3 |" in shown
    assert "| copy | 0.2000 | 0.1900 | – | – | 1 | – |" in shown
    assert "`python submit.py`" in shown and "seeds 0, 1, 2" in shown and "Small. Stages: segmenter 12 s." in shown


def test_only_what_is_between_the_markers_changes():
    text = f"before\n{START}\nold\n{END}\nafter \\1\n"
    new = with_results(text, "a \\1 block")
    assert new == f"before\n{START}\na \\1 block\n{END}\nafter \\1\n"
    assert with_results(new, "a \\1 block") == new
    with pytest.raises(UserError, match="results"):
        with_results("no markers", "block")


def test_recorded_commands_hold_no_paths():
    words = ["--run", "a", "--data", "/somewhere/data", "--record", "out.json", "--set", "x.y=1"]
    assert without_paths(words) == ["--run", "a", "--data", "DATA", "--record", "RECORD", "--set", "x.y=1"]
