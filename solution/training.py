"""The one training loop: mixed precision, EMA, schedule, checkpoint, resume, log.

It knows no data set and no task: a batch is a pure function of the step, and so is the learning rate. So a resumed run
equals an uninterrupted one, bit by bit on a CPU; on a GPU, and with several processes, each with its share of every
batch, up to the order in which sums are added.
"""

from __future__ import annotations

import csv
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data_prep.deadline import time_is_up
from data_prep.device import num_cores
from solution import processes
from solution.checkpoints import CHECKPOINTS, State, remove_checkpoints, save_weights
from solution.muon import Muon
from solution.workers import stand_alone

CHECKPOINT_SECONDS = 60.0
COMPILED_FROM = 3000
"""Steps that are worth the minute that compiling a network can take."""
SHARED_MEMORY = Path("/dev/shm")
AHEAD = 2
"""Batches that a process makes ahead of time."""
ENOUGH = 4
"""Processes from which it is not worth a word that there could be more."""
LOG_ROWS = 100
TIMES = ("data_s", "step_s", "data_share")
"""Logged seconds per step: waiting for its batch, working on it; and the share of the former."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; one cycle (linear warm-up, cosine to zero), EMA over a share of the run.

    Attributes:
        muon: of ``solution.muon`` for hidden kernels and matrices, instead of AdamW for all.
        ahead: on a CPU too, another process makes the batches: for a network so small that they cost as much as steps.
    """

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip_norm: float = 1.0
    ema_share: float = 0.02
    evaluations: int = 4
    muon: bool = False
    ahead: bool = False

    def rate(self, step: int) -> float:
        """Return the learning rate of a step from 0 to ``steps - 1``."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def decay(self, step: int) -> float:
        """Return the weight decay of a step."""
        return self.weight_decay

    def beta(self, step: int) -> float:
        """Return AdamW's β₁ of a step."""
        return 0.9

    @property
    def ema_decay(self) -> float:
        return math.exp(-1 / max(1.0, self.ema_share * self.steps))


@dataclass(frozen=True)
class OneCycle(Recipe):
    """Adam under PyTorch's ``OneCycleLR`` with its defaults (Smith and Topin, 2019), all by halves of cosine waves.

    The rate rises from a 25th to its peak at 30 % of the cycle and falls to 4e-6 of it, while β₁ falls from 0.95 to
    0.85 and rises again.

    Attributes:
        cycle: steps of the whole cycle, of which training may make fewer; by default ``steps``.
    """

    weight_decay: float = 0.0
    cycle: int | None = None

    def rate(self, step: int) -> float:
        return self.learning_rate * self._at(step, 1 / 25, 1.0, 1 / 25 / 1e4)

    def beta(self, step: int) -> float:
        return self._at(step, 0.95, 0.85, 0.95)

    def _at(self, step: int, first: float, peak: float, last: float) -> float:
        cycle = self.cycle or self.steps
        top = 0.3 * cycle - 1
        start, end, share = (first, peak, step / top) if step <= top else (peak, last, (step - top) / (cycle - 1 - top))
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


