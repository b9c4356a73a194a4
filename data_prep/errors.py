"""The one exception for a user's mistake.

Commands turn it into one printed sentence and exit code 2; everything else is a bug and keeps its traceback.
"""

import errno
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import wraps
from typing import NoReturn

import click

from data_prep.deadline import TimeIsUp, stop_signal, stopped_by_signals


class UserError(Exception):
    """One sentence that names the file, what was expected, what was found and what to do."""


def exits_cleanly(command: Callable) -> Callable:
    """Wrap a click callback so that a mistake, a diverged loss, a full disk or memory is one sentence and exit code 2.

    Ctrl-C and SIGTERM end it at its next checkpoint, or at once if they come again, with exit code 130 or 143.
    """

    @wraps(command)
    def wrapped(*args, **kwargs):
        with stopped_by_signals():
            try:
                return command(*args, **kwargs)
            except (TimeIsUp, KeyboardInterrupt, BrokenExecutor):  # the last: workers that the same Ctrl-C reached
                if not stop_signal():
                    raise
                stop()
            except (UserError, FloatingPointError) as error:
                fail(str(error))
            except (OSError, RuntimeError, MemoryError) as error:
                if isinstance(error, RuntimeError) and stop_signal():  # so do PyTorch's workers end
                    stop()
                if is_out_of_memory(error):
                    fail(f"there is not enough memory; {MEMORY} and run the same command again, finished work is kept.")
                if getattr(error, "errno", None) not in ADVICE:
                    raise
                fail(
                    f"{error.filename or 'the output folder'} cannot be used: {error.strerror}; "
                    f"{ADVICE[error.errno]} and run the same command again, finished work is kept."
                )

    return wrapped


def stop() -> NoReturn:
    """End a command that a signal told to stop, with the exit code that says which."""
    click.echo("Stopped; the same command goes on from here, finished work is kept.", err=True)
    raise SystemExit(128 + stop_signal()) from None


def fail(sentence: str) -> NoReturn:
    """End the command with a sentence on standard error and exit code 2."""
    click.echo(f"Error: {sentence}", err=True)
    raise SystemExit(2) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory, a GPU's or the machine's, does not suffice."""
    if type(error).__name__ == "OutOfMemoryError" or getattr(error, "errno", None) == errno.ENOMEM:
        return True  # torch's, which need not be imported for it, or the system's
    says_so = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return (says_so and not stop_signal()) or isinstance(error, MemoryError)


NO_MEMORY = (
    "allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "STATUS_ALLOC_FAILED",
    "killed by signal: Killed",
    "exited unexpectedly",
)
"""Of which a ``RuntimeError`` of torch has one where memory ran out, on a CPU or in a library of a GPU.

The last two are of worker processes, which the system kills for it, if it is not a signal to stop that ended them.
"""
MEMORY = "close other programs or make batches smaller"

SPACE, PLACE = "free some space or choose another place", "change its permissions or choose another place"
ADVICE = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EROFS: PLACE,
    errno.EACCES: PLACE,
    errno.EPERM: PLACE,
    errno.EEXIST: "choose another place",
    errno.ENOTDIR: "choose another place",
    errno.EISDIR: "choose another place",
}
"""What a user can do about an ``OSError``; one that is not here is a bug and keeps its traceback."""
