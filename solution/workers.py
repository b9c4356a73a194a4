"""Forked processes of one thread each that share work on a CPU, where threads hardly speed small operations up.

Results come in order and are written by the process that asked for them; several of those are in ``processes.py``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from data_prep.device import num_cores
from solution import processes

Item, Result = TypeVar("Item"), TypeVar("Result")

FEW = 16
"""Up to this number of videos no processes are started."""
MOST = 16


def num_workers(videos: int, device: torch.device) -> int:
    """Return how many processes share the work on so many videos: 0 where this one does it alone."""
    wanted = min(MOST, num_cores() // processes.count_here())
    return wanted if device.type == "cpu" and videos > FEW and wanted > 1 else 0


class _Jobs(Dataset):
    def __init__(self, job: Callable[[Item], Result]):
        self.job = job

    def __getitem__(self, item: Item) -> Result:
        return self.job(item)


def in_workers(job: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield ``job(item)`` for every item in order, made ahead in so many processes; in this one if there are none.

    Raises:
        RuntimeError: a process was killed, as the system does when memory runs out.
    """
    if not workers:
        yield from map(job, items)
        return
    yield from DataLoader(
        _Jobs(job),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        collate_fn=lambda result: result,
        multiprocessing_context="fork",  # a job is a closure over networks and memory-mapped arrays
        worker_init_fn=stand_alone,
    )


def stand_alone(worker: int) -> None:
    """Begin a process that was forked by PyTorch, which gave it one thread."""
    cv2.setNumThreads(0)
    os.setsid()  # a signal to the command's group ends only the command, which ends its workers at a checkpoint


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread inside, beside processes that have the other cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
