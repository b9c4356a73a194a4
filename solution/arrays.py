"""Fills arrays on disk row by row: resumable after ``kill -9`` or a full disk, in smaller batches without memory."""

import itertools
import math
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from data_prep.errors import is_out_of_memory
from data_prep.files import create_part, part_of, write_row, write_text
from solution import processes
from solution.workers import in_workers, num_workers

T = TypeVar("T")


def fill_rows(
    path: Path,
    shape: tuple[int, ...],
    chunk: int,
    rows: Callable[[int, int], np.ndarray],
    label: str,
    device: torch.device,
) -> np.ndarray:
    """Write a uint8 array chunk by chunk and return it memory-mapped; what is already there is not made again.

    Several processes take turns, a chunk each; on a CPU each has workers that make its chunks ahead.

    Args:
        path: the ``.npy`` file to make; it appears under this name only when complete.
        shape: of the whole array, rows first.
        chunk: rows made at a time, at most; halved for good where memory runs out.
        rows: maps (first, last) to the (last - first, ...) uint8 rows.
        label: shown by the progress bar.
        device: where rows are made.

    Raises:
        TimeIsUp: see ``data_prep.deadline``; the rows made so far are kept.
    """
    if not processes.agreed(path.exists()):
        part, done = part_of(path), path.with_suffix(".rows")
        start = int(done.read_text()) if part.exists() and done.exists() else 0
        if not start and processes.is_first():
            create_part(path, shape)
        processes.barrier()
        workers = num_workers(shape[0] - start, device)
        if workers:  # all end together
            makers = workers * processes.count()
            chunk = math.ceil((shape[0] - start) / makers / math.ceil((shape[0] - start) / makers / chunk))
        portions, at_once = Portions(), chunk * processes.count()
        turns = range(start, shape[0], at_once)

        def make(together: int) -> tuple[int, list[np.ndarray]]:
            first = min(together + chunk * processes.rank(), shape[0])
            return first, portions.collect(rows, first, min(first + chunk, shape[0]))

        hidden = None if processes.is_first() else True
        with (
            open(part, "r+b", buffering=0) as file,
            tqdm(total=shape[0], initial=start, desc=label, unit="video", disable=hidden, leave=False) as bar,
            closing(in_workers(make, turns, workers)) as made,
        ):
            for together, (first, parts) in zip(turns, made, strict=True):
                for row, values in enumerate(itertools.chain.from_iterable(parts), first):
                    write_row(file, row, [values])
                processes.barrier()
                if processes.is_first():
                    write_text(done, str(min(together + at_once, shape[0])))
                bar.update(min(at_once, shape[0] - together))
                processes.stop_if_time_is_up()
        processes.barrier()  # all have opened the part, even those with nothing left to do
        if processes.is_first():
            part.replace(path)
            done.unlink(missing_ok=True)
        processes.barrier()
    return np.load(path, mmap_mode="r")


class Portions:
    """Makes rows in batches of at most ``most``, which is halved for good whenever memory runs out."""

    def __init__(self, most: int = sys.maxsize):
        self.most = most

    def collect(self, rows: Callable[[int, int], T], first: int, last: int) -> list[T]:
        """Return the results of ``rows`` on consecutive batches from ``first`` to ``last``."""
        parts: list[T] = []
        while first < last:
            size = min(self.most, last - first)
            try:
                parts.append(rows(first, first + size))
                first += size
                continue
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self.most = size // 2
            # Out of the handler, whose traceback keeps what filled the memory.
            tqdm.write(f"Not enough memory for {size} videos at a time; going on with {self.most}.", sys.stderr)
            torch.cuda.empty_cache()
        return parts
