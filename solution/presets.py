"""The presets: whole configs with a name. ``quick`` is for two CPU cores, ``full`` for one large GPU."""

from __future__ import annotations

from data_prep.scene import HEIGHT, WIDTH
from solution.config import Config
from solution.ensemble import EnsembleConfig
from solution.predictors import frames, masks
from solution.predictors.objects import ObjectsConfig
from solution.segmenter import SegmenterConfig

FULL = Config()

QUICK = Config(
    segmenter=SegmenterConfig("resnet18", (96, 64, 48, 32), 2, (96, 96), steps=1500, batch=48, learning_rate=3e-3),
    objects=ObjectsConfig(width=192, layers=5, steps=4000, batch_size=64),
    masks=masks.QUICK,
    frames=frames.QUICK,
    ensemble=EnsembleConfig(members=("objects",), view_count=4),
)

REPORT_SIMVP = Config(
    segmenter=SegmenterConfig(crop=(HEIGHT, WIDTH), steps=6188, learning_rate=1e-4, region_weight=0.0),
    frames=frames.REPORT,
    ensemble=EnsembleConfig(members=("frames",), views=(), view_count=1, decode="argmax"),
)
"""SimVP with squared error, then the U-Net with cross-entropy; no fine-tuning, no ensemble, no views.

The U-Net's steps are 20 epochs over the 22 frames of 900 train videos, at 64 frames a step. Ours and not the report's
are the factored classes of the U-Net, whose cross-entropy takes object or floor apart from which object, the
augmentation, the warm-up, the clipped gradient and the EMA.
"""

PRESETS = {"quick": QUICK, "full": FULL, "report-simvp": REPORT_SIMVP}
