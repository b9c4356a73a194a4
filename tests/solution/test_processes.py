"""Two processes against one: the same losses, the same weights and the same leaderboard file."""

import csv
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.deadline import TimeIsUp, deadline
from data_prep.errors import UserError
from solution import edges, processes, training
from solution.arrays import fill_rows
from solution.config import MasksConfig, SegmenterConfig
from solution.losses import frame_loss
from solution.models.edges import EdgeNetwork
from solution.models.simvp import SimVP
from solution.predictors.masks import SLOTS, SlotSimVP, slots_loss
from solution.segmenter import build_segmenter, crops_loss
from solution.training import Recipe, fit
from tests.conftest import TINY_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
STEPS = 5
SEGMENTER = SegmenterConfig("resnet18", (16,))
MASKS = MasksConfig("rollout", patch=2, size=(8, 16, 2, 2))


def uneven(shape: tuple[int, ...], classes: int, generator: torch.Generator) -> Tensor:
    """Return uint8 masks whose first half ignores most pixels and shows few objects."""
    mask = torch.randint(0, classes, shape, generator=generator).to(torch.uint8)
    chance = torch.rand(shape, generator=generator)
    half = len(mask) // 2
    mask[:half] = torch.where(chance[:half] < 0.7, 255, mask[:half])
    mask[half:] = torch.where(chance[half:] < 0.5, 0, mask[half:])
    return mask


def crops(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    frames = torch.randint(0, 256, (4, 32, 32, 3), generator=generator).to(torch.uint8)
    return {"frames": frames, "mask": uneven((4, 32, 32), 49, generator)}


def slots(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    seen = torch.randint(0, 4, (4, 11, 8, 12), generator=generator).to(torch.uint8)
    shapes = torch.randint(0, 3, (4, SLOTS), generator=generator)
    own = torch.rand(4, 2, generator=generator) < 0.5
    return {"slots": seen, "shapes": shapes, "target": uneven((4, 2, 8, 12), 4, generator), "own": own}


def clips(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.rand(4, 4, 3, 16, 16, generator=generator) for name in ("clip", "future")}


def profiles(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    known = torch.rand(4, 16, generator=generator) < torch.tensor([0.3, 0.3, 0.9, 0.9])[:, None]
    features, offset = torch.randn(4, 16, 5, generator=generator), torch.randn(4, 16, generator=generator)
    return {"features": features, "offset": offset, "known": known}


TRAININGS = {
    "segmenter": (lambda: build_segmenter(SEGMENTER), partial(crops_loss, SEGMENTER), crops),
    "masks": (lambda: SlotSimVP(MASKS), partial(slots_loss, MASKS), slots),
    "frames": (
        lambda: SimVP(3, 3, 4, 4, 8, 16, 2, 2, "gsta"),
        lambda model, tensors: frame_loss(model(tensors["clip"]), tensors["future"], 0.1),
        clips,
    ),
    "edges": (lambda: EdgeNetwork(5, 8), edges.edges_loss, profiles),
}


def values(first: int, last: int) -> np.ndarray:
    return np.stack([np.full((2, 3), row, np.uint8) for row in range(first, last)])


def work(folder: Path) -> None:
    """Train every network and fill an array; stopped after every step and every chunk, and taken up again."""
    torch.set_num_threads(1)
    training.autocast_dtype = lambda device: torch.float32

    def often_stopped(run) -> None:
        with deadline(0.0):
            while True:
                try:
                    run()
                    return
                except TimeIsUp:
                    pass

    for name, (network, loss, batch) in TRAININGS.items():
        torch.manual_seed(0)
        fit(network(), loss, batch, folder / name, Recipe(STEPS, learning_rate=1e-4), CPU)
    torch.manual_seed(0)
    network, loss, batch = TRAININGS["masks"]
    often_stopped(lambda: fit(network(), loss, batch, folder / "stopped", Recipe(STEPS, learning_rate=1e-4), CPU))
    often_stopped(lambda: fill_rows(folder / "rows.npy", (11, 2, 3), 2, values, "rows", CPU))


def work_together(rank: int, folder: Path) -> None:
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    work(folder)
    with pytest.raises(UserError, match="a batch of 3 cannot be shared among 2"):
        processes.own_share({"x": torch.zeros(3)})
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """What one process made, and what two made together."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "autocast_dtype", lambda device: torch.float32)
        work(one)
    torch.multiprocessing.spawn(work_together, (two,), nprocs=2)
    return one, two


def losses(folder: Path) -> np.ndarray:
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("step", "rate", *training.TIMES)]
    return np.array([[float(row[name]) for name in names] for row in rows])


@pytest.mark.parametrize("name", TRAININGS)
def test_losses_are_those_of_one_process(folders, name):
    one, two = (losses(folder / name) for folder in folders)
    assert one.shape[0] == STEPS and len(np.unique(one[:, 0])) == STEPS
    np.testing.assert_allclose(two, one, rtol=2e-4, atol=1e-6)


def test_a_stopped_training_of_two_goes_on_as_if_it_had_not_been(folders):
    np.testing.assert_allclose(losses(folders[1] / "stopped"), losses(folders[1] / "masks"), rtol=1e-5)


def test_rows_are_those_of_one_process(folders):
    for folder in folders:
        np.testing.assert_array_equal(np.load(folder / "rows.npy"), values(0, 11))
        assert not list(folder.glob("rows.npy.part")) and not list(folder.glob("rows.rows"))


def torchrun(folder: Path, *command: str | Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    found = subprocess.run([*launch, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found


@pytest.mark.slow
def test_torchrun_trains_and_writes_the_same_file(trained):
    """All stages but the trained networks again, in two processes: tracks, decoding, masks, prediction."""
    stages = trained.folder / "runs" / "stages"
    before = trained.submission.read_bytes()
    kept = {path.name for name in ("segmenter", "edges") for path in stages.glob(f"{name}-*")}
    for path in stages.iterdir():
        if path.name not in kept:
            shutil.rmtree(path)
    trained.submission.unlink()
    found = torchrun(trained.folder, "--", ROOT / "submit.py", *TINY_OPTIONS, "--data", trained.data)
    assert trained.submission.read_bytes() == before
    assert found.stdout.count("SHA-256") == 1 and found.stdout.count("  segmenter: kept") == 1
    options = (*TINY_OPTIONS, "--data", trained.data, "--set", "seed=5", "--run", "five")
    torchrun(trained.folder, "-m", "--", "solution.train", "segmenter", *options)
    assert len(list(stages.glob("segmenter-*/weights.safetensors"))) == 2
