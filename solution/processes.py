"""Several processes that work as one: what ``torchrun`` starts, and what they share.

Decisions and barriers travel over gloo between the CPUs, so that no GPU is waited for; alone, everything here is free.
All processes must see the same files.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from functools import wraps

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_prep.deadline import TimeIsUp, time_is_up
from data_prep.errors import UserError

PATIENCE = timedelta(hours=12)
"""The others wait so long for the first process, which packs, evaluates and scores alone."""


def count() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def count_here() -> int:
    """Return how many of them run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this is the process that writes files and prints."""
    return rank() == 0


def together(command: Callable) -> Callable:
    """Wrap a click callback so that ``torchrun`` can start it in several processes, of which the first prints."""

    @wraps(command)
    def wrapped(*args, **kwargs):
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            command(*args, **kwargs)
            return
        if on_gpus := torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
        with ExitStack() as stack:
            if not is_first():
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            command(*args, **kwargs)
        dist.destroy_process_group()  # after an error the others may wait in it; torchrun ends them

    return wrapped


def barrier() -> None:
    """Wait until every process has come this far."""
    if count() > 1:
        dist.all_reduce(torch.zeros(1))


def agreed(decision: bool) -> bool:
    """Return what the first process decided."""
    if count() == 1:
        return decision
    flag = torch.tensor(decision)
    dist.broadcast(flag, 0)
    return bool(flag)


def stop_if_time_is_up() -> None:
    """Raise ``TimeIsUp`` in every process if the time limit has passed in the first."""
    if agreed(time_is_up()):
        raise TimeIsUp


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Run the block in the first process, and only then in the others, which find its work done."""
    if is_first():
        try:
            yield
        except TimeIsUp:
            agreed(True)
            raise
        agreed(False)
    else:
        if agreed(False):
            raise TimeIsUp
        yield
    barrier()


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, through which gradients pass.

    A loss that divides one sum over the batch by another takes both from here: every process then has the loss of
    the whole batch, and the mean of their gradients is its gradient.
    """
    return value if count() == 1 else _Total.apply(value)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(context, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _Total.forward(context, gradient)


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    return total(value) / count()


def own_share(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return this process's rows of a batch.

    Raises:
        UserError: the rows cannot be shared out evenly.
    """
    if any(len(tensor) % count() for tensor in tensors.values()):
        sizes = ", ".join(str(size) for size in sorted({len(tensor) for tensor in tensors.values()}))
        raise UserError(f"a batch of {sizes} cannot be shared among {count()} processes; --set a multiple of them.")
    return {name: tensor.chunk(count())[rank()] for name, tensor in tensors.items()}


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, for CPUs; ``nn.SyncBatchNorm`` refuses these."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        average = mean(values.mean((0, 2, 3)))
        centred = values - average[:, None, None]
        variance = mean(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            size = count() * values[:, 0].numel()
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * size / (size - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """Let batch normalisation see the batches of all processes; names and weights stay the same."""
    if count() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
    return model
