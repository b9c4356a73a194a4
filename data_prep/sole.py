"""Two commands that make the same folder: the second waits, and then finds it made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from filelock import FileLock, Timeout

from data_prep.deadline import stop_if_time_is_up


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