def autocast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def autocast(device: torch.device):
    """Return the context in which networks run on this device, in training and in inference alike."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


class _Steps(Dataset):
    def __init__(self, batch: Callable[[int], dict[str, Tensor]]):
        self.batch = batch

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.batch(step)


def batches(batch: Callable[[int], dict[str, Tensor]], steps: range, device: torch.device, ahead: bool = False):
    """Yield ``batch(step)`` for every step in order, moved to the device, made ahead of time where cores are spare."""
    on_gpu = device.type == "cuda"
    workers = num_workers(batch(steps.start)) if (on_gpu or ahead) and len(steps) else 0
    loader = DataLoader(
        _Steps(batch),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=on_gpu,
        multiprocessing_context="fork" if workers else None,  # a batch is a closure over memory-mapped arrays
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=stand_alone,
    )
    for tensors in loader:
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in processes.own_share(tensors).items()}


def num_workers(tensors: dict[str, Tensor]) -> int:
    """Return how many processes make batches like this one ahead of time.

    At most those of the other cores, and so many that what they hold ahead takes half of the shared memory.
    """
    wanted = min(15, (num_cores() - 1) // processes.count_here())
    if not SHARED_MEMORY.is_dir():
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free
    held_by_worker = AHEAD * sum(tensor.nbytes for tensor in tensors.values()) * processes.count_here()
    fitting = min(wanted, int(free / 2 / held_by_worker))
    if fitting < min(wanted, ENOUGH):
        tqdm.write(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MB: {fitting} instead of {wanted} processes make batches ahead "
            "of time, so training may be slower; give the container more (--shm-size=8g).",
            sys.stderr,
        )
    return fitting


class _ModelAndLoss(nn.Module):
    """Model and loss as one module, since gradients are shared only by what ``DistributedDataParallel`` called."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.loss(self.model, tensors)


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
    batch: Callable[[int], dict[str, Tensor]],
    folder: Path,
    recipe: Recipe,
    device: torch.device,
    seed: int = 0,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> nn.Module:
    """Train ``model`` and return its EMA in evaluation mode, on the device.

    Once, a loss that is not finite sends training back to the last checkpoint, to go on from there at half the rate.

    Args:
        model: is trained in place.
        loss: maps (model, batch) to scalars; ``loss`` is minimised, the others are logged. Called under autocast.
        batch: maps a step to named tensors; must depend on nothing but the step.
        folder: receives ``resume.pt``, ``log.csv``, ``curves.png`` and, at the end, ``weights.safetensors``.
        recipe: see :class:`Recipe`.
        device: where to train.
        seed: of whatever the loss draws at random.
        evaluate: maps the EMA model to named values for the log; called ``recipe.evaluations`` times.

    Raises:
        FloatingPointError: the loss is not finite at half the rate either; names step, learning rate and checkpoint.
        TimeIsUp: see ``data_prep.deadline``; the last step is kept and the next call goes on from it.
    """
    arguments = (model, loss, batch, folder, recipe, device, seed, evaluate)
    try:
        return _fit(*arguments, rate_share=1.0)
    except FloatingPointError as error:
        problem = str(error)
    # Out of the handler, whose traceback keeps optimiser, EMA and loader alive.
    tqdm.write(f"{problem}; going on from there once, at half the rate.", sys.stderr)
    return _fit(*arguments, rate_share=0.5)


