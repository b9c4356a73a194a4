"""Ablations: which variants a spec has, what is refused, what fits, and a run that is interrupted and goes on."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from solution import ablate
from solution.ablate import SPECS, Ablation, Job, as_csv, as_markdown, configs_of, estimated_seconds, parse_spec, plan
from solution.config import override
from solution.presets import PRESETS, QUICK
from tests.conftest import TINY_OPTIONS, assert_one_sentence, call, run_validate


@pytest.mark.parametrize("spec", SPECS)
def test_ready_specs_are_possible_and_start_from_their_base(spec):
    base = override(QUICK, SPECS[spec].base)
    configs = configs_of(SPECS[spec], QUICK)
    assert next(iter(configs.values())) == base and "base" in next(iter(configs))
    assert len({str(config) for config in configs.values()}) == len(configs)


def test_specs_have_the_promised_variants():
    assert len(SPECS["members"].variants) == 7 and len(SPECS["loss"].variants) == 4
    assert list(configs_of(SPECS["jepa"], QUICK)) == ["pseudo masks, then labelled (base)", "labelled only"]
    assert list(configs_of(SPECS["network"], QUICK)) == ["SimVP (base)", "ConvLSTM"]
    assert list(SPECS["views"].variants)[:4] == ["none", "flip", "slots", "turn"]
    assert list(configs_of(SPECS["decode"], PRESETS["full"])) == ["fitted (base)", "argmax"]


def test_vary_describes_a_spec():
    name, spec = parse_spec(None, ("objects.layers=1,2", "ensemble.views=flip;flip,turn"))
    assert name == "vary"
    assert list(spec.variants) == [
        "objects.layers=1",
        "objects.layers=2",
        "ensemble.views=flip",
        "ensemble.views=flip,turn",
    ]
    configs = configs_of(spec, QUICK)
    assert list(configs)[0] == "base" and configs["ensemble.views=flip,turn"].ensemble.views == ("flip", "turn")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nothing"], ["nothing", "views"]),
        ([], ["--vary"]),
        (["--vary", "objects.layers"], ["objects.layers"]),
        (["--vary", "objects.layer=1"], ["objects.layers"]),
        (["--vary", "objects.layers=two"], ["two"]),
        (["--vary", "objects.steps=0"], ["objects.steps", "at least 1"]),
        (["--vary", "segmenter.learning_rate=nan"], ["learning_rate"]),
        (["--vary", "segmenter.encoder=resnet19"], ["resnet19"]),
        (["--vary", "ensemble.decode=best"], ["best"]),
        (["--vary", "frames.downscale=3", "--set", "ensemble.members=frames"], ["downscale"]),
        (["--vary", "jepa.encoder.steps=0"], ["jepa.encoder.steps", "at least 1"]),
        (["jepa", "--set", "jepa.encoder.heads=5"], ["divisible"]),
        (["members", "--data", "nowhere"], ["nowhere"]),
        (["members", "--minutes", "nan"], ["--minutes", "nan", "finite"]),
    ],
)
def test_what_is_impossible_is_refused_before_anything_runs(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(call(ablate.main, *options), *words)
    assert not any(tmp_path.rglob("results.json")) and not (tmp_path / "data").exists()


def test_a_plan_shares_stages_and_leaves_out_what_does_not_fit():
    jobs = [Job(label, QUICK) for label in "abc"]
    shared, unknown = Path("segmenter"), Path("objects")
    needs = {
        "a": {shared: 50.0, unknown: math.nan},
        "b": {shared: 50.0, Path("masks"): 60.0},
        "c": {shared: 50.0, Path("decoding"): 10.0},
    }
    found = plan(jobs, lambda job: needs[job.label], 100)
    assert [found[job] for job in jobs] == [50.0, None, 10.0]
    assert [plan(jobs, lambda job: needs[job.label], 10)[job] for job in jobs] == [None, None, None]


def test_estimates_come_from_the_most_similar_stage(tmp_path):
    def finished(name: str, seconds: float, config: dict) -> None:
        (tmp_path / name).mkdir()
        record = {"seconds": seconds, "decided_by": {"config": config, "seed": 0}}
        (tmp_path / name / "done.json").write_text(json.dumps(record))

    finished("objects-1", 10.0, {"steps": 100, "width": 8})
    finished("objects-2", 99.0, {"steps": 100, "width": 64})
    wanted = {"config": {"steps": 300, "width": 8}, "seed": 1}
    assert estimated_seconds(tmp_path, "objects", wanted) == 30
    assert math.isnan(estimated_seconds(tmp_path, "masks", wanted))


def test_the_difference_is_paired_over_seeds():
    ablation = object.__new__(Ablation)
    ablation.configs = {"base": QUICK, "other": QUICK}
    base, other = [0.5, 0.3, 0.4], [0.52, 0.33, 0.41]
    rest = {"object_iou": 0.4, "object_iou_se": 0.1, "minutes": 2.0, "peak_gib": 1.5}
    ablation.rows = [
        {"label": label, "seed": seed, "jaccard": value, "by_group": {"still": value, "late": None}} | rest
        for label, values in (("base", base), ("other", other))
        for seed, value in enumerate(values)
    ]
    table = ablation.summary([0, 1, 2])
    change = np.subtract(other, base)
    assert table[0]["difference"] is None and table[1]["n"] == 3
    assert table[1]["difference"] == pytest.approx(change.mean())
    assert table[1]["difference_se"] == pytest.approx(change.std(ddof=1) / math.sqrt(3))
    assert table[1]["jaccard_sd"] == pytest.approx(np.std(other, ddof=1))
    row = "| other | 0.4200 ± 0.0954 | 3 | +0.0200 ± 0.0058 | 0.4000 ± 0.1000 | 0.420 | – | 2.0 | 1.5 |"
    assert row in as_markdown(table)
    assert [row["method"] for row in csv.DictReader(as_csv(table).splitlines())] == ["base", "other"]
    assert ablation.summary([0])[1]["difference_se"] is None
    mixed = as_csv([table[0] | {"by_group": {}}, table[1]])  # a run of before groups were scored
    assert [row["still"] for row in csv.DictReader(mixed.splitlines())] == ["", str(table[1]["by_group"]["still"])]


@pytest.mark.slow
def test_an_interrupted_ablation_goes_on_and_scores_as_validate_does(trained, monkeypatch):
    options = ["decode", "--data", trained.data, "--seeds", "1", *TINY_OPTIONS]
    run, started = Ablation.run, []

    def interrupted(self, job):
        started.append(job.label)
        if len(started) == 2:
            raise KeyboardInterrupt
        run(self, job)

    monkeypatch.setattr(Ablation, "run", interrupted)
    assert call(ablate.main, *options).exit_code != 0
    found = call(ablate.main, *options)
    assert found.exit_code == 0, found.output
    assert started == ["fitted (base)", "argmax", "argmax"]
    assert "1 runs are finished, 1 to go" in found.output and "segmenter: kept" in found.output

    folder = next((trained.folder / "runs/ablations").iterdir())
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md", "table.csv", "table.png"}
    rows = json.loads((folder / "results.json").read_text())
    validated = json.loads(run_validate("--run", "quick", "--data", trained.data, "--json").stdout)
    assert rows[0]["jaccard"] == pytest.approx(validated["jaccard"])
    assert rows[0]["peak_gib"] > 0.05 and rows[0]["minutes"] > 0

    tight = call(ablate.main, "decode", "--data", trained.data, "--seeds", "2", "--minutes", "0.0001", *TINY_OPTIONS)
    assert tight.exit_code == 0 and "Left out: " in tight.output and "seed 1 (left out, needs about" in tight.output
