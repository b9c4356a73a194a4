"""Everything that runs on a GPU, on one that only seems to be there: no tensor is left on the other side."""

import numpy as np
import pytest
import torch

from data_prep.pack import open_packed, pack
from data_prep.standin.writer import Settings, make_standin
from solution.config import override
from solution.ensemble import batch_size
from solution.evaluation import score_split
from solution.pipeline import Pipeline
from solution.presets import QUICK
from tests.conftest import TINY
from tests.pretended_gpu import GPU, OnGpu, seeming_gpu

FRAMES = {"hid_S": 8, "hid_T": 16, "N_T": 2, "segmenter_steps": 2, "joint_steps": 2, "pseudo_steps": 2}
MASKS = {"hid_S": 8, "hid_T": 16, "N_T": 2}
JEPA = {
    "encoder": {"width": 24, "layers": 1, "epochs": 1, "steps": 2, "batch_size": 2},
    "generator": {"width": 24, "layers": 1, "steps": 2, "batch_size": 2},
    "decoder": {"layers": 1, "pseudo_steps": 2, "labelled_steps": 2, "tuning_steps": 2, "batch_size": 2},
}
SMALL = [
    *(f"{key}={value}" for key, value in (TINY | {"objects.width": "32", "objects.modes": "2"}).items()),
    *(f"frames.{key}={value}" for key, value in (FRAMES | {"steps": 2, "batch_size": 2}).items()),
    *(f"masks.{key}={value}" for key, value in (MASKS | {"steps": 2, "batch_size": 2}).items()),
    *(f"jepa.{part}.{key}={value}" for part, values in JEPA.items() for key, value in values.items()),
]


@pytest.fixture
def gpu(monkeypatch):
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
        ["ensemble.members=objects,masks,frames", "objects.dynamics=interactions"],
        ["ensemble.members=objects,masks,jepa", "objects.dynamics=direct", "masks.form=rollout"],
    ],
    ids=lambda settings: " ".join(settings),
)
def test_every_stage_keeps_to_its_device(settings, raw_standin, tmp_path, gpu):
    packed = pack(raw_standin, tmp_path / "packed")
    pipeline = Pipeline(override(QUICK, [*SMALL, *settings]), packed, tmp_path / "stages", GPU)
    assert pipeline.predictions(packed["hidden"]).shape == (5, 160, 240)
    val = packed["val"]
    scores = score_split(pipeline, val, np.asarray(val.frames[:, -1]), np.asarray(val.masks[:, -1]))
    assert set(pipeline.config.ensemble.members) < set(scores)
    assert gpu.calls > 1000


def test_the_simulator_keeps_to_its_device(tmp_path, gpu):
    make_standin(tmp_path / "masks", Settings(train=9, val=2, unlabeled=0, hidden=0, seed=1, kind="masks"))
    packed = open_packed(tmp_path / "masks")
    config = override(QUICK, [*SMALL, "ensemble.members=objects", "objects.dynamics=corrected"])
    pipeline = Pipeline(config, packed, tmp_path / "stages", GPU)
    assert pipeline.predictions(packed["val"]).shape == (2, 160, 240)
    assert gpu.calls > 10_000
