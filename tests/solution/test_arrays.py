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
from data_prep.errors import is_out_of_memory
from solution.arrays import fill_rows
from solution.workers import FEW, num_workers

SHAPE = (7, 5, 3)
CPU = torch.device("cpu")


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
    found = fill_rows(tmp_path / "a.npy", SHAPE, chunk, values, "rows", CPU)
    np.testing.assert_array_equal(found, values(0, 7))
    assert isinstance(found, np.memmap) and found.dtype == np.uint8
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), found)
    assert os.listdir(tmp_path) == ["a.npy"]


def test_what_is_there_is_not_made_again(tmp_path):
    fill_rows(tmp_path / "a.npy", SHAPE, 2, values, "rows", CPU)
    rows = Rows()
    np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", SHAPE, 2, rows, "rows", CPU), values(0, 7))
    assert rows.asked == []


@pytest.mark.parametrize("fails_at", [0, 2, 6])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_array_goes_on_where_it_was(tmp_path, fails_at, error):
    path = tmp_path / "a.npy"
    with pytest.raises(type(error)):
        fill_rows(path, SHAPE, 2, Rows(fails_at, error), "rows", CPU)
    assert not path.exists()
    rows = Rows()
    np.testing.assert_array_equal(fill_rows(path, SHAPE, 2, rows, "rows", CPU), values(0, 7))
    assert rows.asked[0][0] == fails_at
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_killed_process_leaves_whole_rows(tmp_path):
    path = tmp_path / "a.npy"
    kill = f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    code = (
        "import os\nfrom pathlib import Path\nimport numpy as np\nfrom solution.arrays import fill_rows\n"
        "from tests.solution.test_arrays import CPU, SHAPE, values\n"
        f"fill_rows(Path({str(path)!r}), SHAPE, 2, lambda a, b: {kill} if a == 4 else values(a, b), 'rows', CPU)\n"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == -signal.SIGKILL
    assert not path.exists()
    rows = Rows()
    np.testing.assert_array_equal(fill_rows(path, SHAPE, 2, rows, "rows", CPU), values(0, 7))
    assert rows.asked == [(4, 6), (6, 7)]


def test_a_full_disk_is_an_error_that_can_be_caught(small_disk):
    """A store to mapped memory would end the process instead."""
    with pytest.raises(OSError, match="No space left"):
        fill_rows(small_disk / "a.npy", (20_000, 160, 240), 4, values, "rows", CPU)
    assert not (small_disk / "a.npy").exists()


def test_a_time_limit_keeps_every_chunk(tmp_path):
    rows = Rows()
    with deadline(0.0):
        for last in (3, 6, 7):
            with pytest.raises(TimeIsUp):
                fill_rows(tmp_path / "a.npy", SHAPE, 3, rows, "rows", CPU)
            assert (tmp_path / "a.rows").read_text() == str(last)
        np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", SHAPE, 3, rows, "rows", CPU), values(0, 7))
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
    np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", SHAPE, 5, rows, "rows", CPU), values(0, 7))
    assert rows.asked == [(0, 2), (2, 4), (4, 5), (5, 7)]
    assert "Not enough memory for 5 videos at a time; going on with 2." in capsys.readouterr().err


def test_too_little_memory_for_one_row_is_the_error_it_is(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fill_rows(tmp_path / "a.npy", SHAPE, 3, Rows(0, torch.OutOfMemoryError()), "rows", CPU)


MANY = (50, 5, 3)


@pytest.fixture
def two_workers(monkeypatch):
    monkeypatch.setattr("solution.workers.num_cores", lambda: 2)


def test_workers_make_the_same_rows_in_order(tmp_path, two_workers):
    def rows(first: int, last: int) -> np.ndarray:
        made = values(first, last)
        made[:, 0, 0], made[:, 0, 1] = os.getpid() % 251, torch.get_num_threads()
        return made

    found, expected = fill_rows(tmp_path / "a.npy", MANY, 20, rows, "rows", CPU), values(0, 50)
    np.testing.assert_array_equal(found[:, 1:], expected[:, 1:])
    makers = found[:, 0, 0]
    assert len(set(makers)) == 2 and os.getpid() % 251 not in makers and (found[:, 0, 1] == 1).all()
    assert (makers == np.tile(makers[[0, 13]].repeat(13), 2)[:50]).all(), "both make as much, and end together"


def test_workers_stop_in_time_and_go_on_with_what_is_missing(tmp_path, two_workers):
    path = tmp_path / "a.npy"
    with deadline(0.0), pytest.raises(TimeIsUp):
        fill_rows(path, MANY, 10, values, "rows", CPU)
    done = int((tmp_path / "a.rows").read_text())
    assert 0 < done < 50

    def rest(first: int, last: int) -> np.ndarray:
        assert first >= done
        return values(first, last)

    np.testing.assert_array_equal(fill_rows(path, MANY, 10, rest, "rows", CPU), values(0, 50))
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_worker_that_is_killed_is_too_little_memory(tmp_path, two_workers):
    def rows(first: int, last: int) -> np.ndarray:
        if first >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return values(first, last)

    with pytest.raises(RuntimeError) as found:
        fill_rows(tmp_path / "a.npy", MANY, 10, rows, "rows", CPU)
    assert is_out_of_memory(found.value)
    np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", MANY, 10, values, "rows", CPU), values(0, 50))


def test_workers_halve_what_they_make_at_a_time(tmp_path, two_workers):
    def rows(first: int, last: int) -> np.ndarray:
        if last - first > 4:
            raise MemoryError
        return values(first, last)

    np.testing.assert_array_equal(fill_rows(tmp_path / "a.npy", MANY, 20, rows, "rows", CPU), values(0, 50))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), MemoryError()], ids=["GPU", "CPU"])
