"""A raw competition on disk: where its splits lie, how its files are read and what is wrong with them.

Nothing here writes a file; what becomes of a bad video is decided in ``pack.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("train", "val", "unlabeled", "hidden")


@dataclass(frozen=True)
class Problem:
    """One thing that was wrong with the data, and what was done about it."""

    file: str
    problem: str
    action: str
