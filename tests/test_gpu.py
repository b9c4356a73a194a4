"""Everything that runs on a GPU, on one that only seems to be there: no tensor is left on the other side."""

import numpy as np
import pytest
import torch

from data_prep.pack import open_packed, pack
from data_prep.standin.writer import Settings, make_standin
from solution.config import override
from solution.ensemble import batch_size
from solution.evaluation import evaluate
from solution.pipeline import Pipeline
from solution.predictors import jepa
from solution.presets import QUICK
from tests.conftest import TINY
from tests.pretended_gpu import GPU, OnGpu, seeming_gpu

FRAMES = {"size": "8,16,4,2", "steps": 2, "batch_size": 2, "tuning_steps": 2}
MASKS = {"size": "8,16,2,2", "steps": 2, "batch_size": 2}
SMALL = [
    *(f"{key}={value}" for key, value in (TINY | {"segmenter.steps": "6", "objects.modes": "2"}).items()),
    *(f"frames.{key}={value}" for key, value in FRAMES.items()),
    *(f"masks.{key}={value}" for key, value in MASKS.items()),
]
SMALL_JEPA = jepa.JepaSizes(
    jepa.EncoderConfig(width=24, layers=1, epochs=1, steps=2, batch_size=2),
    jepa.GeneratorConfig(width=24, layers=1, steps=2, batch_size=2),
    jepa.DecoderConfig(layers=1, pseudo_steps=2, labelled_steps=2, tuning_steps=2, batch_size=2),
)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("solution.motion.MOST_ITERATIONS", 1)  # of the fit, which stays on the CPU
    with seeming_gpu(monkeypatch) as gpu:
        yield gpu


def test_the_gpu_that_is_not_there_refuses_what_is_not_its_own(gpu):
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert there.device.type == "cuda" and (2 * there + torch.tensor(1.0)).device.type == "cuda"
    assert torch.equal(there.cpu() + here, 2 * here) and isinstance(there.to("cuda"), OnGpu)
    assert isinstance(torch.nn.Linear(3, 2).to(GPU)(there), OnGpu)
    with pytest.raises(RuntimeError, match="both devices"):
        there + here
    with pytest.raises(RuntimeError, match="both devices"):
        torch.nn.Linear(3, 2).to(GPU)(here)
    with pytest.raises(RuntimeError, match="both devices"):
        here[torch.zeros(1, dtype=torch.long, device="cuda")]
    with pytest.raises(RuntimeError, match="no array"):
        there.numpy()


@pytest.mark.parametrize("gib, clips", [(80, 512), (16, 102), (0.1, 1)])
def test_as_many_clips_are_predicted_at_a_time_as_memory_holds(monkeypatch, gib, clips):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, int(gib * 2**30)))
    assert batch_size(GPU) == clips


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["ensemble.members=objects,masks,frames"],
        ["ensemble.members=masks,jepa", "masks.form=rollout"],
    ],
    ids=lambda settings: " ".join(settings),
)
def test_every_stage_keeps_to_its_device(settings, raw_standin, tmp_path, gpu, monkeypatch):
    monkeypatch.setitem(jepa.SIZES, "quick", SMALL_JEPA)
    packed = pack(raw_standin, tmp_path / "packed")
    pipeline = Pipeline(override(QUICK, [*SMALL, *settings]), packed, tmp_path / "stages", GPU)
    assert pipeline.predictions(packed["hidden"]).shape == (5, 160, 240)
    val = packed["val"]
    scores, *_ = evaluate(pipeline, val, np.asarray(val.masks[:, -1]), val.frames[:, -1])
    assert set(pipeline.config.ensemble.members) < set(scores)
    assert gpu.calls > 1000


@pytest.mark.slow
def test_the_simulator_keeps_to_its_device(tmp_path, gpu):
    make_standin(tmp_path / "masks", Settings(train=9, val=2, unlabeled=0, hidden=0, seed=1, kind="masks"))
    packed = open_packed(tmp_path / "masks")
    config = override(QUICK, [*SMALL, "ensemble.members=objects"])
    pipeline = Pipeline(config, packed, tmp_path / "stages", GPU)
    assert pipeline.predictions(packed["val"]).shape == (2, 160, 240)
    assert gpu.calls > 10_000
