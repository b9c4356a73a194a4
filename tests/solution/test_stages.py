"""What stages may learn from."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_prep.pack import open_packed
from data_prep.standin.writer import Settings, make_standin
from solution.config import override
from solution.presets import QUICK
from solution.stages import Pipeline
from tests.test_gpu import SMALL


def test_a_tenth_but_at_least_eight_and_at_most_half_is_held_out(tmp_path):
    for videos, held_out in ((1000, 100), (200, 20), (60, 9), (20, 10), (3, 2)):
        pipeline = Pipeline(QUICK, {"train": range(videos)}, tmp_path, torch.device("cpu"))
        assert len(pipeline.held_out_rows) == held_out
        assert sorted({*pipeline.held_out_rows, *pipeline.fit_rows}) == list(range(videos))
        assert len(pipeline.fit_rows) + held_out == videos


@pytest.mark.slow
def test_nothing_is_learned_from_val_or_what_is_held_out(tmp_path):
    config = override(QUICK, [*SMALL, "ensemble.members=objects,masks,frames,jepa", "objects.dynamics=corrected"])
    made = []
    for name in ("as they are", "noise"):
        data = tmp_path / name
        make_standin(data, Settings(train=6, val=2, unlabeled=2, hidden=0, seed=1, kind="packed"))
        pipeline = Pipeline(config, open_packed(data), tmp_path / f"stages of {name}", torch.device("cpu"))
        if name == "noise":
            random = np.random.default_rng(0)
            for split, rows in (("train", pipeline.held_out_rows), ("val", range(2))):
                for file, end in (("frames", 256), ("masks", 49)):
                    array = np.load(data / split / f"{file}.npy", mmap_mode="r+")
                    array[rows] = random.integers(0, end, array[rows].shape, np.uint8)
                    array.flush()
        pipeline.member_stages()
        made.append(pipeline.done)
    compared = 0
    for stage in made[0]:
        plain, noisy = (done[stage].folder for done in made)
        for file in plain.rglob("weights.safetensors"):
            weights, others = load_file(file), load_file(noisy / file.relative_to(plain))
            assert all(torch.equal(weights[name], others[name]) for name in weights), stage
            compared += 1
    assert compared >= 7
    plain, noisy = ((done["objects"].folder / "physics.json").read_text() for done in made)
    assert plain == noisy
