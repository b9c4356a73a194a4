"""Which videos a training step sees: several packed arrays drawn from as if they were one.

Reading and shaping what was drawn is the business of each predictor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_videos(lengths: Sequence[int], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return ``count`` pairs (part, row), every row of parts with these many rows equally likely."""
    ends = np.cumsum(lengths)
    drawn = rng.integers(ends[-1], size=count)
    parts = np.searchsorted(ends, drawn, side="right")
    return [(int(part), int(row - ends[part] + lengths[part])) for part, row in zip(parts, drawn, strict=True)]
