"""Ablations: which variants a spec has, what is refused, and a run that is interrupted and goes on."""

import json
import math

import numpy as np
import pytest

from solution import ablate, results_table
from solution.ablate import SPECS, configs_of, parse_spec, summary
from solution.config import override
from solution.presets import PRESETS, QUICK
from solution.results_table import score_table
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
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def test_the_difference_is_paired_over_seeds():
    rest = {"object_iou": 0.4, "object_iou_se": 0.1, "minutes": 2.0}
    base, other = (
        [{"jaccard": value, "by_group": {"still": value, "late": None}} | rest for value in values]
        for values in ((0.5, 0.3, 0.4), (0.52, 0.33, 0.41))
    )
    table = [summary("base", base, base), summary("other", other, base)]
    change = np.array([0.02, 0.03, 0.01])
    assert "difference" not in table[0] and table[1]["n"] == 3
    assert table[1]["difference"] == pytest.approx(change.mean())
    assert table[1]["difference_se"] == pytest.approx(change.std(ddof=1) / math.sqrt(3))
    assert table[1]["jaccard_sd"] == pytest.approx(np.std([0.52, 0.33, 0.41], ddof=1))
    row = "| other | 0.4200 ± 0.0954 | +0.0200 ± 0.0058 | 0.4000 ± 0.1000 | 0.420 | – | 3 | 2.0 |"
    assert row in score_table(table, with_difference=True)
    assert summary("other", other[:1], base[:1])["difference_se"] is None


@pytest.mark.slow
def test_an_interrupted_ablation_goes_on_and_scores_as_validate_does(trained, monkeypatch):
    options = ["decode", "--data", trained.data, "--seeds", "1", *TINY_OPTIONS]
    run, started = ablate.run, []

    def interrupted(config, *others):
        started.append(config.ensemble.decode)
        if len(started) == 2:
            raise KeyboardInterrupt
        return run(config, *others)

    monkeypatch.setattr(ablate, "run", interrupted)
    assert call(ablate.main, *options).exit_code != 0
    found = call(ablate.main, *options)
    assert found.exit_code == 0, found.output
    assert started == ["fitted", "argmax", "fitted", "argmax"]
    assert "segmenter: kept" in found.output and found.output.count("predictions_val: kept") == 1
    (table,) = (trained.folder / "runs/ablations").iterdir()
    validated = json.loads(run_validate("--run", "quick", "--data", trained.data, "--json").stdout)
    assert f"| fitted (base) | {validated['jaccard']:.4f} |" in table.read_text()

    monkeypatch.setattr(results_table, "RESULTS", trained.folder / "results.json")
    assert call(ablate.main, *options, "--publish").exit_code == 0
    (result,) = json.loads((trained.folder / "results.json").read_text())
    assert result["name"] == "ablate-decode"
    assert result["rows"][0]["jaccard"] == pytest.approx(validated["jaccard"]) and result["rows"][0]["minutes"] > 0
