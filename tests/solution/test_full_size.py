"""The whole kit on a few videos: stopped in every stage and taken up again, with one result at the end."""

import json
import math

import pytest
from click.testing import CliRunner

from solution import benchmark, results_table
from solution.results_table import read_results
from tests.conftest import TINY_OPTIONS, assert_one_sentence, call

OPTIONS = ["full", "--recipe", "quick", "--scale", "0.0005", *TINY_OPTIONS[2:], "--set", "segmenter.steps=6"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results_table, "RESULTS", tmp_path / "results.json")

    def run(*options: str) -> str:
        found = CliRunner().invoke(benchmark.main, [*OPTIONS, *options], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    return run


@pytest.mark.parametrize("option", [("--scale", "inf"), ("--scale", "-1"), ("--minutes", "0")])
def test_a_scale_or_time_that_is_no_positive_number_is_refused(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(call(benchmark.main, "full", *option), *option)
    assert not any(tmp_path.iterdir())


def test_the_unlabeled_videos_can_be_fewer_than_their_share(run, tmp_path):
    assert "Time is up. Done: nothing." in run("--minutes", "0.0001", "--unlabeled", "0")
    made = json.loads((tmp_path / "data" / "standin-0.0005-unlabeled-0" / "standin.json").read_text())
    assert [made[split] for split in ("train", "val", "unlabeled", "hidden")] == [2, 2, 0, 2]


@pytest.mark.slow
def test_stopped_again_and_again_it_ends_with_one_result(run, tmp_path):
    said, calls = "Time is up", []
    while "Time is up" in said:
        said = run("--minutes", "0.0001")
        calls.append(said.splitlines()[-1])
        assert len(calls) < 60
    assert calls[0] == "Time is up. Done: nothing. The same command goes on from here."
    done = calls[-2].partition("Done: ")[2].partition(".")[0].split(", ")
    assert {"stand-in", "segmenter", "masks_hidden", "predictions_hidden", "methods_hidden"} <= set(done)
    (result,) = read_results(tmp_path / "results.json")
    assert result["name"] == "full-quick-0.0005" and result["commit"] and result["hardware"] and result["versions"]
    assert result["data"] == "stand-in of 2 train, 2 val, 6 unlabeled, 2 hidden videos, scored on hidden"
    methods = [row["method"] for row in result["rows"]]
    assert methods[0] == "all background" and {"objects", "ensemble", "U-Net on the true frame 22"} <= set(methods)
    assert set(done) <= set(result["stages"])
    assert all(cost["seconds"] > 0 and cost["peak_gib"] > 0 for cost in result["stages"].values())
    timed = [c["seconds"] for name, c in result["stages"].items() if name not in ("stand-in", "methods_hidden")]
    (minutes,) = (row["minutes"] for row in result["rows"] if row["minutes"])
    assert math.isclose(60 * minutes, sum(timed))
    assert "segmenter: kept" in run()
    assert read_results(tmp_path / "results.json")[0]["rows"] == result["rows"]
