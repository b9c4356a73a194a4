"""The one exception for a user's mistake.

Commands turn it into one printed sentence and exit code 2; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import click


class UserError(Exception):
    """One sentence that names the file, what was expected, what was found and what to do."""


def exits_cleanly(command: Callable) -> Callable:
    """Wrap a click callback so that a ``UserError``, a diverged loss or a full disk is one sentence and exit code 2."""

    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (UserError, FloatingPointError) as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(2) from None
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            click.echo(
                f"Error: {error.filename or 'the output folder'} could not be written: {error.strerror}; "
                "free some space (or choose another place) and run the same command again, finished work is kept.",
                err=True,
            )
            raise SystemExit(2) from None

    return wrapped


DISK_ERRORS = frozenset({28, 30, 122})  # ENOSPC, EROFS, EDQUOT
