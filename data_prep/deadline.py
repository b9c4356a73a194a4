"""A time limit for a whole command: work that can go on later stops at its next checkpoint once the time is up.

What a checkpoint is, and what is kept there, is the business of whoever works.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_END: ContextVar[float] = ContextVar("end", default=float("inf"))


class TimeIsUp(Exception):
    """The time limit has passed at a checkpoint; the same work started again goes on from there."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let the time be up so many seconds from now for whatever runs inside."""
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def time_is_up() -> bool:
    """Return whether the time limit has passed; without one it never does."""
    return time.monotonic() >= _END.get()


def stop_if_time_is_up() -> None:
    """Raise :class:`TimeIsUp` if the time limit has passed."""
    if time_is_up():
        raise TimeIsUp
