"""Reads label arrays from untrusted files: nothing in them is executed, and what is wrong with one is a sentence."""

from pathlib import Path

import numpy as np

NPY = b"\x93NUMPY"
"""What a file of ``np.save`` begins with."""


class BadFile(Exception):
    """A frame or mask that cannot be used as it is; the message says what is wrong with it."""


def read_npy(path: str | Path) -> np.ndarray:
    """Return the array in a file of ``np.save``, memory-mapped; Python objects are never unpickled.

    Raises:
        BadFile: there is no such file, or not one whole array of plain values in it.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BadFile(f"unreadable ({error.strerror})") from None
    except Exception as error:  # a damaged header can end in any of them
        if begins_with(path, NPY) and "Python object" in str(error):
            raise BadFile("an array of Python objects, which is not loaded because that could run code") from None
        raise BadFile("truncated, or no plain NumPy array") from None
    if not isinstance(stored, np.ndarray):
        raise BadFile(f"an archive (.npz) of {', '.join(stored.files)} instead of one array of np.save")
    return stored


def begins_with(path: str | Path, magic: bytes) -> bool:
    """Return whether a file begins with these bytes."""
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def value_problems(array: np.ndarray) -> list[str]:
    """Return why values are no labels: their type, or floats that are no whole numbers."""
    if array.dtype.kind not in "iubf":
        return [f"dtype: expected integers such as uint8, found {array.dtype}"]
    if array.dtype.kind == "f":
        if num_bad := array.size - int(np.isfinite(array).sum()):
            return [f"values: expected labels, found {num_bad} that are NaN or infinite"]
        if (array != np.rint(array)).any():
            return ["values: expected whole numbers, found fractions"]
    return []


def without_ones(array: np.ndarray, ndim: int) -> np.ndarray:
    """Squeeze dimensions of size 1, the last first, until only ``ndim`` are left."""
    while array.ndim > ndim and 1 in array.shape:
        array = array.squeeze(max(axis for axis, size in enumerate(array.shape) if size == 1))
    return array
