"""A stage's folder: named by a hash of everything that decides its content, locked while it is made, checked when read.

So every run finds again what was made for the same data and config. The stages themselves are in ``pipeline.py``.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from data_prep.errors import UserError, is_out_of_memory
from data_prep.files import read_json, sole_maker, write_text
from solution import processes
from solution.machine import peak_gib, reset_peak

VERSION = 6
"""Raised when a stage would be made otherwise from the same data and config, so that older ones are made anew."""
NEEDED = (".json", ".npy", ".safetensors")
"""Suffixes of the files of a stage without which it is not finished; what else lies there may be deleted."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: the folder of its files, the hash of all that decided them, and its cost.

    Attributes:
        seconds: of work, interrupted commands included.
        kept: it was finished before this command.
    """

    folder: Path
    key: str
    seconds: float
    peak_gib: float | None = None
    kept: bool = True


class Stages:
    """The stages of one pipeline.

    Args:
        root: where the folders of stages lie.
        device: whose memory is measured.

    Attributes:
        done: the stages made or found so far by name, those of copies as ``segmenter.2``.
        number: what is put behind the names: nothing, or the number of a copy.
    """

    def __init__(self, root: Path, device: torch.device):
        self.root, self.device = root, device
        self.done: dict[str, Stage] = {}
        self.number = ""

    def stage(self, name: str, decided_by: dict, build: Callable[[Path], None]) -> Stage:
        """Return the stage ``name``, building it into its folder if that is not finished.

        Args:
            name: of the stage; one name is built once per pipeline.
            decided_by: everything JSON can hold that decides the content.
            build: fills the folder; started again after an interruption, it goes on with what it finds there. Several
                processes call it at the same time.

        Raises:
            TimeIsUp: see ``data_prep.deadline``; what is finished is kept.
        """
        known_as = name + self.number
        if known_as in self.done:
            return self.done[known_as]
        key = stage_key(name, decided_by)
        folder = self.root / f"{name}-{key[:12]}"
        marker = folder / "done.json"
        with sole_maker(folder) if processes.is_first() and not marker.exists() else nullcontext():
            kept = processes.agreed(marker.exists())
            if not kept:
                spent = folder / "spent.json"
                with counted(spent, self.device):
                    try:
                        build(folder)
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                        raise UserError(
                            f"{known_as} needs more memory than {self.device} has; make its batches smaller "
                            "(--set SECTION.batch_size=N, segmenter.batch=N), finished stages are kept."
                        ) from None
                    processes.barrier()
                if processes.is_first():
                    needed = (path for path in folder.rglob("*") if path.suffix in NEEDED and path != spent)
                    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in needed}
                    record = json.loads(spent.read_text()) | {"files": sizes, "decided_by": decided_by}
                    write_text(marker, json.dumps(record, default=str, indent=1))
                    spent.unlink()
                processes.barrier()
        made = self.done[known_as] = replace(finished(folder, key), kept=kept)
        click.echo(f"  {known_as}: {'kept' if kept else f'{made.seconds:.0f} s'} ({folder})")
        if not kept:  # so that every call gets on
            processes.stop_if_time_is_up()
        return made


def finished(folder: Path, key: str) -> Stage:
    """Return the finished stage in a folder, once its files are as they were.

    Raises:
        UserError: a file is missing or has another size.
    """
    marker = folder / "done.json"
    try:
        record = json.loads(marker.read_text())
        stage = Stage(folder, key, record["seconds"], record.get("peak_gib"))
    except (OSError, ValueError, KeyError):
        raise UserError(f"{marker} is missing or damaged; delete {folder} and run submit.py again.") from None
    for name, size in record.get("files", {}).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{path} is missing or was changed; delete {folder} and run submit.py again.")
    return stage


@contextmanager
def counted(path: Path, device: torch.device) -> Iterator[None]:
    """Add the seconds of what happens inside to a JSON file, finished or interrupted, and keep the largest peak."""
    earlier = read_json(path, f"delete {path.parent}") if path.exists() else {"seconds": 0.0, "peak_gib": 0.0}
    reset_peak(device)
    start = time.perf_counter()
    try:
        yield
    finally:
        if processes.is_first():
            seconds = earlier["seconds"] + time.perf_counter() - start
            write_text(path, json.dumps({"seconds": seconds, "peak_gib": max(earlier["peak_gib"], peak_gib(device))}))


def stage_key(name: str, decided_by: dict) -> str:
    """Return the hash that names a stage's folder."""
    decision = json.dumps([VERSION, name, decided_by], sort_keys=True, default=str)
    return hashlib.sha256(decision.encode()).hexdigest()
