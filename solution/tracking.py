"""Tracks of many videos on disk: found a few videos at a time, by all processes, and kept when interrupted."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from tqdm import tqdm

from data_prep.deadline import TimeIsUp, time_is_up
from data_prep.files import write_bytes
from solution import processes
from solution.tracks import Tracks, join
from solution.workers import in_workers, num_workers

TRACKED_AT_ONCE = {"cpu": 8, "cuda": 32}
"""Videos, by device; what is found in one does not depend on it."""
TRACKS = "tracks.safetensors"
FIELDS = [field.name for field in fields(Tracks)]
"""Of kept tracks; those with others are made anew."""


def find_all(folder: Path, rows: np.ndarray, find: Callable[[np.ndarray], Tracks], device: torch.device) -> None:
    """Write the tracks of these videos of a split into a folder, some videos at a time, shared among the processes.

    On a CPU every process has workers.

    Raises:
        TimeIsUp: see ``data_prep.deadline``; what was found is kept and the next call goes on from it.
    """
    at_once = TRACKED_AT_ONCE[device.type]
    chunks = [rows[first : first + at_once] for first in range(0, len(rows), at_once)]
    files = [folder / f"part_{number}_of_{len(chunks)}.safetensors" for number in range(len(chunks))]
    own = range(processes.rank(), len(chunks), processes.count())
    missing = [number for number in own if not files[number].exists()]

    def found(number: int) -> bytes:
        tracks = find(chunks[number]).to("cpu")
        return save({name: getattr(tracks, name).contiguous() for name in FIELDS})

    with closing(in_workers(found, missing, num_workers(at_once * len(missing), device))) as contents:
        bar = tqdm(contents, total=len(missing), desc="tracks", unit="chunk", disable=None, leave=False)
        for number, content in zip(missing, bar, strict=False):
            write_bytes(files[number], content)
            if time_is_up():
                break
    processes.barrier()
    if not processes.agreed(all(file.exists() for file in files)):
        raise TimeIsUp
    if processes.is_first():
        joined = join([Tracks(**load_file(file)) for file in files])
        write_bytes(folder / TRACKS, save({name: getattr(joined, name) for name in FIELDS}))
        for file in files:
            file.unlink()


def load_tracks(folder: Path) -> Tracks:
    """Return what :func:`find_all` wrote."""
    return Tracks(**load_file(folder / TRACKS))
