"""Recorded results: what they hold, the Markdown made of them, and README's markers."""

import pytest
import torch

from data_prep.errors import UserError
from solution.results_table import (
    END,
    SHOWN,
    START,
    all_results,
    as_json,
    given_command,
    read_results,
    record_result,
    results_block,
    with_results,
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


def record(path, name="quick", rows=ROWS):
    record_result(
        name,
        rows,
        seeds=[0, 1, 2],
        data="a stand-in",
        device=torch.device("cpu"),
        stages={"segmenter": {"seconds": 12.3, "peak_gib": 1.5}},
        note="Small.",
        path=path,
    )


def test_a_result_says_how_it_was_made_and_takes_the_place_of_an_older_one(tmp_path):
    path = tmp_path / "results.json"
    record(path, rows=ROWS[:1])
    record(path, "other")
    record(path)
    other, quick = read_results(path)
    expected = ["name", "data", "command", "commit", "hardware", "versions", "seeds", "note", "stages", "rows"]
    assert list(quick) == expected and quick["name"] == "quick" and quick["rows"] == ROWS and other["name"] == "other"
    assert quick["commit"] and "CPU" in quick["hardware"] and "torch" in quick["versions"]
    assert path.read_text() == as_json([other, quick]) and list(tmp_path.iterdir()) == [path]
    path.write_text("[")
    with pytest.raises(UserError, match="damaged"):
        record(path)


def test_every_result_is_shown_with_how_it_was_made(tmp_path):
    path = tmp_path / "results.json"
    record(path)
    record(path, "benchmark", [{"videos": 5, "seconds": 0.123456, "top": {"a": 1}}])
    text = all_results(read_results(path))
    assert text.index("**quick** · a stand-in") < text.index("**benchmark**")
    assert "| ensemble | 0.5123 ± 0.0040 | 0.5000 ± 0.0100 | 0.900 | – | 3 | 12.3 |" in text
    assert "| copy | 0.2000 | 0.1900 | – | – | 1 | – |" in text and "| 5 | 0.1235 |" in text
    assert "`python " in text and "seeds 0, 1, 2" in text and "Small. Stages: segmenter 12 s." in text


def test_readme_shows_a_few_rows():
    scored_on, label, name, method = SHOWN[1]
    block = results_block([{"name": name, "rows": [ROWS[0] | {"method": method}, ROWS[1]]}])
    assert block.splitlines()[2:] == [f"| {scored_on} | {label} | 0.512 | 0.500 ± 0.010 |"]
    recorded = results_block(read_results())
    assert len(recorded.splitlines()) == 2 + len(SHOWN), "every row that README shows is recorded"


def test_only_what_is_between_the_markers_changes():
    text = f"before\n{START}\nold\n{END}\nafter \\1\n"
    new = with_results(text, "a \\1 block")
    assert new == f"before\n{START}\na \\1 block\n{END}\nafter \\1\n"
    assert with_results(new, "a \\1 block") == new
    with pytest.raises(UserError, match="results"):
        with_results("no markers", "block")


def test_recorded_commands_hold_no_paths(monkeypatch):
    words = ["--run", "a", "--data", "/somewhere/data", "--record", "out.json", "--set", "x.y=1"]
    monkeypatch.setattr("sys.argv", ["validate.py", *words])
    assert given_command() == "python validate.py --run a --data DATA --record RECORD --set x.y=1"
    monkeypatch.setattr("sys.argv", ["/kit/solution/ablate.py", "--vary", "a.b=1;2"])
    assert given_command() == "python -m solution.ablate --vary 'a.b=1;2'"
