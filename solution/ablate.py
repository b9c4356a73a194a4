"""Ablations: variants of a preset, each trained from several seeds, scored on val, as one table.

Every run shares the folder of stages, so that a change costs only what it touches; finished runs are never repeated.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shlex
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.errors import UserError, exits_cleanly
from data_prep.files import read_json, write_text
from data_prep.pack import PackedSplit
from solution.config import Config, EnsembleConfig, override
from solution.evaluation import score_baselines
from solution.fates import fate_groups, fates
from solution.machine import commit
from solution.metrics import Score, score
from solution.pipeline import Pipeline, check_possible, configured
from solution.presets import PRESETS
from solution.results_table import (
    group_cells,
    group_names,
    markdown_table,
    number,
    record_result,
    with_error,
    without_paths,
)
from solution.runs import RUNS, STAGES, choose_device, default_data, default_preset, pack_and_report, standin_data

ABLATIONS = RUNS / "ablations"
Variants = dict[str, tuple[str, ...]]
"""By name, the settings of each."""


def combinations(names: Iterable[str], key: str) -> Variants:
    """Return a variant for every combination of the names."""
    names = tuple(names)
    subsets = [subset for size in range(len(names)) for subset in itertools.combinations(names, size + 1)]
    return {" + ".join(subset): (f"{key}={','.join(subset)}",) for subset in subsets}


PLAIN = ("frames.plain=true", "frames.ssim_weight=0", "frames.tuned=")

SPECS: dict[str, tuple[str, Variants]] = {
    "frames": (
        "frames",
        {
            "all tuned": (),
            "report: MSE only": (*PLAIN, "ensemble.views=", "ensemble.decode=argmax"),
            "report, views and fitted threshold": PLAIN,
            "MSE, changes only": ("frames.ssim_weight=0", "frames.tuned="),
            "MSE + SSIM, changes only": ("frames.tuned=",),
            "then U-Net tuned": ("frames.tuned=segmenter",),
            "then both tuned": ("frames.tuned=joint",),
            "then both tuned, pseudo masks too": ("frames.tuned=pseudo",),
        },
    ),
    "network": ("frames", {"SimVP": (), "ConvLSTM": ("frames.network=convlstm",)}),
    "masks": ("masks", {"at once": (), "rolled out": ("masks.form=rollout",)}),
    "jepa": ("jepa", {"pseudo masks, then labelled": (), "labelled only": ("jepa.pseudo=false",)}),
    "edges": (
        "objects",
        {
            "read off the frames": (),
            "read off the segmenter's masks": ("edges.steps=0",),
        },
    ),
    "members": ("", combinations(EnsembleConfig.members, "ensemble.members")),
    "views": ("", {"flip": (), "none": ("ensemble.views=",)}),
    "decode": ("", {"fitted": (), "argmax": ("ensemble.decode=argmax",)}),
    "copies": ("", {"one": (), "three": ("ensemble.copies=3",)}),
    "pasted": ("", {"pasted into 90%": (), "pasted into 0%": ("segmenter.pasted=0",)}),
}
"""By name, the members of its base, where those are not the preset's, and the variants."""


def parse_spec(name: str | None, vary: tuple[str, ...]) -> tuple[str, str, Variants]:
    """Return the name, the members and the variants of a ready spec, or those of ``section.key=v1,v2`` flags.

    Raises:
        UserError: both or neither is given, the name is unknown, or a flag names no values.
    """
    if (name is None) == (not vary) or (name and name not in SPECS):
        given = f", found {name!r}" if name else ""
        raise UserError(f"expected one of the specs {', '.join(SPECS)}, or --vary section.key=v1,v2{given}.")
    if name is not None:
        return name, *SPECS[name]
    variants = {}
    for flag in vary:
        key, _, values = flag.partition("=")
        if not values:
            raise UserError(f"--vary {flag}: expected section.key=v1,v2, for example segmenter.steps=200,400.")
        # Values that are lists themselves are separated by semicolons.
        parts = values.split(";" if ";" in values else ",")
        variants |= {f"{key}={value.strip()}": (f"{key}={value.strip()}",) for value in parts}
    return "vary", "", variants


def configs_of(members: str, variants: Variants, preset: Config) -> dict[str, Config]:
    """Return the config of every variant, the base first; a variant equal to another is merged with it.

    Raises:
        UserError: a setting is impossible.
    """
    base = override(preset, [f"ensemble.members={members}"] if members else [])
    configs = {label: override(base, settings) for label, settings in variants.items()}
    for label, config in ({"base": base} | configs).items():
        check_possible(config, label)
    label = next((label for label, config in configs.items() if config == base), None)
    others = {label: config for label, config in configs.items() if config != base}
    return {f"{label} (base)" if label else "base": base} | others


