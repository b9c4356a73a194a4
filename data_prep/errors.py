"""The one exception for a user's mistake.

Commands turn it into one printed sentence and exit code 2; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import wraps

import click


class UserError(Exception):
    """One sentence that names the file, what was expected, what was found and what to do."""


def exits_cleanly(command: Callable) -> Callable:
    """Wrap a click callback so that a mistake, a diverged loss or a full disk is one sentence and exit code 2."""

    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (UserError, FloatingPointError) as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(2) from None
        except OSError as error:
            if error.errno not in ADVICE:
                raise
            click.echo(
                f"Error: {error.filename or 'the output folder'} cannot be used: {error.strerror}; "
                f"{ADVICE[error.errno]} and run the same command again, finished work is kept.",
                err=True,
            )
            raise SystemExit(2) from None

    return wrapped


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
