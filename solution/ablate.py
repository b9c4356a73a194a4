"""Ablations: variants of a preset, each trained from several seeds, scored on val, as one table.

All runs share the folder of stages, so that a change costs only what it touches and what is finished is never repeated.
"""

import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.errors import UserError, exits_cleanly
from data_prep.files import write_text
from data_prep.pack import PackedSplit
from solution.config import Config, EnsembleConfig, override
from solution.evaluation import compare, fates_of
from solution.fates import fate_groups
from solution.metrics import score
from solution.pipeline import Pipeline, check_possible, configured
from solution.presets import PRESETS
from solution.results_table import record_result, score_row, score_table
from solution.runs import RUNS, STAGES, choose_device, default_data, default_preset, pack_and_report, standin_data
from solution.stages import stage_key

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
            "MSE only": ("frames.ssim_weight=0", "frames.tuned="),
            "MSE + SSIM": ("frames.tuned=",),
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


def run(config: Config, packed: dict[str, PackedSplit], device: torch.device, groups: dict[str, np.ndarray]) -> dict:
    """Train a config, predict val on the path of submit.py and return the row of its score; see ``score_row``."""
    pipeline, val = Pipeline(config, packed, STAGES, device), packed["val"]
    reached = score(np.array(pipeline.predictions(val)), val.masks[:, -1], groups)
    return score_row("", reached, sum(stage.seconds for stage in pipeline.done.values()) / 60)


def summary(label: str, rows: list[dict], base: list[dict]) -> dict:
    """Return the row of a variant: means over seeds, and of the differences to the base with the same seed."""
    jaccard = [row["jaccard"] for row in rows]
    change = [row["jaccard"] - other["jaccard"] for row, other in zip(rows, base, strict=True)]
    several = len(rows) > 1
    means = {
        name: statistics.fmean(row[name] for row in rows)
        for name in ("jaccard", "object_iou", "object_iou_se", "minutes")
    }
    by_group = {name: [row["by_group"][name] for row in rows] for name in rows[0]["by_group"]}
    row = {
        "method": label,
        "n": len(rows),
        "by_group": {name: None if None in ious else statistics.fmean(ious) for name, ious in by_group.items()},
        "jaccard_sd": statistics.stdev(jaccard) if several else None,
    }
    if rows is not base:
        row["difference"] = statistics.fmean(change)
        row["difference_se"] = statistics.stdev(change) / math.sqrt(len(rows)) if several else None
    return row | means


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
    base = Pipeline(next(iter(configs.values())), packed, STAGES, device)
    val = packed["val"]
    groups = fate_groups(fates_of(base, val))
    used = [base.config.seed + n for n in range(seeds)]
    rows: dict[str, list[dict]] = {label: [] for label in configs}
    for seed in used:
        for label, config in configs.items():
            click.echo(f"{label}, seed {seed}:")
            rows[label].append(run(replace(config, seed=seed), packed, device, groups))
    table = [summary(label, of_variant, next(iter(rows.values()))) for label, of_variant in rows.items()]
    baselines = compare(base, val, {}, val.masks[:, -1], None, groups)
    table += [score_row(method, reached) for method, reached in baselines.items()]
    text = score_table(table, with_difference=True)
    decided_by = {"configs": [asdict(config) for config in configs.values()], "data": val.content, "seeds": used}
    path = ABLATIONS / f"{name}-{stage_key(name, decided_by)[:8]}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")
    click.echo(f"\n{text}\n\n{path}")
    if publish:
        record_result(
            f"ablate-{name}",
            table,
            seeds=used,
            data=f"{len(packed['train'])} train videos of {data.name}, scored on {len(val)} of val, preset {preset}",
            device=device,
            note="Minutes are those of all stages from nothing, shared ones included.",
        )


if __name__ == "__main__":
    main()
