"""What a command does with each kind of error."""

import errno
import os

import click
import pytest
from click.testing import CliRunner

from data_prep.errors import UserError, exits_cleanly


def failing(error: BaseException) -> click.Command:
    @click.command()
    @exits_cleanly
    def main() -> None:
        """Fail."""
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("frame.png is no PNG; replace it."), ["frame.png is no PNG; replace it."]),
        (FloatingPointError("the loss is nan at step 3"), ["the loss is nan at step 3"]),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/a.npy"), ["/disk/a.npy", "No space left"]),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ["the output folder", "No space left"]),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/disk/a.npy"), ["/disk/a.npy", "Read-only", "another place"]),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "/disk/a"), ["/disk/a", "Permission", "its permissions"]),
        (OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "/a/b"), ["/a/b", "Not a directory", "another place"]),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, words):
    found = CliRunner().invoke(failing(error))
    assert found.exit_code == 2 and found.stdout == ""
    assert found.stderr.startswith("Error: ") and found.stderr.count("\n") == 1
    assert all(word in found.stderr for word in words)


@pytest.mark.parametrize("error", [KeyError("bug"), FileNotFoundError(errno.ENOENT, "gone", "/a"), AssertionError()])
def test_a_bug_keeps_its_traceback(error):
    found = CliRunner().invoke(failing(error))
    assert found.exception is error and found.exit_code == 1


def test_name_and_help_stay():
    found = CliRunner().invoke(failing(KeyError()), ["--help"])
    assert found.exit_code == 0 and "Fail." in found.output
