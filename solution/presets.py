"""The presets: whole configs with a name. ``quick`` is for two CPU cores, ``full`` for one large GPU."""

from __future__ import annotations

from solution.config import Config
from solution.ensemble import EnsembleConfig
from solution.predictors import frames, masks, objects
from solution.segmenter import SegmenterConfig

FULL = Config()

QUICK = Config(
    segmenter=SegmenterConfig("resnet18", (128, 96, 64, 48, 32), 2, (128, 128), steps=600, batch=32, learning_rate=1e-3),
    objects=objects.QUICK,
    masks=masks.QUICK,
    frames=frames.QUICK,
    ensemble=EnsembleConfig(members=("objects",), view_count=4),
)

PRESETS = {"quick": QUICK, "full": FULL}
