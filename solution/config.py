"""Every setting: frozen sections with recommended defaults, and typed overrides of them; nothing here trains.

The defaults are for one GPU and all videos. What no preset and no table of results needs otherwise is a constant.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_prep.errors import UserError

MEMBERS = ("objects", "masks", "frames", "jepa")
"""Predictors that an ensemble can have: each is the ``MEMBER`` of the file of its name in ``solution/predictors``."""

section = dataclass(frozen=True, config=ConfigDict(extra="forbid"))
Count = Annotated[int, Field(ge=1)]
CountOrOff = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count, Count, Count]


@section
class SegmenterConfig:
    """The U-Net and how it is trained.

    Attributes:
        encoder: of segmentation-models-pytorch.
        decoder_channels: coarse to fine; the encoder has one stage more.
        crop: height and width of what a training step sees of a frame.
        optimiser: Muon (``solution/muon.py``) learns more in as many steps.
        region_weight: of the Dice loss beside cross-entropy.
        pasted: share of the crops into which another frame's objects are put.
    """

    encoder: str = "resnet34"
    decoder_channels: tuple[Count, ...] = (256, 128, 64, 64)
    crop: tuple[Count, Count] = (128, 128)
    steps: Count = 6000
    batch: Count = 64
    learning_rate: Number = 2e-3
    optimiser: Literal["muon", "adamw"] = "muon"
    region_weight: Number = 0.5
    pasted: Share = 0.9


@section
class EdgesConfig:
    """The network that reads places off frames, and how it is trained.

    Attributes:
        steps: 0 reads places off the segmenter's masks instead.
        batch: in outlines.
    """

    width: Count = 160
    steps: CountOrOff = 6_000
    batch: Count = 192
    learning_rate: ClassVar[float] = 3e-3


@section
class ObjectsConfig:
    """Motion of objects on the floor.

    Attributes:
        modes: trajectories per object, of which the first follows the mean state.
        samples: positions per object that a probability is averaged from.
    """

    modes: Count = 48
    samples: Count = 96


@section
class MasksConfig:
    """SimVP on masks.

    Attributes:
        form: ``oneshot`` predicts all horizons together, ``rollout`` one frame eleven times, both one object beside all
            others at a time; ``published`` does neither: see preset ``masks-rollout``. Of what follows it has no
            ``downscale``, ``patch`` and ``horizons``.
        downscale: 2 sees and predicts every second pixel of a row and of a column and interpolates logits, and so on.
        patch: side in these pixels of the squares that SimVP sees as one pixel.
        horizons: how many of the last frames ``oneshot`` predicts.
        size: hid_S, hid_T, N_S and N_T of SimVP.
    """

    form: Literal["oneshot", "rollout", "published"] = "oneshot"
    downscale: Count = 2
    patch: Count = 2
    horizons: Count = 11
    translator: Literal["inception", "gsta", "openstl"] = "gsta"
    size: Size = (64, 512, 4, 8)
    steps: Count = 4000
    batch_size: Count = 16
    learning_rate: Number = 1e-3


@section
class FramesConfig:
    """SimVP on frames, and its tuning together with the U-Net.

    Attributes:
        network: SimVP by its translator, ``openstl`` being gSTA as OpenSTL's code has it, or in its place ``convlstm``
            with N_S layers of hid_S channels.
        size: hid_S, hid_T, N_S and N_T.
        downscale: SimVP sees and draws frames whose sides are this many times smaller.
        patch: side in these pixels of the squares that SimVP sees as one pixel, but for ``plain`` and ``convlstm``.
        plain: draws whole frames instead of sliding the objects of frame 11 on, all as important as the last, with the
            optimiser of the published SimVP + U-Net; learns from videos as they are and looks at no masks of the clip.
        ssim_weight: of 1 − SSIM beside the squared error.
        tuned: what is tuned through the mask loss, one after the other: the U-Net (``segmenter``) on predicted frames,
            both networks (``joint``), both with unlabeled videos and the segmenter's masks of them too (``pseudo``,
            with which SimVP learns from them as well, as it does when ``plain``).
        tuning_steps: of each.
    """

    network: Literal["gsta", "openstl", "inception", "convlstm"] = "gsta"
    size: Size = (64, 256, 4, 8)
    downscale: Count = 2
    patch: Count = 1
    plain: bool = False
    ssim_weight: Number = 0.1
    steps: Count = 6000
    batch_size: Count = 16
    tuned: tuple[Literal["segmenter", "joint", "pseudo"], ...] = ("segmenter", "joint", "pseudo")
    tuning_steps: Count = 1000
    tuning_rate: Number = 1e-4
    learning_rate: ClassVar[float] = 1e-3
    jaccard_weight: ClassVar[float] = 1.0


@section
class JepaConfig:
    """I-JEPA, ViViT and mask decoder; what they are is fixed in ``predictors/jepa.py``.

    Attributes:
        size: the report's, what two CPU cores can try in minutes, or what only shows whether everything runs.
        pseudo: the decoder learns from unlabeled frames with the segmenter's masks first.
    """

    size: Literal["report", "quick", "smoke"] = "report"
    pseudo: bool = True


@section
class EnsembleConfig:
    """Who predicts and how it is combined.

    Attributes:
        members: predictors that vote, some of ``MEMBERS``.
        views: test-time views that members average, beside the plain one.
        decode: ``fitted`` weights and threshold, or plain ``argmax`` of the mean.
        copies: how often everything is trained, the segmenter included, each time from the next seed; probabilities
            of copies are averaged.
    """

    members: Annotated[tuple[str, ...], Field(min_length=1)] = ("objects", "masks", "frames")
    views: tuple[Literal["flip"], ...] = ("flip",)
    decode: Literal["fitted", "argmax"] = "fitted"
    copies: Count = 1


@section
class Config:
    """Everything that decides a result, apart from the data and the machine."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    edges: EdgesConfig = field(default_factory=EdgesConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    jepa: JepaConfig = field(default_factory=JepaConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)


