"""The loop against closed forms, and a killed run against an uninterrupted one."""

import csv
import gc
import math
import os
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from torch import nn

from data_prep.deadline import TimeIsUp, deadline
from solution import training
from solution.checkpoints import CHECKPOINTS, load_weights
from solution.training import OneCycle, Recipe, fit
from tests.conftest import flip_a_bit

CPU = torch.device("cpu")


def batch(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.rand(16, 3, 8, 8, generator=generator)
    return {"x": x, "y": (x.mean((1, 2, 3)) > 0.5).float()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 1),
    )


def loss(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    logits = model(tensors["x"])[:, 0].float()
    return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, tensors["y"])}


def test_rate_is_one_cycle():
    recipe = Recipe(steps=100, learning_rate=2.0, warmup=0.1)
    assert recipe.rate(0) == pytest.approx(0.2)
    assert recipe.rate(9) == pytest.approx(2.0)
    assert recipe.rate(55) == pytest.approx(1.0)
    assert recipe.rate(99) == pytest.approx(1 + math.cos(math.pi * 89 / 90))


@pytest.mark.parametrize(("steps", "cycle"), [(100, None), (85, 100), (7, None)])
def test_one_cycle_is_pytorch_s(steps, cycle):
    recipe = OneCycle(steps, learning_rate=1e-3, cycle=cycle)
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, cycle or steps)
    for step in range(steps):
        (group,) = optimiser.param_groups
        assert recipe.rate(step) == pytest.approx(group["lr"]) and recipe.beta(step) == pytest.approx(group["betas"][0])
        optimiser.step()
        if step + 1 < (cycle or steps):
            schedule.step()
    assert recipe.weight_decay == 0


