"""The presets: whole configs with a name. ``quick`` is for two CPU cores, ``full`` for one large GPU."""

from __future__ import annotations

from solution.config import (
    Config,
    EdgesConfig,
    EnsembleConfig,
    FramesConfig,
    JepaConfig,
    MasksConfig,
    ObjectsConfig,
    SegmenterConfig,
)

FULL = Config()

QUICK = Config(
    segmenter=SegmenterConfig("resnet18", (96, 64, 48, 32), 2, (96, 96), steps=1500, batch=48, learning_rate=3e-3),
    edges=EdgesConfig(width=96, steps=1500, batch=48),
    objects=ObjectsConfig(width=192, steps=4000),
    masks=MasksConfig(
        patch=4,
        horizons=1,
        translator="inception",
        size=(16, 128, 2, 2),
        steps=2000,
        batch_size=8,
        learning_rate=3e-3,
    ),
    frames=FramesConfig(
        network="inception", size=(16, 64, 4, 3), steps=300, batch_size=4, tuning_steps=60, tuning_rate=3e-4
    ),
    jepa=JepaConfig("quick"),
    ensemble=EnsembleConfig(members=("objects",)),
)

SMOKE = Config(
    segmenter=SegmenterConfig("resnet18", (32, 24, 16), 4, (96, 96), steps=6, batch=4, learning_rate=3e-3),
    edges=EdgesConfig(width=8, steps=6, batch=4),
    objects=ObjectsConfig(modes=1, samples=4, width=32, steps=6),
    masks=MasksConfig(patch=4, horizons=1, translator="inception", size=(8, 16, 2, 2), steps=2, batch_size=2),
    frames=FramesConfig("inception", size=(8, 16, 4, 2), steps=2, batch_size=2, tuning_steps=2),
    jepa=JepaConfig("smoke"),
    ensemble=EnsembleConfig(members=("objects", "masks", "frames", "jepa")),
)
"""Every stage of every member with networks that learn nothing: whether a change or a machine lets all of it run."""

REPORT_SIMVP = Config(
    segmenter=SegmenterConfig(crop=(160, 240), steps=6188, learning_rate=1e-4, region_weight=0.0, pasted=0.0),
    frames=FramesConfig("inception", downscale=1, plain=True, ssim_weight=0.0, steps=21_719, tuned=()),
    ensemble=EnsembleConfig(members=("frames",), views=(), decode="argmax"),
)
"""SimVP with squared error, then the U-Net with cross-entropy; no fine-tuning, no ensemble, no views.

SimVP's steps are 25 epochs over 13,900 videos, unlabeled and train without the held-out tenth, at 16 clips a step; the
U-Net's are 20 epochs over the 22 frames of 900 train videos, at 64 frames a step. Ours and not the report's are the
factored classes of the U-Net, whose cross-entropy takes object or floor apart from which object, the augmentation, the
warm-up, the clipped gradient and the EMA.
"""

REPORT_JEPA = Config(
    segmenter=REPORT_SIMVP.segmenter,
    ensemble=EnsembleConfig(members=("jepa",), views=(), decode="argmax"),
)
"""I-JEPA, ViViT and mask decoder in the report's sizes, which are the defaults; no ensemble, no views."""

MASKS_ROLLOUT = Config(
    segmenter=REPORT_SIMVP.segmenter,
    masks=MasksConfig("published", downscale=1, patch=1, steps=35_000),
    ensemble=EnsembleConfig(members=("masks",), views=(), decode="argmax"),
)
"""The recipe that scored 0.456: SimVP-gSTA 64/512/4/8 from eleven masks to the next, cross-entropy alone, one cycle up
to 1e-3; 20 epochs of 14,000 videos for one frame, then as many steps of rolling out further and further. Its optimiser
was Adam without this kit's weight decay, clipping and EMA; the shapes' planes and ``STAYS`` are this kit's too."""

PRESETS = {
    "quick": QUICK,
    "full": FULL,
    "smoke": SMOKE,
    "report-simvp": REPORT_SIMVP,
    "report-jepa": REPORT_JEPA,
    "masks-rollout": MASKS_ROLLOUT,
}
