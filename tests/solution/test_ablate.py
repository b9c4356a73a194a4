"""Ablations: which variants a spec has, what is refused, and a run that is interrupted and goes on."""

import json
import math

import numpy as np
import pytest

from solution import ablate, results_table
from solution.ablate import SPECS, Ablation, as_markdown, configs_of, parse_spec
from solution.config import override
from solution.presets import PRESETS, QUICK
from tests.conftest import TINY_OPTIONS, assert_one_sentence, call, run_validate


@pytest.mark.parametrize("spec", SPECS)
def test_ready_specs_are_possible_and_start_from_their_base(spec):
    members, variants = SPECS[spec]
    base = override(QUICK, [f"ensemble.members={members}"] if members else [])
    configs = configs_of(members, variants, QUICK)
    assert next(iter(configs.values())) == base and "base" in next(iter(configs))
    assert len({str(config) for config in configs.values()}) == len(configs)


def test_specs_have_the_promised_variants():
    assert len(SPECS["members"][1]) == 7 and len(SPECS["frames"][1]) == 8
    assert list(configs_of(*SPECS["jepa"], QUICK)) == ["pseudo masks, then labelled (base)", "labelled only"]
    assert list(configs_of(*SPECS["network"], QUICK)) == ["SimVP (base)", "ConvLSTM"]
    assert list(configs_of(*SPECS["decode"], PRESETS["full"])) == ["fitted (base)", "argmax"]


def test_vary_describes_a_spec():
    name, members, variants = parse_spec(None, ("edges.steps=1,2", "frames.tuned=joint;joint,pseudo"))
    assert name == "vary" and not members
    names = ["edges.steps=1", "edges.steps=2", "frames.tuned=joint", "frames.tuned=joint,pseudo"]
    assert list(variants) == names
    configs = configs_of(members, variants, QUICK)
    assert list(configs) == ["base", *names] and configs[names[-1]].frames.tuned == ("joint", "pseudo")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nothing"], ["nothing", "views"]),
        ([], ["--vary"]),
        (["--vary", "edges.steps"], ["edges.steps"]),
        (["--vary", "edges.step=1"], ["edges.steps"]),
        (["--vary", "edges.steps=two"], ["two"]),
        (["--vary", "masks.steps=0"], ["masks.steps", "equal to 1"]),
        (["--vary", "segmenter.learning_rate=nan"], ["learning_rate"]),
        (["--vary", "segmenter.encoder=resnet19"], ["resnet19"]),
        (["--vary", "ensemble.decode=best"], ["best"]),
        (["--vary", "frames.downscale=3", "--set", "ensemble.members=frames"], ["downscale"]),
        (["--vary", "jepa.size=huge"], ["jepa.size", "'report', 'quick' or 'smoke'"]),
        (["members", "--data", "nowhere"], ["nowhere"]),
    ],
)
def test_what_is_impossible_is_refused_before_anything_runs(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(call(ablate.main, *options), *words)
    assert not any(tmp_path.rglob("results.json")) and not (tmp_path / "data").exists()


def test_the_difference_is_paired_over_seeds():
    ablation = object.__new__(Ablation)
    ablation.configs = {"base": QUICK, "other": QUICK}
    base, other = [0.5, 0.3, 0.4], [0.52, 0.33, 0.41]
    rest = {"object_iou": 0.4, "object_iou_se": 0.1, "minutes": 2.0}
    ablation.rows = [
        {"label": label, "seed": seed, "jaccard": value, "by_group": {"still": value, "late": None}} | rest
        for label, values in (("base", base), ("other", other))
        for seed, value in enumerate(values)
    ]
    table = ablation.table([0, 1, 2])
    change = np.subtract(other, base)
    assert table[0]["difference"] is None and table[1]["n"] == 3
    assert table[1]["difference"] == pytest.approx(change.mean())
    assert table[1]["difference_se"] == pytest.approx(change.std(ddof=1) / math.sqrt(3))
    assert table[1]["jaccard_sd"] == pytest.approx(np.std(other, ddof=1))
    row = "| other | 0.4200 ± 0.0954 | 3 | +0.0200 ± 0.0058 | 0.4000 ± 0.1000 | 0.420 | – | 2.0 |"
    assert row in as_markdown(table)
    assert ablation.table([0])[1]["difference_se"] is None


@pytest.mark.slow
def test_an_interrupted_ablation_goes_on_and_scores_as_validate_does(trained, monkeypatch):
    options = ["decode", "--data", trained.data, "--seeds", "1", *TINY_OPTIONS]
    run, started = Ablation.run, []

    def interrupted(self, label, seed):
        started.append(label)
        if len(started) == 2:
            raise KeyboardInterrupt
        run(self, label, seed)

    monkeypatch.setattr(Ablation, "run", interrupted)
    assert call(ablate.main, *options).exit_code != 0
    found = call(ablate.main, *options)
    assert found.exit_code == 0, found.output
    assert started == ["fitted (base)", "argmax", "argmax"]
    assert "segmenter: kept" in found.output

    folder = next((trained.folder / "runs/ablations").iterdir())
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md"}
    rows = json.loads((folder / "results.json").read_text())
    validated = json.loads(run_validate("--run", "quick", "--data", trained.data, "--json").stdout)
    assert rows[0]["jaccard"] == pytest.approx(validated["jaccard"])
    assert rows[0]["minutes"] > 0

    monkeypatch.setattr(results_table, "RESULTS", trained.folder / "results.json")
    assert call(ablate.main, *options, "--publish").exit_code == 0
    (result,) = json.loads((trained.folder / "results.json").read_text())
    assert result["name"] == "ablate-decode" and result["rows"][0]["jaccard"] == rows[0]["jaccard"]