def test_it_learns_and_leaves_weights_log_and_curves(tmp_path):
    model = fit(network(), loss, batch, tmp_path / "run", Recipe(steps=60, learning_rate=0.02), CPU)
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    first, last = (float(dict(zip(log[0].split(","), log[i].split(","), strict=True))["loss"]) for i in (1, -1))
    assert last < first
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0
    again = load_weights(network(), tmp_path / "run", CPU)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_seconds_of_a_step_do_not_depend_on_when_they_are_logged(tmp_path, monkeypatch):
    """A batch takes 5 seconds and a step 2 in which an evaluation, of 100 seconds, falls between rows of two steps."""
    now = [0.0]

    def slow_batch(step: int) -> dict[str, torch.Tensor]:
        now[0] += 5
        return batch(step)

    def slow_loss(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        now[0] += 2
        return loss(model, tensors)

    def evaluate(model: nn.Module) -> dict[str, float]:
        now[0] += 100
        return {"score": 1.0}

    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    fit(network(), slow_loss, slow_batch, tmp_path, Recipe(steps=201, evaluations=67), CPU, evaluate=evaluate)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert 1 in [b - a for a, b in zip(steps, steps[1:], strict=False)]
    for row in rows:
        assert (float(row["data_s"]), float(row["step_s"])) == (5, 2)
        assert float(row["data_share"]) == pytest.approx(5 / 7)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    recipe = Recipe(steps=12, learning_rate=0.01)
    whole = fit(network(), loss, batch, tmp_path / "whole", recipe, CPU, seed=3)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    seen = []

    def dies(step: int) -> dict[str, torch.Tensor]:
        seen.append(step)
        if step == 7 and seen.count(7) == 1:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        fit(network(), loss, dies, tmp_path / "killed", recipe, CPU, seed=3)
    resumed = fit(network(), loss, dies, tmp_path / "killed", recipe, CPU, seed=3)
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, *range(7, 12)]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_ema_is_the_weighted_mean_of_the_weights(tmp_path):
    recipe = Recipe(steps=5, learning_rate=0.1, ema_share=0.4, weight_decay=0.0)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    path = []

    def follow(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        path.append(model.weight.item())
        return {"loss": model.weight.square().sum()}

    ema = fit(model, follow, lambda step: {"x": torch.zeros(1)}, tmp_path, recipe, CPU)
    path.append(model.weight.item())
    expected = path[1]  # the first update copies
    for value in path[2:]:
        expected = recipe.ema_decay * expected + (1 - recipe.ema_decay) * value
    assert ema.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_weight_decay_of_every_step_is_the_recipe_s(tmp_path):
    class Rising(Recipe):
        def decay(self, step: int) -> float:
            return 0.1 * (step + 1)

    recipe = Rising(steps=4, learning_rate=0.5, ema_share=1e-9)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    fit(model, lambda m, _: {"loss": 0 * m.weight.sum()}, lambda step: {"x": torch.zeros(1)}, tmp_path, recipe, CPU)
    shares = [1 - recipe.rate(step) * 0.1 * (step + 1) for step in range(4)]
    assert model.weight.item() == pytest.approx(math.prod(shares))


def stop_at(step: int, folder: Path, monkeypatch, recipe: Recipe) -> None:
    """Train until a step, with a checkpoint after every one."""

    def dies(asked: int) -> dict[str, torch.Tensor]:
        if asked == step:
            raise KeyboardInterrupt
        return batch(asked)

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), loss, dies, folder, recipe, CPU, seed=3)


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda path: os.truncate(path, 1000), lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize(("damaged", "first_step"), [(1, 6), (2, 0)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    tmp_path, monkeypatch, capsys, damage, damaged, first_step
):
    recipe = Recipe(steps=12, learning_rate=0.01)
    whole = fit(network(), loss, batch, tmp_path / "whole", recipe, CPU, seed=3)
    stop_at(7, tmp_path / "stopped", monkeypatch, recipe)
    for name in CHECKPOINTS[:damaged]:
        damage(tmp_path / "stopped" / name)
    seen = []
    resumed = fit(network(), loss, lambda s: seen.append(s) or batch(s), tmp_path / "stopped", recipe, CPU, seed=3)
    assert seen == list(range(first_step, 12))
    assert capsys.readouterr().err.count("is damaged") == damaged
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_loss_that_is_not_finite_goes_on_once_at_half_the_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    recipe, seen = Recipe(steps=10, learning_rate=0.01), []

    def spoilt(step: int) -> dict[str, torch.Tensor]:
        seen.append(step)
        return {
            name: value * (math.nan if seen.count(5) == 1 and step == 5 else 1) for name, value in batch(step).items()
        }

    model = fit(network(), loss, spoilt, tmp_path, recipe, CPU)
    assert seen == [*range(6), *range(5, 10)]
    assert all(value.isfinite().all() for value in model.state_dict().values())
    with open(tmp_path / "log.csv") as file:
        rates = {int(row["step"]): float(row["rate"]) for row in csv.DictReader(file)}
    assert rates == {s + 1: pytest.approx(recipe.rate(s) * (1 if s < 5 else 0.5)) for s in range(10)}
    notice = capsys.readouterr().err
    assert "nan at step 6 with learning rate" in notice and "resume.pt holds the last good state, of step 5" in notice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.csv", "weights.safetensors"]


def test_a_loss_that_is_not_finite_stops(tmp_path):
    def bad(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": model.weight.sum() * math.nan}

    with pytest.raises(FloatingPointError, match="step 1 with learning rate"):
        fit(nn.Linear(1, 1), bad, lambda step: {"x": torch.zeros(1)}, tmp_path, Recipe(steps=3), CPU)


def test_a_training_without_time_makes_a_step_in_every_call(tmp_path):
    recipe = Recipe(steps=6, learning_rate=0.01)
    whole = fit(network(), loss, batch, tmp_path / "whole", recipe, CPU, seed=3)
    with deadline(0.0):
        for _ in range(5):
            with pytest.raises(TimeIsUp):
                fit(network(), loss, batch, tmp_path / "stopped", recipe, CPU, seed=3)
        stopped = fit(network(), loss, batch, tmp_path / "stopped", recipe, CPU, seed=3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name


def test_the_log_says_how_much_of_the_time_went_into_batches(tmp_path):
    fit(network(), loss, batch, tmp_path, Recipe(steps=3), CPU)
    with open(tmp_path / "log.csv") as file:
        for row in csv.DictReader(file):
            data, step = float(row["data_s"]), float(row["step_s"])
            assert data > 0 and step > 0 and float(row["data_share"]) == pytest.approx(data / (data + step))


def test_bfloat16_that_is_only_emulated_is_not_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert training.autocast_dtype(torch.device("cuda")) == torch.float32


def test_the_ema_is_torch_s():
    def stepped(update_of):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        ema = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7), use_buffers=True
        )
        update = update_of(ema, model)
        for step in range(5):
            model(torch.randn(6, 3)).sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            update(step)
        return ema.module.state_dict()

    original = stepped(lambda ema, model: lambda step: ema.update_parameters(model))
    ours = stepped(lambda ema, model: training.ema_update(ema, model, 0.7))
    assert list(ours) == list(original)
    assert all(torch.equal(ours[name], original[name]) for name in original)


def test_the_second_attempt_starts_without_what_the_first_held(tmp_path):
    held, alive = [], []
    average = training.ema_update

    def remembering(ema, model, decay):
        if not held:
            held.append(weakref.ref(ema))
        else:
            gc.collect()
            alive.append(held[0]())
        return average(ema, model, decay)

    def spoilt(step: int) -> dict[str, torch.Tensor]:
        return {name: value * (1 if alive else math.nan) for name, value in batch(step).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "ema_update", remembering)
        fit(network(), loss, spoilt, tmp_path, Recipe(steps=3), CPU)
    assert alive == [None]


def test_what_is_made_ahead_takes_half_of_the_shared_memory(tmp_path, monkeypatch, capsys):
    tensors = {"frames": torch.zeros(1000, dtype=torch.uint8), "mask": torch.zeros(24, dtype=torch.uint8)}
    monkeypatch.setattr(training, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(training, "num_cores", lambda: 9)
    for free, workers in ((100 * 1024, 8), (20 * 1024, 5), (8 * 1024, 2), (1024, 0)):
        monkeypatch.setattr(training.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert training.num_workers(tensors) == workers
        assert (f"{workers} instead of 8" in capsys.readouterr().err) == (workers < 4)
    monkeypatch.setattr(training, "SHARED_MEMORY", tmp_path / "none")
    assert training.num_workers(tensors) == 8


def test_a_loader_process_uses_one_core(monkeypatch):
    before, made = cv2.getNumThreads(), {}
    monkeypatch.setattr(training, "DataLoader", lambda *args, **options: made.update(options) or [])
    assert list(training.batches(batch, range(2), CPU)) == []
    monkeypatch.setattr("solution.workers.os.setsid", lambda: None)
    try:
        made["worker_init_fn"](0)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_on_a_cpu_batches_are_made_ahead_only_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(training, "num_cores", lambda: 2)
    maker = lambda step: {"x": torch.tensor([step, os.getpid(), torch.get_num_threads()])}  # noqa: E731
    for ahead in (False, True):
        made = [tensors["x"].tolist() for tensors in training.batches(maker, range(3, 8), CPU, ahead)]
        assert [step for step, *_ in made] == [3, 4, 5, 6, 7]
        assert all((process != os.getpid()) == ahead and threads == 1 for _, process, threads in made)


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("Failed to find C compiler")

    torch._dynamo.reset()
    model, x = nn.Linear(3, 2), torch.ones(1, 3)
    plain, compile_with = model(x), model.compile
    monkeypatch.setattr(model, "compile", lambda: compile_with(backend=no_compiler))
    with torch._dynamo.config.patch(suppress_errors=False):  # as it was, afterwards
        training.compile_network(model)
        assert torch.equal(model(x), plain)
