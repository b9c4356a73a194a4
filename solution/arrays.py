"""Row by row work on memory-mapped arrays that survives ``kill -9`` and keeps finished rows.

Nothing here knows what the rows mean.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm


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
        partial, done = path.with_suffix(".partial"), path.with_suffix(".rows")
        start = int(done.read_text()) if partial.exists() and done.exists() else 0
        array = np.lib.format.open_memmap(partial, "r+" if start else "w+", np.uint8, shape)
        with tqdm(total=shape[0], initial=start, desc=label, unit="video", disable=None, leave=False) as bar:
            for first in range(start, shape[0], chunk):
                last = min(first + chunk, shape[0])
                array[first:last] = rows(first, last)
                array.flush()
                _replace_text(done, str(last))
                bar.update(last - first)
        del array
        partial.replace(path)
        done.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(text)
    partial.replace(path)
