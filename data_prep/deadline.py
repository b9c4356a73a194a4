"""A time limit for a whole command, or a signal to stop: resumable work ends at its next checkpoint.

The code that does the work decides what a checkpoint is and what it keeps.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_END: ContextVar[float] = ContextVar("end", default=float("inf"))
_SIGNAL: ContextVar[int | None] = ContextVar("signal", default=None)

SAME_SIGNAL_SECONDS = 1.0
"""A second signal within this time is the first one again, which a terminal sent and torchrun passed on."""


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
    """Let the first Ctrl-C or SIGTERM mean that the time is up for whatever runs inside; a second one ends it at once.

    Processes forked inside do as before, so that a terminal's Ctrl-C, which reaches them too, leaves them working.

    Raises:
        KeyboardInterrupt: a second signal came.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        yield
        return
    process, token = os.getpid(), _SIGNAL.set(None)
    came: list[float] = []

    def stop(number: int, _) -> None:
        now = time.monotonic()
        if os.getpid() != process or (came and now < came[0] + SAME_SIGNAL_SECONDS):
            return
        if came:
            raise KeyboardInterrupt
        came.append(now)
        _SIGNAL.set(number)
        # Not by print, which may be what the signal interrupted.
        os.write(2, b"\nStopping at the next checkpoint, to keep everything; Ctrl-C again stops at once.\n")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    untouched = (signal.SIG_IGN, None)  # as in the background of a script, or not Python's
    earlier = {number: handler for number, handler in handlers.items() if handler not in untouched}
    for number in earlier:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
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
