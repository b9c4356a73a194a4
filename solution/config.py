"""One configuration for everything: frozen sections with recommended defaults, presets, and typed overrides.

A preset is a value; the merged result is saved as JSON beside what it produced.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace

import torch

from data_prep.errors import UserError
from solution.edges import EdgesConfig
from solution.ensemble import EnsembleConfig
from solution.members import MEMBERS
from solution.models.simvp import TRANSLATORS
from solution.predictors.frames import NETWORKS, FramesConfig
from solution.predictors.jepa import JepaConfig
from solution.predictors.masks import MasksConfig
from solution.predictors.objects import ObjectsConfig
from solution.segmenter import SegmenterConfig, build_segmenter


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
    "ensemble.members": tuple(MEMBERS),
    "ensemble.views": ("flip", "slots", "turn"),
    "ensemble.decode": ("fitted", "argmax"),
    "objects.edges": ("frames", "masks"),
    "objects.augmented": ("floor", "bystanders", "later"),
    "objects.dynamics": ("simulated", "interactions", "direct", "corrected"),
    "masks.form": ("oneshot", "rollout"),
    "masks.translator": tuple(TRANSLATORS),
    "frames.network": tuple(NETWORKS),
    "frames.translator": tuple(TRANSLATORS),
}


def check_possible(config: Config, label: str) -> None:
    """Build what can be built in no time, so that an impossible value is refused before hours of work.

    Raises:
        UserError: names the ``label``.
    """
    failed = None
    for device in ("meta", "cpu"):  # some encoders look at values while they are built
        try:
            with torch.device(device):
                build_segmenter(config.segmenter)
                for member in config.ensemble.members:
                    MEMBERS[member].networks(config)
            return
        except (KeyError, ValueError, RuntimeError, AssertionError) as error:
            failed = error
    text = str(failed.args[0] if failed.args else failed).splitlines()[0]
    raise UserError(f"{label}: its networks cannot be built: {text[:100].rstrip('.')}.")


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
