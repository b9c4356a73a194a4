"""The presets: whole configs with a name. ``quick`` is for two CPU cores, ``full`` for one large GPU."""

from __future__ import annotations

from collections.abc import Iterable

from data_prep.scene import HEIGHT, WIDTH
from solution.config import Config, check_possible, override
from solution.edges import EdgesConfig
from solution.ensemble import EnsembleConfig
from solution.predictors import frames, jepa, masks
from solution.predictors.objects import ObjectsConfig
from solution.segmenter import SegmenterConfig

FULL = Config()

QUICK = Config(
    segmenter=SegmenterConfig("resnet18", (96, 64, 48, 32), 2, (96, 96), steps=1500, batch=48, learning_rate=3e-3),
    edges=EdgesConfig(width=96, steps=2000, batch=96),
    objects=ObjectsConfig(width=192, layers=5, steps=4000, batch_size=64),
    masks=masks.QUICK,
    frames=frames.QUICK,
    jepa=jepa.QUICK,
    ensemble=EnsembleConfig(members=("objects",), view_count=4),
)

REPORT_SIMVP = Config(
    segmenter=SegmenterConfig(crop=(HEIGHT, WIDTH), steps=6188, learning_rate=1e-4, region_weight=0.0, pasted=0.0),
    frames=frames.REPORT,
    ensemble=EnsembleConfig(members=("frames",), views=(), view_count=1, decode="argmax"),
)
"""SimVP with squared error, then the U-Net with cross-entropy; no fine-tuning, no ensemble, no views.

The U-Net's steps are 20 epochs over the 22 frames of 900 train videos, at 64 frames a step. Ours and not the report's
are the factored classes of the U-Net, whose cross-entropy takes object or floor apart from which object, the
augmentation, the warm-up, the clipped gradient and the EMA.
"""

REPORT_JEPA = Config(
    segmenter=REPORT_SIMVP.segmenter,
    ensemble=EnsembleConfig(members=("jepa",), views=(), view_count=1, decode="argmax"),
)
"""I-JEPA, ViViT and mask decoder in the report's sizes, which are the defaults; no ensemble, no views."""

MASKS_ROLLOUT = Config(
    segmenter=REPORT_SIMVP.segmenter,
    masks=masks.PUBLISHED,
    ensemble=EnsembleConfig(members=("masks",), views=(), view_count=1, decode="argmax"),
)
"""The best published recipe: from mask to next mask, rolled out, each class its own channel; one network, no views."""

PRESETS = {
    "quick": QUICK,
    "full": FULL,
    "report-simvp": REPORT_SIMVP,
    "report-jepa": REPORT_JEPA,
    "masks-rollout": MASKS_ROLLOUT,
}


def configured(preset: str, settings: Iterable[str]) -> Config:
    """Return a preset with ``section.key=value`` settings applied.

    Raises:
        UserError: a setting is not one, or networks of such a kind cannot be built.
    """
    config = override(PRESETS[preset], settings)
    check_possible(config, ", ".join(settings) or preset)
    return config
