"""The benchmark prints one line of numbers for every translator and precision."""

import json

from click.testing import CliRunner

from solution import benchmark


def test_every_translator_in_both_precisions(monkeypatch):
    monkeypatch.setattr(benchmark, "HEIGHT", 16)
    monkeypatch.setattr(benchmark, "WIDTH", 24)
    result = CliRunner().invoke(benchmark.main, ["--device", "cpu", "--repeats", "1", "--hid-s", "8", "--hid-t", "16"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert [row["translator"] for row in rows] == ["inception", "inception", "gsta", "gsta"]
    assert all(row["train_clips_per_s"] > 0 and row["forward_clips_per_s"] > 0 and row["peak_gib"] > 0 for row in rows)
