"""A time limit for a whole command: work that can go on later stops at its next checkpoint once the time is up.

A signal to stop is such a limit too. What a checkpoint is, and what is kept there, is the business of whoever works.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_END: ContextVar[float] = ContextVar("end", default=float("inf"))
_SIGNAL: ContextVar[int | None] = ContextVar("signal", default=None)


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


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM mean that the time is up for whatever runs inside; another one ends it at once.

    Processes forked inside do as before, so that a terminal's Ctrl-C, which reaches them too, leaves them working.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        yield
        return
    process, token = os.getpid(), _SIGNAL.set(None)
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _) -> None:
        if os.getpid() != process:
            return
        _SIGNAL.set(number)
        restore()
        # Not by print, which may be what the signal interrupted.
        os.write(2, b"\nStopping at the next checkpoint, to keep everything; Ctrl-C again stops at once.\n")

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    for number, handler in earlier.items():
        if handler != signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
        _SIGNAL.reset(token)


def stop_signal() -> int | None:
    """Return the signal by which the command was told to stop, if it was."""
    return _SIGNAL.get()


def time_is_up() -> bool:
    """Return whether the time limit has passed or a signal came; without either it never does."""
    return time.monotonic() >= _END.get() or _SIGNAL.get() is not None


def stop_if_time_is_up() -> None:
    """Raise :class:`TimeIsUp` if the time limit has passed."""
    if time_is_up():
        raise TimeIsUp
