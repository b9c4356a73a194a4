"""What a command does with each kind of error."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from data_prep.errors import UserError, exits_cleanly, is_out_of_memory


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
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), ["not enough memory; close other programs"]),
        (MemoryError("Unable to allocate 5 GiB"), ["not enough memory; close other programs"]),
        (torch.OutOfMemoryError("CUDA out of memory"), ["not enough memory; close other programs"]),
        (RuntimeError("std::bad_alloc"), ["not enough memory; close other programs"]),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, words):
    found = CliRunner().invoke(failing(error))
    assert found.exit_code == 2 and found.stdout == ""
    assert found.stderr.startswith("Error: ") and found.stderr.count("\n") == 1
    assert all(word in found.stderr for word in words)


def test_memory_that_torch_lacks_on_a_cpu_is_known_by_its_error():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value) and not is_out_of_memory(RuntimeError("shapes disagree"))


@pytest.mark.parametrize(
    "error",
    [KeyError("bug"), RuntimeError("shapes disagree"), FileNotFoundError(errno.ENOENT, "gone", "/a"), AssertionError()],
)
def test_a_bug_keeps_its_traceback(error):
    found = CliRunner().invoke(failing(error))
    assert found.exception is error and found.exit_code == 1


def test_name_and_help_stay():
    found = CliRunner().invoke(failing(KeyError()), ["--help"])
    assert found.exit_code == 0 and "Fail." in found.output


def test_a_worker_that_the_same_ctrl_c_ended_is_no_bug():
    @click.command()
    @exits_cleanly
    def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise BrokenExecutor("a process was terminated abruptly")

    found = CliRunner().invoke(main)
    assert found.exit_code == 130 and found.stderr.startswith("Stopped; ")
    assert CliRunner().invoke(failing(BrokenExecutor())).exit_code == 1


WORKS = """
import sys, time
import click
from data_prep.deadline import stop_if_time_is_up
from data_prep.errors import exits_cleanly

@click.command()
@exits_cleanly
def main():
    print("at work", flush=True)
    time.sleep(SECONDS)
    print("at a checkpoint", flush=True)
    stop_if_time_is_up()
    print("on", flush=True)
    time.sleep(600)

main()
"""


def stopped(seconds: float, *signals: int, apart: float = 1.2) -> tuple[int, str, str]:
    """Return exit code and output of a command that is at work for some seconds, and then gets signals."""
    code = WORKS.replace("SECONDS", str(seconds))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as process:
        assert process.stdout.readline() == "at work\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(apart)
        return process.wait(60), process.stdout.read(), process.stderr.read()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_the_next_checkpoint(number, code):
    found, out, err = stopped(0.5, number)
    assert (found, out) == (code, "at a checkpoint\n")
    assert err.splitlines()[1:] == [
        "Stopping at the next checkpoint, to keep everything; Ctrl-C again stops at once.",
        "Stopped; the same command goes on from here, finished work is kept.",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once_but_no_echo_of_the_first(number, code):
    found, out, err = stopped(600, number, signal.SIGINT)
    assert (found, out) == (code, "") and err.endswith("work is kept.\n") and "Traceback" not in err
    assert stopped(0.5, number, signal.SIGTERM, apart=0)[:2] == (code, "at a checkpoint\n")