def test_a_worker_without_memory_for_one_row_says_so(tmp_path, two_workers, error):
    def rows(first: int, last: int) -> np.ndarray:
        raise error

    with pytest.raises(type(error)) as found:
        fill_rows(tmp_path / "a.npy", MANY, 20, rows, "rows", CPU)
    assert is_out_of_memory(found.value)


STOPPED = """
import os, sys
from pathlib import Path
import click
import torch
from data_prep.errors import exits_cleanly
from solution import workers
from solution.arrays import fill_rows
from tests.solution.test_arrays import CPU, MANY, values
workers.num_cores = lambda: 2
a = torch.randn(500, 500)
a @ a  # the parent has threads, which children do not inherit

def rows(first, last):
    a @ a
    if first >= 20:
        os.killpg(os.getpgid(os.getppid()), NUMBER)
        ALSO
    return values(first, last)

@click.command()
@exits_cleanly
def main():
    fill_rows(Path(sys.argv[1]), MANY, 5, rows, "rows", CPU)

main([])
"""


@pytest.mark.parametrize("also", ["pass", "os.kill(os.getpid(), NUMBER)"], ids=["command", "workers too"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_workers_at_a_checkpoint(tmp_path, number, code, also):
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    root = Path(__file__).resolve().parents[2]
    script = STOPPED.replace("ALSO", also).replace("NUMBER", str(int(number)))
    command = [sys.executable, "-c", script, str(tmp_path / "a.npy")]
    options = {"env": environment, "capture_output": True, "text": True, "start_new_session": True}
    found = subprocess.run(command, cwd=root, **options)
    assert found.returncode == code, found.stderr
    assert found.stderr.endswith("Stopped; the same command goes on from here, finished work is kept.\n")
    assert 0 < int((tmp_path / "a.rows").read_text()) < 50


def test_few_rows_and_those_of_a_gpu_start_no_processes(monkeypatch):
    monkeypatch.setattr("solution.workers.num_cores", lambda: 8)
    assert num_workers(FEW, CPU) == 0 and num_workers(FEW + 1, CPU) == 8
    assert num_workers(1000, torch.device("cuda")) == 0
    monkeypatch.setattr("solution.workers.num_cores", lambda: 1)
    assert num_workers(1000, CPU) == 0
