"""Atomic files, arrays that grow row by row, and a lock on the folder that a command makes."""

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import click
import numpy as np
from filelock import FileLock, Timeout

from data_prep.deadline import stop_if_time_is_up
from data_prep.errors import UserError

HEADER_BYTES = 128
"""What a ``.npy`` file of any shape met here spends before its values; NumPy pads headers to multiples of 64."""


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    write_bytes(path, text.encode(errors="replace"))


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically; a full disk raises ``OSError``, where libraries that write themselves raise others."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        unfinished.unlink(missing_ok=True)


def write_saved(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Write atomically, as :func:`write_bytes`, what a library saves into a stream."""
    stream = io.BytesIO()
    save(stream)
    write_bytes(path, stream.getbuffer())


def read_json(path: Path, remedy: str):
    """Return what a JSON file holds.

    Raises:
        UserError: it is missing or damaged; says the ``remedy``.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        state = "is missing" if isinstance(error, FileNotFoundError) else "is damaged, it holds no JSON"
        raise UserError(f"{path} {state}; {remedy}.") from None


@contextmanager
def sole_maker(folder: Path) -> Iterator[None]:
    """Wait until no other process is inside for this folder, and keep all others out.

    The system lets go of the lock, a file ``.lock`` in the folder, however a process ends. A file system without locks
    is used without.

    Raises:
        TimeIsUp: see ``data_prep.deadline``; the other still works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        click.echo(f"  waiting for another command that makes {folder}")
        while not lock.is_locked:
            stop_if_time_is_up()
            with suppress(Timeout):
                lock.acquire(timeout=1)
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        lock.release()


def part_of(path: Path) -> Path:
    """Return where an array lies until it is complete."""
    return path.with_name(path.name + ".part")


def header(shape: tuple[int, ...]) -> bytes:
    """Return what a ``.npy`` file of a uint8 array begins with."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert stream.tell() == HEADER_BYTES
    return stream.getvalue()


def create_part(path: Path, shape: tuple[int, ...]) -> None:
    """Create the unfinished file of an array with all of its space reserved, so that a full disk shows at once."""
    try:
        with open(part_of(path), "wb") as file:
            file.write(header(shape))
            file.flush()
            os.posix_fallocate(file.fileno(), 0, HEADER_BYTES + math.prod(shape))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_row(file: FileIO, row: int, values: list[np.ndarray]) -> None:
    """Write one row of an unfinished array; unlike a store to mapped memory, a full disk is an ``OSError`` here."""
    position = HEADER_BYTES + row * sum(part.nbytes for part in values)
    for part in values:
        rest = memoryview(part).cast("B")
        while rest:
            written = os.pwrite(file.fileno(), rest, position)
            position, rest = position + written, rest[written:]


def finish(path: Path, shape: tuple[int, ...]) -> None:
    """Cut an unfinished array to its final shape, which may have fewer rows, and give it its name."""
    part = part_of(path)
    if part.exists():  # else it was finished before an interruption
        with open(part, "r+b") as file:
            file.write(header(shape))
            file.truncate(HEADER_BYTES + math.prod(shape))
        os.replace(part, path)
