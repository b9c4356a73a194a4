"""Tracks found some videos at a time: the same in workers, and not found again after an interruption."""

import os

import numpy as np
import pytest
import torch

from data_prep.deadline import TimeIsUp, deadline
from solution.tracking import FIELDS, find_all, load_tracks
from solution.tracks import Tracks

CPU = torch.device("cpu")


def find(rows: np.ndarray) -> Tracks:
    """Return tracks that say which videos they are of."""
    values = {name: torch.from_numpy(rows)[:, None].float() for name in FIELDS}
    return Tracks(**values | {"classes": torch.from_numpy(rows)[:, None]})


@pytest.mark.parametrize("cores", [1, 2])
def test_tracks_of_all_videos_come_in_order_however_often_it_is_stopped(tmp_path, monkeypatch, cores):
    monkeypatch.setattr("solution.workers.num_cores", lambda: cores)
    rows, found = np.arange(0, 90, 2), []

    def noted(videos: np.ndarray) -> Tracks:
        found.append(os.getpid())
        return find(videos)

    stops = 0
    while not (tmp_path / "tracks.safetensors").exists():
        with deadline(0.0 if stops < 2 else 1e6):
            try:
                find_all(tmp_path, rows, noted, CPU)
            except TimeIsUp:
                stops += 1
                assert len(list(tmp_path.glob("part_*"))) == stops
    tracks = load_tracks(tmp_path)
    assert all(torch.equal(getattr(tracks, name)[:, 0].long(), torch.from_numpy(rows)) for name in FIELDS)
    assert len(found) == (6 if cores == 1 else 0) and os.listdir(tmp_path) == ["tracks.safetensors"]
