"""Tracks of many videos on disk: found a few videos at a time, by all processes, and kept when interrupted."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save
from tqdm import tqdm

from data_prep.deadline import TimeIsUp, time_is_up
from data_prep.files import write_bytes
from solution import processes
from solution.tracks import Tracks, join

TRACKED_AT_ONCE = 32
TRACKS = "tracks.safetensors"
FIELDS = [field.name for field in fields(Tracks)]
"""Of kept tracks; those with others are made anew."""


def find_all(folder: Path, rows: np.ndarray, find: Callable[[np.ndarray], Tracks]) -> None:
    """Write the tracks of these videos of a split into a folder, some videos at a time, shared among the processes.

    Raises:
        TimeIsUp: see ``data_prep.deadline``; what was found is kept and the next call goes on from it.
    """
    chunks = [rows[first : first + TRACKED_AT_ONCE] for first in range(0, len(rows), TRACKED_AT_ONCE)]
    files = [folder / f"part_{number}.safetensors" for number in range(len(chunks))]
    own = range(processes.rank(), len(chunks), processes.count())
    missing = [number for number in own if not files[number].exists()]
    for number in tqdm(missing, desc="tracks", unit="chunk", disable=None, leave=False):
        tracks = find(chunks[number]).to("cpu")
        write_bytes(files[number], save({name: getattr(tracks, name).contiguous() for name in FIELDS}))
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
