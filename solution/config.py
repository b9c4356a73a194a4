"""Every setting: frozen sections with recommended defaults, and typed overrides of them; nothing here trains.

The merged result is saved as JSON beside what it produced.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace

from data_prep.errors import UserError


@dataclass(frozen=True)
class SegmenterConfig:
    """The U-Net and how it is trained.

    Attributes:
        downscale: 2 works at half resolution.
        region_weight: share of the Dice loss beside cross-entropy.
        pasted: share of the crops into which another frame's objects are put.
    """

    encoder: str = "resnet34"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 64, 64)
    downscale: int = 1
    crop: tuple[int, int] = (128, 128)
    steps: int = 6000
    batch: int = 64
    learning_rate: float = 2e-3
    region_weight: float = 0.5
    pasted: float = 0.9


@dataclass(frozen=True)
class EdgesConfig:
    """The network and how it is trained; ``batch`` counts outlines.

    Attributes:
        first_share: of the steps, so many more in a first training, which learns where the labelled objects are from
            their masks; the second learns it from what the first then sees. 0: there is none.
    """

    width: int = 160
    first_share: float = 0.5
    steps: int = 6_000
    batch: int = 192
    learning_rate: float = 3e-3

    @property
    def first_steps(self) -> int:
        """Of the first training."""
        return round(self.first_share * self.steps)


@dataclass(frozen=True)
class ObjectsConfig:
    """How the objects predictor is built and trained; the defaults are for all videos and a GPU."""

    dynamics: str = "simulated"
    """``simulated``: the simulator alone; ``corrected``: a network corrects it. Without it, ``direct``: a network says
    where all objects will be; ``interactions``: it says in what state they are, and moves them step by step,
    at a cost that grows with ``modes`` (6 were tried)."""
    augmented: tuple[str, ...] = ("floor", "bystanders", "later")
    """What a network learns from: clips on a ``floor`` mirrored, turned and shifted, clips without some ``bystanders``
    (whom a rollout still has; one version in a hundred is hit by one) and, unless it corrects the simulator, clips that
    start ``later``."""
    edges: str = "frames"
    """Where places are read off: ``frames``, if there are any, or the segmenter's ``masks``."""
    modes: int = 48
    """Trajectories per object, of which the first follows the mean state."""
    samples: int = 96
    """Positions per object that a probability is averaged from."""
    width: int = 256
    layers: int = 6
    steps: int = 60_000
    batch_size: int = 128
    learning_rate: float = 1e-3

    @property
    def simulates(self) -> bool:
        return self.dynamics in ("simulated", "corrected")


@dataclass(frozen=True)
class MasksConfig:
    """The mask predictor's network and training; the defaults are for a GPU.

    Attributes:
        form: ``oneshot`` predicts all horizons together, ``rollout`` one frame eleven times.
        slots: how many objects a clip may have; 48 gives every class its own, without any relabelling.
        separate: every slot passes through SimVP by itself, beside all others together, instead of as one channel of
            many; the order of slots is then of no consequence. Not if every class has its own slot.
        downscale: 2 sees and predicts every second pixel of a row and of a column and interpolates logits, and so on.
        patch: side in these pixels of the squares that SimVP sees as one pixel.
        horizons: how many of the last frames ``oneshot`` predicts.
        last_weight: of frame 22's cross-entropy in oneshot, where the other horizons weigh 1.
        jaccard_weight: of frame 22's soft Jaccard.
    """

    form: str = "oneshot"
    slots: int = 8
    separate: bool = True
    downscale: int = 2
    patch: int = 2
    horizons: int = 11
    translator: str = "gsta"
    hid_S: int = 64
    hid_T: int = 512
    N_S: int = 4
    N_T: int = 8
    last_weight: float = 3.0
    jaccard_weight: float = 1.0
    steps: int = 4000
    batch_size: int = 16
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class FramesConfig:
    """SimVP's size and training, and how long each kind of fine-tuning goes on; the defaults are for a GPU.

    Attributes:
        network: ``simvp``, or in its place ``convlstm`` with ``N_S`` layers of ``hid_S`` channels, for comparison.
        downscale: SimVP sees and draws frames whose sides are this many times smaller.
        residual: SimVP draws what changes after frame 11, ConvLSTM what changes at every step, and not whole frames.
        ssim_weight: of 1 − SSIM beside the squared error.
        last_weight: of frame 22's error, where the other predicted frames weigh 1.
        segmenter_steps: of the U-Net on predicted frames; 0 is off, here and below.
        joint_steps: of both networks through the mask loss.
        pseudo_steps: the same with unlabeled videos, whose masks come from the segmenter.
        jaccard_weight: of the soft Jaccard in fine-tuning.
    """

    network: str = "simvp"
    translator: str = "gsta"
    hid_S: int = 64
    hid_T: int = 256
    N_S: int = 4
    N_T: int = 8
    downscale: int = 2
    residual: bool = True
    ssim_weight: float = 0.1
    last_weight: float = 3.0
    steps: int = 6000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    segmenter_steps: int = 500
    joint_steps: int = 1000
    pseudo_steps: int = 1000
    tuning_rate: float = 1e-4
    jaccard_weight: float = 1.0


