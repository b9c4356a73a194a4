"""Recorded results: what they hold, the Markdown made of them, and README's markers."""

import json

import pytest
import torch

from data_prep.errors import UserError
from solution.results_table import END, START, record_result, results_block, with_results, without_paths

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


def test_the_block_shows_every_result_in_order(tmp_path):
    assert "No results" in results_block(tmp_path)
    record(tmp_path / "b.json")
    record(tmp_path / "a.json")
    record(tmp_path / "quick-standin.json")
    block = results_block(tmp_path)
    assert block.index("**quick-standin**") < block.index("<b>a</b>") < block.index("<b>b</b>")
    assert block.count("<details>") == block.count("</details>") == 2
    assert "| ensemble | 0.5123 ± 0.0040 | 0.5000 ± 0.0100 | 0.900 | – | 3 | 12.3 |" in block
    assert "| copy | 0.2000 | 0.1900 | – | – | 1 | – |" in block
    assert "`python submit.py`" in block and "seeds 0, 1, 2" in block and "Small. Stages: segmenter 12 s." in block


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
