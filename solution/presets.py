"""The presets: whole configs with a name. ``quick`` is for two CPU cores, ``full`` for one large GPU."""

from __future__ import annotations

from data_prep.scene import HEIGHT, WIDTH
from solution.config import (
    Config,
    DecoderConfig,
    EdgesConfig,
    EncoderConfig,
    EnsembleConfig,
    FramesConfig,
    GeneratorConfig,
    JepaConfig,
    MasksConfig,
    ObjectsConfig,
    SegmenterConfig,
)

MASKS_QUICK = MasksConfig(
    patch=4,
    horizons=1,
    translator="inception",
    hid_S=16,
    hid_T=128,
    N_S=2,
    N_T=2,
    steps=2000,
    batch_size=8,
    learning_rate=3e-3,
)
"""Small enough for CPU cores: a quarter of a second a step on one of them, more the further ``rollout`` goes."""


MASKS_PUBLISHED = MasksConfig(
    form="rollout", slots=48, downscale=1, patch=1, last_weight=1.0, jaccard_weight=0.0, steps=35_000, batch_size=16
)
"""The recipe that scored 0.456: SimVP-gSTA 64/512/4/8 from eleven masks to the next, cross-entropy alone, one cycle up
to 1e-3; 20 epochs of 14,000 videos for one frame, then as many steps of rolling out further and further. Its optimiser
was Adam without this kit's weight decay, clipping and EMA; the shapes' planes and ``STAYS`` are this kit's too."""

FRAMES_QUICK = FramesConfig(
    translator="inception",
    hid_S=16,
    hid_T=64,
    N_T=3,
    steps=300,
    batch_size=4,
    segmenter_steps=60,
    joint_steps=60,
    pseudo_steps=60,
    tuning_rate=3e-4,
)
"""What two CPU cores can try in minutes."""

FRAMES_REPORT = FramesConfig(
    translator="inception",
    downscale=1,
    residual=False,
    ssim_weight=0.0,
    last_weight=1.0,
    steps=21_719,
    weight_decay=0.0,
    segmenter_steps=0,
    joint_steps=0,
    pseudo_steps=0,
)
"""The report this system comes from: squared error only, Adam (AdamW without decay), nothing tuned afterwards.

The steps are 25 epochs over 13,900 videos, unlabeled and train without the held-out tenth, at 16 clips a step.
"""

JEPA_QUICK = JepaConfig(
    EncoderConfig(width=96, layers=4, momentum=0.95, epochs=4, steps=200, batch_size=64),
    GeneratorConfig(width=192, layers=4, heads=3, pixel_weight=100.0, steps=300, batch_size=4, learning_rate=1e-3),
    DecoderConfig(
        layers=2,
        pseudo_steps=400,
        labelled_steps=200,
        tuning_steps=40,
        batch_size=8,
        learning_rate=3e-3,
        tuning_rate=1e-3,
    ),
)
"""What two CPU cores can try in minutes: few steps, so the target follows faster and pixels help the generator."""

FULL = Config()

QUICK = Config(
    segmenter=SegmenterConfig("resnet18", (96, 64, 48, 32), 2, (96, 96), steps=1500, batch=48, learning_rate=3e-3),
    edges=EdgesConfig(width=96, steps=2000, batch=96),
    objects=ObjectsConfig(width=192, layers=5, steps=4000, batch_size=64),
    masks=MASKS_QUICK,
    frames=FRAMES_QUICK,
    jepa=JEPA_QUICK,
    ensemble=EnsembleConfig(members=("objects",), view_count=4),
)

REPORT_SIMVP = Config(
    segmenter=SegmenterConfig(crop=(HEIGHT, WIDTH), steps=6188, learning_rate=1e-4, region_weight=0.0, pasted=0.0),
    frames=FRAMES_REPORT,
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
    masks=MASKS_PUBLISHED,
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