def _fit(model, loss, batch, folder, recipe, device, seed, evaluate, rate_share: float) -> nn.Module:
    """Train as :func:`fit` does, from the last checkpoint on, at a share of the recipe's rate or what it was then."""
    state = _last_state(model, folder, recipe, device, rate_share)
    update_ema = ema_update(state.ema, state.model, recipe.ema_decay)
    losses = _ModelAndLoss(state.model, loss)
    if processes.count() > 1:
        losses = DistributedDataParallel(losses, find_unused_parameters=True)  # a U-Net of less depth has some
    steps = range(state.step, recipe.steps)
    eval_every = max(1, math.ceil(recipe.steps / max(1, recipe.evaluations)))
    log_every = max(1, recipe.steps // LOG_ROWS)
    title = folder.name.rsplit("-", 1)[0]
    hidden = None if processes.is_first() else True
    waited = worked = 0.0  # seconds since the last row of the log: for batches, and on them
    timed_steps = 0
    stepped = saved = time.perf_counter()
    with tqdm(total=recipe.steps, initial=state.step, desc=title, disable=hidden, leave=False) as bar:
        for step, tensors in zip(steps, batches(batch, steps, device, recipe.ahead), strict=True):
            received = time.perf_counter()
            waited += received - stepped
            torch.manual_seed((seed * 1_000_003 + step) * processes.count() + processes.rank())
            rate = state.rate_share * recipe.rate(step)
            for group in state.optimiser.param_groups:
                group["lr"], group["weight_decay"] = rate, recipe.decay(step)
                group["betas"] = (recipe.beta(step), group["betas"][1])
            state.model.train()
            with autocast(device):
                values = losses(tensors)
            values["loss"].backward()
            norm = nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
            with autocast(device):  # Muon multiplies matrices
                state.optimiser.step()
            state.optimiser.zero_grad(set_to_none=True)
            update_ema(step)
            last = step + 1 == recipe.steps
            saves = not last and processes.agreed(time.perf_counter() - saved > CHECKPOINT_SECONDS or time_is_up())
            evaluates = evaluate is not None and ((step + 1) % eval_every == 0 or last)
            logs = (step + 1) % log_every == 0 or last or evaluates
            if logs or saves:
                values = {name: processes.mean(value.detach()).item() for name, value in values.items()}
                _check_finite(values["loss"], norm.item(), rate, step + 1, state.step, folder)
            worked += time.perf_counter() - received
            timed_steps += 1
            if logs:
                times = waited / timed_steps, worked / timed_steps, waited / (waited + worked)
                row = {"step": step + 1, "rate": rate} | values | dict(zip(TIMES, times, strict=True))
                waited, worked, timed_steps = 0.0, 0.0, 0
                if evaluates and processes.is_first():
                    row |= evaluate(state.ema.module.eval())
                state.log.append(row)
                bar.set_postfix({k: f"{v:.3g}" for k, v in row.items() if k not in ("step", "rate")})
            bar.update()
            if saves:
                state.save(folder, step + 1)
                saved = time.perf_counter()
                processes.stop_if_time_is_up()
            stepped = time.perf_counter()
    if processes.is_first():
        _write_log(folder, state.log)
    save_weights(state.ema.module, folder)
    remove_checkpoints(folder)
    return state.ema.module.eval()


def _last_state(model: nn.Module, folder: Path, recipe: Recipe, device: torch.device, rate_share: float):
    """Return the state in the folder's last checkpoint, or that of a network not yet trained, which is kept there."""
    folder.mkdir(parents=True, exist_ok=True)
    model = processes.share_statistics(model.to(device, memory_format=torch.channels_last), device)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    if recipe.muon:
        optimiser = Muon(model, recipe.learning_rate, recipe.weight_decay)
    else:
        optimiser = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
    state = State(model, ema, optimiser)
    with processes.first_goes_first():  # it removes what is damaged
        state.load(folder, device)
    state.rate_share = min(rate_share, state.rate_share)
    if state.step == 0:
        state.save(folder, 0)
    if device.type == "cuda" and recipe.steps >= COMPILED_FROM:
        compile_network(model)
    return state


def _check_finite(loss: float, norm: float, rate: float, step: int, good: int, folder: Path) -> None:
    if not math.isfinite(loss + norm):
        raise FloatingPointError(
            f"the loss is {loss:.3g} at step {step} with learning rate {rate:.2e} and gradient norm {norm:.3g}; "
            f"{folder}/{CHECKPOINTS[0]} holds the last good state, of step {good}, train on from it with a lower "
            f"learning rate"
        )


def compile_network(model: nn.Module) -> None:
    """Have a network compiled when it is first called; what cannot be compiled here runs as it is, with a warning."""
    torch._dynamo.config.suppress_errors = True
    model.compile()


def ema_update(ema: torch.optim.swa_utils.AveragedModel, model: nn.Module, decay: float) -> Callable[[int], None]:
    """Return what takes the place of ``ema.update_parameters(model)`` after a step.

    It gives the same numbers and does not wait for the GPU, which the original does at every step.
    """
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    states = (chain(network.parameters(), network.buffers()) for network in (ema.module, model))
    pairs = [(mean.detach(), tensor.detach()) for mean, tensor in zip(*states, strict=True)]
    by_kind = [[p for p in pairs if p[0].is_floating_point() == floating] for floating in (True, False)]

    def update(step: int) -> None:
        if step == 0:
            ema.update_parameters(model)  # copies
            return
        for means, tensors in (zip(*pairs, strict=True) for pairs in by_kind if pairs):
            average(means, tensors, None)

    return update


def _write_log(folder: Path, log: list[dict]) -> None:
    """Write ``log.csv``, and draw every logged value against the step into ``curves.png``."""
    names = list(dict.fromkeys(name for row in log for name in row))
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(log)
    drawn = [name for name in names if name not in ("step", *TIMES)]
    figure = Figure(figsize=(3.2 * len(drawn), 2.6), layout="tight")
    for panel, name in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        rows = [row for row in log if name in row]
        panel.plot([row["step"] for row in rows], [row[name] for row in rows], color="#0072B2")
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7)
    figure.savefig(folder / "curves.png", dpi=110)
