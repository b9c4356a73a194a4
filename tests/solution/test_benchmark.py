"""Every benchmark runs at a small size and records its numbers with what they were measured on."""

import json
from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
from click.testing import CliRunner

from solution import benchmark
from solution.config import override
from solution.presets import PRESETS
from solution.profiling import jobs, with_batch


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RECORDS", tmp_path / "benchmarks")

    def run(name: str, *options: str | Path, kept_as: str | None = None) -> list[dict]:
        found = CliRunner().invoke(benchmark.main, [name, *map(str, options)], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        made = json.loads((tmp_path / "benchmarks" / f"{kept_as or name}.json").read_text())
        assert made["command"].startswith("python -m solution.benchmark") and made["commit"]
        assert made["hardware"] and made["cores"] >= 1 and "torch" in made["versions"]
        assert [json.loads(line) for line in found.stdout.splitlines()] == made["rows"]
        return made["rows"]

    return run


def test_simvp_in_both_precisions(run, monkeypatch):
    monkeypatch.setattr(benchmark, "HEIGHT", 16)
    monkeypatch.setattr(benchmark, "WIDTH", 24)
    rows = run("simvp", "--device", "cpu", "--repeats", "1", "--hid-s", "8", "--hid-t", "16")
    assert [row["translator"] for row in rows] == ["inception", "inception", "gsta", "gsta"]
    assert all(row["train_clips_per_s"] > 0 and row["forward_clips_per_s"] > 0 and row["peak_gib"] > 0 for row in rows)


def test_score(run):
    (row,) = run("score", "--videos", "5")
    assert row["videos"] == 5 and row["seconds"] > 0


def test_pack(run, raw_standin):
    (row,) = run("pack", raw_standin)
    assert row["frames"] == 11 * 22 + 5 * 11
    assert row["ratio"] == pytest.approx(row["pack_frames_per_s"] / row["imdecode_frames_per_s"])
    assert not [path for path in raw_standin.parent.iterdir() if path != raw_standin]


def test_render(run):
    (row,) = run("render", "--videos", "1", "--device", "cpu")
    assert row["frames"] == 22 and row["frames_per_s"] > 0


def test_no_frames_is_one_sentence(tmp_path):
    found = CliRunner().invoke(benchmark.main, ["pack", str(tmp_path)])
    assert found.exit_code == 2 and found.stderr.startswith("Error: ")


TINY = override(
    PRESETS["quick"],
    [
        "segmenter.decoder_channels=16,8",
        *(f"{section}.{key}" for section in ("frames", "masks") for key in ("hid_S=8", "hid_T=16", "N_T=2")),
        "objects.width=32",
        "objects.layers=1",
    ],
)
NETWORKS = ["segmenter", "SimVP inception", "SimVP gsta", "SlotSimVP", "edges", "dynamics"]


@pytest.mark.slow
def test_profile(run, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", TINY)
    rows = run("profile", "--device", "cpu", "--batch", "2", kept_as="profile-quick")
    assert [row["network"] for row in rows] == NETWORKS
    sizes = {"segmenter": TINY.segmenter.batch, "SlotSimVP": TINY.masks.batch_size, "edges": TINY.edges.batch}
    steps = {"segmenter": TINY.segmenter.steps, "SlotSimVP": TINY.masks.steps, "edges": round(1.5 * TINY.edges.steps)}
    for row in rows:
        if row["network"] in sizes:
            samples = sizes[row["network"]] * steps[row["network"]]
            assert row["training_flops"] == pytest.approx(samples * row["flops"] / 2)
        assert row["batch"] == 2 and row["step_s"] > 0 and row["batch_s"] > 0 and len(row["top"]) == 3
        assert row["share_of_peak"] == pytest.approx(row["flops"] / row["step_s"] / row["peak_flops"])
    assert 0 < sum(rows[0]["top"].values()) <= 1


@pytest.mark.parametrize("network", NETWORKS)
def test_a_loss_calls_the_network_itself_which_is_what_a_gpu_compiles(network):
    job = jobs(with_batch(TINY, 2))[network]()
    calls = []
    job.model.register_forward_pre_hook(lambda *call: calls.append(call))
    job.loss(job.model, job.batch(0))
    assert len(calls) == 1


@pytest.mark.parametrize("network", NETWORKS)
def test_a_compiled_network_is_one_graph_or_two_for_all_batches(network):
    job = jobs(with_batch(TINY, 2))[network]()
    model, counts = job.model.train(), torch._dynamo.utils.counters
    plain = []
    for compiled in (False, True):
        if compiled:
            torch._dynamo.reset()
            counts.clear()
            model.compile(backend="aot_eager_decomp_partition")  # code for a GPU is made from these graphs
        for step in range(4):
            loss = job.loss(model, job.batch(step))["loss"]
            loss.backward()
            model.zero_grad()
            if compiled:
                assert loss.item() == pytest.approx(plain[step], rel=1e-3)
            else:
                plain.append(loss.item())
    # Numbers of objects are all one; a first batch may have been a special case of them.
    assert 1 <= counts["stats"]["unique_graphs"] <= 2 and not counts["graph_break"]