@dataclass(frozen=True)
class EncoderConfig:
    """I-JEPA, encoder and predictor of one size; the defaults are the report's, for 13,900 videos.

    Attributes:
        momentum: of the target encoder at first; it ends at 1.
        epochs: equal parts of the steps; each ends with a look at the features.
    """

    width: int = 192
    layers: int = 12
    heads: int = 3
    momentum: float = 0.996
    epochs: int = 300
    steps: int = 44_800
    batch_size: int = 2048
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class GeneratorConfig:
    """ViViT of the report's size; steps and rate are ours.

    Attributes:
        pixel_weight: of the squared error of pixels, beside that of features; the report has none.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    pixel_weight: float = 0.0
    steps: int = 40_000
    batch_size: int = 16
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class DecoderConfig:
    """The mask decoder, as wide as the encoder, and how long, in steps of ours, it learns from what; 0 is off.

    Attributes:
        pseudo_steps: on frames of unlabeled videos with the segmenter's masks.
        labelled_steps: on frames with true masks, then.
        tuning_steps: on drawn frames 22 with true masks, last.
        tuning_rate: the learning rate of these.
    """

    layers: int = 6
    heads: int = 3
    pseudo_steps: int = 20_000
    labelled_steps: int = 10_000
    tuning_steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 1e-3
    tuning_rate: float = 1e-4


@dataclass(frozen=True)
class JepaConfig:
    """The three networks and their training."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


@dataclass(frozen=True)
class EnsembleConfig:
    """Who predicts and how it is combined.

    Attributes:
        members: predictors that vote, of ``objects``, ``masks``, ``frames`` and ``jepa``.
        views: symmetries used at test time, of ``flip``, ``slots`` and ``turn``; members use those they learned.
        view_count: how many views of a clip a member averages, at most.
        decode: ``fitted`` threshold or plain ``argmax``.
        copies: how often everything is trained, the segmenter included, each time from the next seed; probabilities
            of copies are averaged.
    """

    members: tuple[str, ...] = ("objects", "masks", "frames")
    views: tuple[str, ...] = ("flip", "slots", "turn")
    view_count: int = 8
    decode: str = "fitted"
    copies: int = 1


