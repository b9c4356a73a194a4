"""Arrays made row by row: the same bytes whether it was interrupted or not, and finished rows are not made again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.deadline import TimeIsUp, deadline
from solution.arrays import fill_rows

SHAPE = (7, 5, 3)


def values(first: int, last: int) -> np.ndarray:
    return np.stack([np.random.default_rng(row).integers(0, 256, SHAPE[1:], np.uint8) for row in range(first, last)])


class Rows:
    """Notes what it was asked for, and fails at one row."""

    def __init__(self, fails_at: int | None = None, error: BaseException | None = None):
        self.fails_at, self.error, self.asked = fails_at, error, []

    def __call__(self, first: int, last: int) -> np.ndarray:
        if first == self.fails_at:
            raise self.error
        self.asked.append((first, last))
        return values(first, last)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_array_equals_its_rows(tmp_path, chunk):
    found = fill_rows(tmp_path / "a.npy", SHAPE, chunk, values, "rows")
    np.testing.assert_array_equal(found, values(0, 7))
    assert isinstance(found, np.memmap) and found.dtype == np.uint8
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), found)
    assert os.listdir(tmp_path) == ["a.npy"]


def test_what_is_there_is_not_made_again(tmp_path):
    fill_rows(tmp_path / "a.npy", SHAPE, 2, values, "rows")
    rows = Rows()
    np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", SHAPE, 2, rows, "rows"), values(0, 7))
    assert rows.asked == []


@pytest.mark.parametrize("fails_at", [0, 2, 6])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_array_goes_on_where_it_was(tmp_path, fails_at, error):
    path = tmp_path / "a.npy"
    with pytest.raises(type(error)):
        fill_rows(path, SHAPE, 2, Rows(fails_at, error), "rows")
    assert not path.exists()
    rows = Rows()
    np.testing.assert_array_equal(fill_rows(path, SHAPE, 2, rows, "rows"), values(0, 7))
    assert rows.asked[0][0] == fails_at
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_killed_process_leaves_whole_rows(tmp_path):
    path = tmp_path / "a.npy"
    kill = f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    code = (
        "import os\nfrom pathlib import Path\nimport numpy as np\nfrom solution.arrays import fill_rows\n"
        "from tests.solution.test_arrays import SHAPE, values\n"
        f"fill_rows(Path({str(path)!r}), SHAPE, 2, lambda a, b: {kill} if a == 4 else values(a, b), 'rows')\n"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == -signal.SIGKILL
    assert not path.exists()
    rows = Rows()
    np.testing.assert_array_equal(fill_rows(path, SHAPE, 2, rows, "rows"), values(0, 7))
    assert rows.asked == [(4, 6), (6, 7)]


def test_a_full_disk_is_an_error_that_can_be_caught(small_disk):
    """A store to mapped memory would end the process instead."""
    with pytest.raises(OSError, match="No space left"):
        fill_rows(small_disk / "a.npy", (20_000, 160, 240), 4, values, "rows")
    assert not (small_disk / "a.npy").exists()


def test_a_time_limit_keeps_every_chunk(tmp_path):
    rows = Rows()
    with deadline(0.0):
        for last in (3, 6, 7):
            with pytest.raises(TimeIsUp):
                fill_rows(tmp_path / "a.npy", SHAPE, 3, rows, "rows")
            assert (tmp_path / "a.rows").read_text() == str(last)
        np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", SHAPE, 3, rows, "rows"), values(0, 7))
    assert rows.asked == [(0, 3), (3, 6), (6, 7)]


class SmallMemory(Rows):
    """Has no memory for more than two rows at a time."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error

    def __call__(self, first: int, last: int) -> np.ndarray:
        if last - first > 2:
            raise self.error
        return super().__call__(first, last)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), MemoryError()], ids=["GPU", "CPU"])
def test_too_little_memory_halves_what_is_made_at_a_time(tmp_path, capsys, error):
    rows = SmallMemory(error)
    np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", SHAPE, 5, rows, "rows"), values(0, 7))
    assert rows.asked == [(0, 2), (2, 4), (4, 5), (5, 7)]
    assert "Not enough memory for 5 videos at a time; going on with 2." in capsys.readouterr().err


def test_too_little_memory_for_one_row_is_the_error_it_is(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fill_rows(tmp_path / "a.npy", SHAPE, 3, Rows(0, torch.OutOfMemoryError()), "rows")