class Ablation:
    """The runs of one spec on one packed competition, remembered in a folder after each of them."""

    def __init__(self, name: str, configs: dict[str, Config], packed: dict[str, PackedSplit], device: torch.device):
        self.configs, self.packed, self.device = configs, packed, device
        identity = [{label: asdict(config) for label, config in configs.items()}]
        identity += [packed[split].content for split in sorted(packed)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = ABLATIONS / f"{name}-{key[:8]}"
        path = self.folder / "results.json"
        self.rows: list[dict] = read_json(path, f"delete {self.folder}") if path.is_file() else []

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """The objects of val by their fates."""
        return fate_groups(fates(self.packed["val"].masks))

    def run(self, label: str, seed: int) -> None:
        """Train a variant, predict val on the path of submit.py, score it and remember the score."""
        pipeline = Pipeline(replace(self.configs[label], seed=seed), self.packed, STAGES, self.device)
        val = self.packed["val"]
        reached = score(np.array(pipeline.predictions(val)), val.masks[:, -1], self.groups)
        minutes = sum(stage.seconds for stage in pipeline.done.values()) / 60
        self.rows.append({"label": label, "seed": seed, "minutes": minutes, "commit": commit()} | scores_of(reached))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "results.json", json.dumps(self.rows, indent=1))

    def table(self, seeds: list[int]) -> list[dict]:
        """Return one dict per variant: means over seeds, and the mean difference to the base with the same seed."""
        rows_of = {
            label: {row["seed"]: row for row in self.rows if row["label"] == label and row["seed"] in seeds}
            for label in self.configs
        }
        base = next(iter(rows_of.values()))
        table = []
        for label, rows in rows_of.items():
            jaccard = [row["jaccard"] for row in rows.values()]
            change = [row["jaccard"] - base[seed]["jaccard"] for seed, row in rows.items()]
            means = {
                name: statistics.fmean(row[name] for row in rows.values())
                for name in ("jaccard", "object_iou", "object_iou_se", "minutes")
            }
            table.append(
                {"method": label, "n": len(rows), "by_group": mean_groups(list(rows.values()))}
                | means
                | {
                    "jaccard_sd": statistics.stdev(jaccard) if len(rows) > 1 else None,
                    "difference": None if rows is base else statistics.fmean(change),
                    "difference_se": None
                    if rows is base or len(rows) < 2
                    else statistics.stdev(change) / math.sqrt(len(rows)),
                }
            )
        return table

    def baselines(self) -> list[dict]:
        """Return rows like :meth:`table`'s for what learns nothing, on the masks of the base's segmenter."""
        val = self.packed["val"]
        seen = Pipeline(next(iter(self.configs.values())), self.packed, STAGES, self.device).masks_of(val)
        scores = score_baselines(val.frames, seen, val.masks[:, -1], self.device, self.groups)
        unknown = dict.fromkeys(("jaccard_sd", "difference", "difference_se", "minutes"))
        return [{"method": name, "n": 1} | unknown | scores_of(reached) for name, reached in scores.items()]


def scores_of(reached: Score) -> dict:
    values = reached.as_json()
    return {name: values[name] for name in ("jaccard", "object_iou", "object_iou_se", "by_group", "videos")}


def mean_groups(rows: list[dict]) -> dict[str, float | None]:
    """Return the means over runs of the IoUs by group; None where a group has no objects."""
    values = {name: [row["by_group"][name] for row in rows] for name in group_names(rows)}
    return {name: None if None in ious else statistics.fmean(ious) for name, ious in values.items()}


def as_markdown(table: list[dict]) -> str:
    """Return the rows of :meth:`Ablation.table` as a Markdown table."""
    groups = group_names(table)
    header = ["change", "Jaccard ± sd", "n", "difference ± se", "object IoU ± se", *groups, "minutes"]
    rows = [
        [
            row["method"],
            with_error(row["jaccard"], row["jaccard_sd"]),
            str(row["n"]),
            with_error(row["difference"], row["difference_se"], "+.4f").replace("± +", "± "),
            with_error(row["object_iou"], row["object_iou_se"]),
            *group_cells(row, groups),
            number(row["minutes"], ".1f"),
        ]
        for row in table
    ]
    return markdown_table(header, rows)


@click.command()
@click.argument("spec", required=False, metavar=f"[{'|'.join(SPECS)}]")
@click.option(
    "--vary",
    multiple=True,
    metavar="SECTION.KEY=V1,V2",
    help="Instead of a spec: values to try, lists separated by semicolons; repeatable.",
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of every variant.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the competition. Default: as for submit.py.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Default: as for submit.py.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value of the base.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--publish", is_flag=True, help="Also record the table in solution/results.")
@exits_cleanly
def main(
    spec: str | None,
    vary: tuple[str, ...],
    seeds: int,
    data: Path | None,
    preset: str | None,
    settings: tuple[str, ...],
    device_name: str | None,
    publish: bool,
) -> None:
    """Compare variants of the solution on val: those of a ready spec, or anything with --vary.

    Interrupted at any moment, the same command goes on where it was.
    """
    name, members, variants = parse_spec(spec, vary)
    device, data = choose_device(device_name), data or default_data()
    preset = preset or default_preset(data, device)
    configs = configs_of(members, variants, configured(preset, settings))
    data = data or standin_data(device)
    packed = pack_and_report(data, required=("train", "val"))
    ablation = Ablation(name, configs, packed, device)
    first = next(iter(configs.values())).seed
    used = list(range(first, first + seeds))
    finished = {(row["label"], row["seed"]) for row in ablation.rows}
    runs = [(label, seed) for seed in used for label in configs]
    for label, seed in runs:
        if (label, seed) not in finished:
            click.echo(f"{label}, seed {seed}:")
            ablation.run(label, seed)
    table = ablation.table(used) + ablation.baselines()
    text = as_markdown(table)
    write_text(ablation.folder / "table.md", text + "\n")
    click.echo(f"\n{text}\n\n{ablation.folder}/table.md")
    if publish:
        words = (word for word in without_paths(sys.argv[1:]) if word != "--publish")
        train, val = len(packed["train"]), len(packed["val"])
        record_result(
            f"ablate-{name}",
            table,
            command=shlex.join(["python", "-m", "solution.ablate", *words]),
            seeds=used,
            data=f"{train} train videos of {data.name}, scored on {val} of val, preset {preset}",
            device=device,
            note="Minutes are those of all stages from nothing, shared ones included.",
        )


if __name__ == "__main__":
    main()
