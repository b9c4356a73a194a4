"""What there is to compute with: the device that a user named, the cores, and work spread over them."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import torch

from data_prep.errors import UserError

Item, Result = TypeVar("Item"), TypeVar("Result")


def usable_device(name: str) -> torch.device:
    """Return the device of a name such as ``cuda:1``, after something was computed there.

    Raises:
        UserError: the device does not exist here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
        if device.type in ("cpu", "cuda"):
            return device
    except (RuntimeError, AssertionError, ImportError):
        pass
    raise UserError(f"--device {name}: there is no such device here; expected cpu or cuda.")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(pool: Executor | None, job: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``job(item)`` for every item in order, made by the pool a few items ahead; without a pool, made here."""
    if pool is None:
        yield from map(job, items)
        return
    started: deque[Future] = deque()
    for index in range(len(items)):
        ahead = index + 3 * num_cores()
        started.extend(pool.submit(job, item) for item in items[index + len(started) : ahead])
        yield started.popleft().result()
