"""Every benchmark runs at a small size and records its numbers with what they were measured on."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from solution import benchmark, results_table
from solution.config import override
from solution.presets import PRESETS
from solution.results_table import read_results


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(results_table, "RESULTS", tmp_path / "results.json")

    def run(name: str, *options: str | Path, kept_as: str | None = None) -> list[dict]:
        monkeypatch.setattr("sys.argv", [benchmark.__file__, name, *map(str, options)])
        found = CliRunner().invoke(benchmark.main, [name, *map(str, options)], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        made = read_results(tmp_path / "results.json")[-1]
        assert made["name"] == f"benchmark-{kept_as or name}"
        assert made["command"].startswith("python -m solution.benchmark") and made["commit"]
        assert made["hardware"] and "torch" in made["versions"]
        assert [json.loads(line) for line in found.stdout.splitlines()] == made["rows"]
        return made["rows"]

    return run


def test_score(run):
    (row,) = run("score", "--videos", "5")
    assert row["videos"] == 5 and row["seconds"] > 0


def test_pack(run, raw_standin):
    (row,) = run("pack", raw_standin)
    assert row["frames"] == 11 * 22 + 5 * 11
    assert row["ratio"] == pytest.approx(row["pack_frames_per_s"] / row["imdecode_frames_per_s"])
    assert not [path for path in raw_standin.parent.iterdir() if path != raw_standin]


def test_simvp(run, monkeypatch):
    small = override(PRESETS["report-simvp"], ["frames.size=8,16,4,2"])
    monkeypatch.setitem(benchmark.PRESETS, "report-simvp", small)
    rows = run("simvp", "--steps", "1", "--device", "cpu")
    assert [row["network"] for row in rows if row["precision"] == "float32"] == ["inception", "gsta", "openstl"]
    for row in rows:
        assert row["step_ms"] > 0 and row["times_as_fast"] == pytest.approx(row["bare_float32_ms"] / row["step_ms"])


def test_no_frames_is_one_sentence(tmp_path):
    found = CliRunner().invoke(benchmark.main, ["pack", str(tmp_path)])
    assert found.exit_code == 2 and found.stderr.startswith("Error: ")
