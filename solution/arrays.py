"""Row by row work on arrays on disk that survives ``kill -9`` and a full disk, and keeps finished rows.

Nothing here knows what the rows mean.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.pack import create_part, part_of, write_row, write_text


def fill_rows(
    path: Path, shape: tuple[int, ...], chunk: int, rows: Callable[[int, int], np.ndarray], label: str
) -> np.ndarray:
    """Write a uint8 array chunk by chunk and return it memory-mapped; what is already there is not made again.

    Args:
        path: the ``.npy`` file to make; it appears under this name only when complete.
        shape: of the whole array, rows first.
        chunk: rows made at a time.
        rows: maps (first, last) to the (last - first, ...) uint8 rows.
        label: shown by the progress bar.
    """
    if not path.exists():
        part, done = part_of(path), path.with_suffix(".rows")
        start = int(done.read_text()) if part.exists() and done.exists() else 0
        if not start:
            create_part(path, shape)
        with (
            open(part, "r+b", buffering=0) as file,
            tqdm(total=shape[0], initial=start, desc=label, unit="video", disable=None, leave=False) as bar,
        ):
            for first in range(start, shape[0], chunk):
                last = min(first + chunk, shape[0])
                for row, values in enumerate(rows(first, last), first):
                    write_row(file, row, [values])
                write_text(done, str(last))
                bar.update(last - first)
        part.replace(path)
        done.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")
