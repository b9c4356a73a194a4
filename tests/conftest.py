"""A tiny competition in the raw layout and a run trained on it, made once for all tests of the commands."""

import os
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock

import submit
import validate
from data_prep.standin.physics import Trajectories, simulate, video_seed
from data_prep.standin.writer import Settings, make_standin

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {
    "segmenter.encoder": "resnet18",
    "segmenter.decoder_channels": "32,24",
    "segmenter.steps": "40",
    "segmenter.batch": "4",
    "edges.width": "8",
    "edges.steps": "6",
    "edges.batch": "4",
    "objects.modes": "1",
    "objects.samples": "4",
}
"""Networks that learn where the floor is and nothing else, for what does not depend on how good they are; without that,
masks are noise, which costs more than to learn it."""

TINY_OPTIONS = ["--preset", "quick", "--device", "cpu", *(f"--set={key}={value}" for key, value in TINY.items())]


@dataclass(frozen=True)
class Workspace:
    """A folder from which commands are called, with a run of ``submit.py`` in it.

    Attributes:
        folder: holds ``runs`` and ``submission.pt``.
        data: the raw competition, outside of ``folder``.
        printed: what ``submit.py`` printed.
    """

    folder: Path
    data: Path
    printed: str

    @property
    def submission(self) -> Path:
        return self.folder / "submission.pt"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Let small tensors be worked on by one thread: more cost time, and sums in another order other bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that returns a folder of a name, filled by the first of pytest's processes that asks for it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def raw_standin(made_once) -> Path:
    """7 train, 2 val, 2 unlabeled and 5 hidden videos as folders of PNG files; not to be changed."""
    settings = Settings(train=7, val=2, unlabeled=2, hidden=5, seed=1, kind="raw")
    return made_once("competition", lambda folder: make_standin(folder / "standin", settings)) / "standin"


@pytest.fixture(scope="session")
def workspace(raw_standin, made_once) -> Workspace:
    """What ``submit.py`` leaves after training on the stand-in; not to be changed."""

    def make(folder: Path) -> None:
        (folder / "workspace").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / "workspace")
            found = run_submit("--data", str(raw_standin))
        assert found.exit_code == 0, found.output
        (folder / "printed.txt").write_text(found.output)

    folder = made_once("made", make)
    return Workspace(folder / "workspace", raw_standin, (folder / "printed.txt").read_text())


@pytest.fixture
def trained(workspace, tmp_path, monkeypatch) -> Workspace:
    """A copy of the workspace that a test may change, and the current folder of the test."""
    folder = shutil.copytree(workspace.folder, tmp_path / "workspace")
    monkeypatch.chdir(folder)
    return Workspace(folder, workspace.data, workspace.printed)


def run_submit(*options: str) -> Result:
    """Call ``submit.py`` with tiny networks; what goes wrong unexpectedly is raised."""
    return call(submit.main, *TINY_OPTIONS, *options)


def run_validate(*options: str) -> Result:
    """Call ``validate.py``; what goes wrong unexpectedly is raised."""
    return call(validate.main, *options)


def call(command: Callable, *options: str) -> Result:
    return CliRunner().invoke(command, [str(option) for option in options], catch_exceptions=False)


def assert_one_sentence(found: Result, *words: str) -> None:
    """Assert that a command ended with exit code 2 and one sentence on standard error that has these words."""
    assert found.exit_code == 2, found.output
    lines = found.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("Error: ") and "Traceback" not in found.output, found.output
    assert sum(line.startswith("Error") for line in lines) == 1, found.stderr
    for word in words:
        assert word in lines[-1], found.stderr


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of its own with 500 MiB."""
    folder, before = tmp_path / "disk", Path.cwd()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    os.chdir(before)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def flip_a_bit(path: Path) -> None:
    """Change a tensor without a trace in the file's structure."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(
            (name for name in archive.namelist() if "/data/" in name), key=lambda n: archive.getinfo(n).file_size
        )
        content[content.index(archive.read(largest)) + 5] ^= 1
    path.write_bytes(content)


def simulate_many(seed: int, count: int, start: int = 0) -> list[Trajectories]:
    """Return the videos numbered ``start`` to ``start + count`` of the stand-in with this seed."""
    return [simulate(video_seed(seed, number)) for number in range(start, start + count)]