@dataclass(frozen=True)
class Config:
    """Everything that decides a result, apart from the data and the machine."""

    seed: int = 0
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    edges: EdgesConfig = field(default_factory=EdgesConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    jepa: JepaConfig = field(default_factory=JepaConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)


CHOICES = {
    "ensemble.members": ("objects", "masks", "frames", "jepa"),
    "ensemble.views": ("flip", "slots", "turn"),
    "ensemble.decode": ("fitted", "argmax"),
    "objects.edges": ("frames", "masks"),
    "objects.augmented": ("floor", "bystanders", "later"),
    "objects.dynamics": ("simulated", "interactions", "direct", "corrected"),
    "masks.form": ("oneshot", "rollout"),
    "masks.translator": ("inception", "gsta"),
    "frames.network": ("simvp", "convlstm"),
    "frames.translator": ("inception", "gsta"),
}


LARGEST_SEED = 2**31 - 1
"""That generators of random numbers take."""
AT_LEAST_ONE = frozenset(
    {
        "batch",
        "batch_size",
        "copies",
        "crop",
        "decoder_channels",
        "downscale",
        "heads",
        "hid_S",
        "hid_T",
        "layers",
        "modes",
        "N_S",
        "N_T",
        "patch",
        "samples",
        "slots",
        "steps",
        "view_count",
        "width",
    }
)
"""Keys of any section; 0 of another number switches something off."""
SHARES = frozenset({"first_share", "momentum", "pasted"})


def override(config: Config, settings: Iterable[str]) -> Config:
    """Return the config with ``section.key=value`` settings applied.

    Raises:
        UserError: a setting has no ``=``, its key is unknown (the nearest is named) or its value has another type.
    """
    for setting in settings:
        name, found, text = setting.partition("=")
        if not found:
            raise UserError(f"--set {setting}: expected section.key=value, for example segmenter.steps=200.")
        config = _replaced(config, name.strip().split("."), text.strip(), name.strip())
    return config


def _replaced(section, path: list[str], text: str, name: str):
    kinds = typing.get_type_hints(type(section))
    if path[0] not in kinds or (len(path) > 1) != is_dataclass(kinds[path[0]]):
        known = list(_names(Config()))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0) or known[:1]
        raise UserError(f"setting {name}: there is no such key; the nearest is {near[0]}.")
    if len(path) > 1:
        return replace(section, **{path[0]: _replaced(getattr(section, path[0]), path[1:], text, name)})
    value = _parsed(kinds[path[0]], text, name)
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if name in CHOICES and part not in CHOICES[name]:
            raise UserError(f"setting {name}: expected one of {', '.join(CHOICES[name])}, found {part!r}.")
    if name == "ensemble.members" and (not parts or len(set(parts)) < len(parts)):
        raise UserError(f"setting {name}: expected one or more different members, found {text!r}.")
    least = 1 if path[0] in AT_LEAST_ONE else 0
    most = 1 if path[0] in SHARES else LARGEST_SEED if name == "seed" else math.inf
    for part in parts:
        if isinstance(part, (int, float)) and not (math.isfinite(part) and least <= part <= most):
            limits = f"at least {least}" if math.isinf(most) else f"{least} to {most}"
            raise UserError(f"setting {name}: expected a number of {limits}, found {part}.")
    return replace(section, **{path[0]: value})


def _names(section, prefix: str = ""):
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from _names(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def _parsed(kind, text: str, name: str):
    """Return ``text`` as a value of the annotated type ``kind``."""
    if isinstance(kind, types.UnionType):
        if text.lower() == "none":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    try:
        if typing.get_origin(kind) is tuple:
            parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
            count = len(typing.get_args(kind))
            if ... not in typing.get_args(kind) and len(parts) != count:
                raise UserError(f"setting {name}: expected {count} values, found {text!r}.")
            return tuple(_parsed(typing.get_args(kind)[0], part, name) for part in parts)
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        wanted = getattr(kind, "__name__", str(kind))
        raise UserError(f"setting {name}: expected a value of type {wanted}, found {text!r}.") from None


def to_json(config: Config) -> str:
    """Return the config as JSON text."""
    return json.dumps(asdict(config), indent=2)


def from_json(text: str) -> Config:
    """Return the config that :func:`to_json` wrote."""
    return _from_dict(Config, json.loads(text))


def _from_dict(kind, values: dict):
    kinds = typing.get_type_hints(kind)
    return kind(
        **{
            name: _from_dict(kinds[name], value)
            if is_dataclass(kinds[name])
            else tuple(value)
            if isinstance(value, list)
            else value
            for name, value in values.items()
        }
    )