CONFIG = TypeAdapter(Config)


def only(section, *names: str) -> dict:
    """Return these settings of a section."""
    return {name: getattr(section, name) for name in names}


def without(section, *names: str) -> dict:
    """Return the settings of a section but for these."""
    return {name: value for name, value in asdict(section).items() if name not in names}


def override(config: Config, settings: Iterable[str]) -> Config:
    """Return the config with ``section.key=value`` settings applied.

    Raises:
        UserError: a setting has no ``=``, its key is unknown (the nearest is named) or its value is impossible.
    """
    values = asdict(config)
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"--set {setting}: expected section.key=value, for example segmenter.steps=200.")
        known = dict(_places(values))
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise UserError(f"setting {name}: there is no such key; the nearest is {near[0]}.")
        place, key = known[name]
        is_list = isinstance(place[key], (tuple, list))
        place[key] = [part.strip() for part in text.strip("()[]").split(",") if part.strip()] if is_list else text
    try:
        return CONFIG.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(part for part in first["loc"] if isinstance(part, str))
        expected = first["msg"].replace("Input should be", "expected").removesuffix(" after validation")
        raise UserError(f"setting {name}: {expected}, found {first['input']!r}.") from None


def _places(values: dict, prefix: str = "") -> Iterator[tuple[str, tuple[dict, str]]]:
    """Yield the name of every setting with the dict and the key that hold its value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _places(value, f"{prefix}{key}.")
        else:
            yield prefix + key, (values, key)


def to_json(config: Config) -> str:
    """Return the config as JSON text."""
    return json.dumps(asdict(config), indent=2)


def from_json(text: str) -> Config:
    """Return the config that :func:`to_json` wrote; ``ValueError`` if it is of another version of the kit."""
    return CONFIG.validate_json(text)
