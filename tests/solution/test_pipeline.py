"""What stages may learn from, and what decides that they are made anew."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_prep.pack import open_packed
from data_prep.standin.writer import Settings, make_standin
from solution.config import override
from solution.pipeline import Pipeline
from solution.predictors import jepa
from solution.presets import QUICK
from solution.stages import Stage, stage_key
from tests.test_gpu import SMALL, SMALL_JEPA


def test_a_tenth_but_at_least_eight_and_at_most_half_is_held_out(tmp_path):
    for videos, held_out in ((1000, 100), (200, 20), (60, 9), (20, 10), (3, 2)):
        pipeline = Pipeline(QUICK, {"train": range(videos)}, tmp_path, torch.device("cpu"))
        assert len(pipeline.held_out_rows) == held_out
        assert sorted({*pipeline.held_out_rows, *pipeline.fit_rows}) == list(range(videos))
        assert len(pipeline.fit_rows) + held_out == videos


@pytest.mark.slow
def test_nothing_is_learned_from_val_or_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setitem(jepa.SIZES, "quick", SMALL_JEPA)
    config = override(QUICK, [*SMALL, "ensemble.members=objects,masks,frames,jepa"])
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


class Keys(Pipeline):
    """A pipeline that builds nothing and only says by what its stages are known."""

    def stage(self, name, decided_by, build):
        self.done[name + self.number] = Stage(self.root, stage_key(name, decided_by), 0.0)
        return self.done[name + self.number]


class Split:
    """A split of which nothing but its identity is looked at."""

    def __init__(self, name: str, videos: int):
        self.name, self.videos, self.frames, self.masks = name, videos, object(), object()
        self.content = {"name": name, "videos": videos}

    def __len__(self) -> int:
        return self.videos


def keys(*settings: str) -> dict[str, str]:
    defaults = "ensemble.members=objects,masks,frames,jepa", "frames.tuned=pseudo"
    packed = {name: Split(name, 40) for name in ("train", "unlabeled", "hidden")}
    pipeline = Keys(override(QUICK, [*defaults, *settings]), packed, Path("stages"), torch.device("cpu"))
    pipeline.predicted(packed["hidden"])
    return {name: stage.key for name, stage in pipeline.done.items()}


END = {"decoding", "predictions_hidden"}


@pytest.mark.parametrize(
    ("settings", "made_anew"),
    [
        (["objects.samples=9"], {"objects"} | END),
        (["masks.steps=9"], {"masks"} | END),
        (["frames.tuning_rate=9"], {"frames"} | END),
        (["frames.size=8,16,4,2"], {"simvp", "frames"} | END),
        (["jepa.pseudo=false"], {"jepa"} | END),
        (["ensemble.decode=argmax"], END),
        (["edges.batch=9"], {"edges", "tracks", "objects"} | END),
    ],
)
def test_a_stage_is_made_anew_for_what_it_uses_and_nothing_else(settings, made_anew):
    before, after = keys(), keys(*settings)
    assert {name for name in before if before[name] != after[name]} == made_anew


def test_a_network_that_is_not_used_decides_nothing():
    plain = ["frames.network=convlstm", "masks.form=rollout"]
    before, after = keys(*plain), keys(*plain, "frames.size=32,8,4,2", "masks.horizons=3")
    assert before == after


def test_every_seed_and_every_split_makes_all_stages_anew():
    before, after = keys(), keys("seed=1")
    assert {name for name in before if before[name] == after[name]} == {"mask_tracks"}  # nothing random in it


def test_a_member_beside_others_changes_nothing_that_they_are_made_of():
    """Only where one learns from whole videos are they segmented."""
    alone, fast, three = (keys(f"ensemble.members={m}") for m in ("objects", "objects,frames", "objects,frames,masks"))
    assert "masks_train" in fast and "whole_masks_unlabeled" in fast and "whole_masks_train" in three
    assert not {"whole_masks_train", "whole_masks_unlabeled"} & set(alone) and "masks_train" not in three
    assert "whole_masks_unlabeled" not in keys("ensemble.members=objects,frames", "frames.tuned=joint")
    for fewer, more in ((alone, fast), (fast, three)):
        kept = set(fewer) - {"decoding", "predictions_hidden", "masks_train"}
        assert all(fewer[name] == more[name] for name in kept)
