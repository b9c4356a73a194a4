"""What each choice is worth: one config value, or a named combination, changed at a time against a base run.

Every run shares the folder of stages, so a change costs only what it touches; finished runs are never repeated.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch

from data_prep.errors import UserError, exits_cleanly
from data_prep.files import read_json, write_text
from data_prep.pack import PackedSplit
from solution.config import CHOICES, Config, EnsembleConfig, override
from solution.evaluation import score_baselines
from solution.fates import fate_groups, fates
from solution.machine import commit
from solution.metrics import score
from solution.pipeline import Pipeline, check_possible, configured
from solution.presets import PRESETS
from solution.results_table import (
    RESULTS,
    group_cells,
    group_names,
    markdown_table,
    number,
    record_result,
    with_error,
    without_paths,
)
from solution.runs import RUNS, STAGES, Positive, choose_device, default_data, pack_and_report, standin_data
from solution.stages import Stage, stage_key

ABLATIONS = RUNS / "ablations"
MEMBERS, VIEWS = EnsembleConfig.members, EnsembleConfig.views


@dataclass(frozen=True)
class Spec:
    """An experiment: settings of its base beside the preset's, and by name what each variant sets on top."""

    base: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]


def subsets(names: Iterable[str], key: str, least: int) -> dict[str, tuple[str, ...]]:
    """Return a variant for every combination of at least so many of the names."""
    names = tuple(names)
    chosen = (c for size in range(least, len(names) + 1) for c in itertools.combinations(names, size))
    return {" + ".join(some) or "none": (f"{key}={','.join(some)}",) for some in chosen}


def tuned(*kinds: str) -> tuple[str, ...]:
    """Return the settings that leave of the frame predictor's fine-tuning these kinds."""
    return tuple(f"frames.{kind}_steps=0" for kind in ("segmenter", "joint", "pseudo") if kind not in kinds)


REPORT_FRAMES = ("frames.residual=false", "frames.ssim_weight=0", "frames.last_weight=1", "frames.weight_decay=0")

SPECS = {
    "frames": Spec(
        ("ensemble.members=frames",),
        {
            "all tuned": (),
            "report: MSE only": (*REPORT_FRAMES, *tuned(), "ensemble.views=", "ensemble.decode=argmax"),
            "report, views and fitted threshold": (*REPORT_FRAMES, *tuned()),
            "MSE, changes only": ("frames.ssim_weight=0", *tuned()),
            "MSE + SSIM, changes only": tuned(),
            "then U-Net tuned": tuned("segmenter"),
            "then both tuned": tuned("joint"),
            "then both tuned, pseudo masks too": tuned("pseudo"),
        },
    ),
    "masks": Spec(
        ("ensemble.members=masks",),
        {
            "slots apart, at once": (),
            "slots apart, rolled out": ("masks.form=rollout",),
            "slots as channels, at once": ("masks.separate=false",),
            "49 classes, at once": ("masks.slots=48",),
        },
    ),
    "loss": Spec(
        ("ensemble.members=frames",),
        {"squared error": ("frames.ssim_weight=0",)}
        | {f"squared error + {weight} (1 − SSIM)": (f"frames.ssim_weight={weight}",) for weight in (0.03, 0.1, 0.3)},
    ),
    "views": Spec((), subsets(VIEWS, "ensemble.views", 0)),
    "members": Spec((), subsets(MEMBERS, "ensemble.members", 1)),
    "segmenter": Spec(
        (),
        {encoder: (f"segmenter.encoder={encoder}",) for encoder in ("resnet18", "resnet34", "efficientnet-b0")}
        | {"with region loss": ("segmenter.region_weight=0.5",), "no region loss": ("segmenter.region_weight=0",)},
    ),
    "pasted": Spec((), {f"pasted into {share:.0%}": (f"segmenter.pasted={share}",) for share in (0.9, 0.0)}),
    "jepa": Spec(
        ("ensemble.members=jepa",),
        {"pseudo masks, then labelled": (), "labelled only": ("jepa.decoder.pseudo_steps=0",)},
    ),
    "network": Spec(
        ("ensemble.members=frames",),
        {"SimVP": ("frames.network=simvp",), "ConvLSTM": ("frames.network=convlstm",)},
    ),
    "dynamics": Spec(
        ("ensemble.members=objects",),
        {kind: (f"objects.dynamics={kind}",) for kind in CHOICES["objects.dynamics"]}
        | {"interactions": ("objects.dynamics=interactions", "objects.modes=6")},
    ),
    "augmented": Spec(
        ("ensemble.members=objects", "objects.dynamics=direct"),
        {
            " + ".join(kinds) or "none": (f"objects.augmented={','.join(kinds)}",)
            for kinds in ((), ("floor",), ("floor", "bystanders"), ("floor", "later"), ("floor", "bystanders", "later"))
        },
    ),
    "edges": Spec(
        ("ensemble.members=objects",),
        {
            "learned from what a first training sees": ("edges.first_share=0.5",),
            "learned from the labels' places": ("edges.first_share=0",),
            "read off the segmenter's masks": ("objects.edges=masks",),
        },
    ),
    "copies": Spec((), {"one": (), "three": ("ensemble.copies=3",)}),
    "decode": Spec((), {"argmax": ("ensemble.decode=argmax",), "fitted": ("ensemble.decode=fitted",)}),
}


def parse_spec(name: str | None, vary: tuple[str, ...]) -> tuple[str, Spec]:
    """Return the ready spec of a name, or the one that ``section.key=v1,v2`` flags describe, and its name.

    Raises:
        UserError: both or neither is given, the name is unknown, or a flag names no values.
    """
    if (name is None) == (not vary):
        raise UserError(f"expected one of the specs {', '.join(SPECS)}, or --vary section.key=v1,v2.")
    if name is not None:
        if name not in SPECS:
            raise UserError(f"there is no spec {name!r}; expected {', '.join(SPECS)}, or --vary section.key=v1,v2.")
        return name, SPECS[name]
    variants = {}
    for flag in vary:
        key, _, values = flag.partition("=")
        if not values:
            raise UserError(f"--vary {flag}: expected section.key=v1,v2, for example objects.layers=2,4.")
        # Values that are lists themselves are separated by semicolons.
        parts = values.split(";" if ";" in values else ",")
        variants |= {f"{key}={value.strip()}": (f"{key}={value.strip()}",) for value in parts}
    return "vary", Spec((), variants)


def configs_of(spec: Spec, preset: Config) -> dict[str, Config]:
    """Return the config of every variant, the base first; a variant equal to another is merged with it.

    Raises:
        UserError: a setting is impossible.
    """
    base = override(preset, spec.base)
    found = {label: override(base, settings) for label, settings in spec.variants.items()}
    for label, config in ({"base": base} | found).items():
        check_possible(config, label)
    label = next((label for label, config in found.items() if config == base), None)
    others = {label: config for label, config in found.items() if config != base}
    return {f"{label} (base)" if label else "base": base} | others


class Plan(Pipeline):
    """A pipeline that names the stages it would need and builds none."""

    def stage(self, name: str, decided_by: dict, build: Callable[[Path], None]) -> Stage:
        key = stage_key(name, decided_by)
        folder = self.root / f"{name}-{key[:12]}"
        known = (folder / "done.json").is_file()
        seconds = 0.0 if known else estimated_seconds(self.root, name, decided_by)
        self.done[name + self.number] = Stage(folder, key, seconds)
        return self.done[name + self.number]


def estimated_seconds(root: Path, name: str, decided_by: dict) -> float:
    """Return what the most similar finished stage of this name took, in proportion to its steps; nan without one."""
    wanted, best, seconds = leaves(decided_by), -1, math.nan
    for marker in sorted(root.glob(f"{name}-*/done.json")):
        record = json.loads(marker.read_text())
        found = leaves(record["decided_by"])
        alike = sum(found.get(path) == value for path, value in wanted.items())
        if alike > best:
            steps = [each.get("config/steps", 1) for each in (wanted, found)]
            best, seconds = alike, record["seconds"] * steps[0] / max(1, steps[1])
    return seconds


def leaves(value, path: str = "") -> dict[str, object]:
    """Return the values of nested dicts and lists by their path, those under ``config`` separated by slashes."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}/{key}" if path else key).items()}
    if isinstance(value, (list, tuple)):
        return {path: json.dumps(value)}
    return {path: value}


@dataclass(frozen=True)
class Job:
    """One run: a variant with one seed."""

    label: str
    config: Config

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.config.seed}"


def plan(jobs: list[Job], needs: Callable[[Job], dict[Path, float]], seconds: float) -> dict[Job, float | None]:
    """Return the seconds each job is expected to take, in order, and None for those that do not fit any more.

    Args:
        jobs: in the order in which they will run.
        needs: maps a job to the missing stages and what each takes; nan where nobody knows, which counts as nothing.
        seconds: there are.
    """
    made: set[Path] = set()
    found = {}
    for job in jobs:
        missing = {folder: cost for folder, cost in needs(job).items() if folder not in made}
        cost = sum(value for value in missing.values() if not math.isnan(value))
        fits = cost <= seconds
        found[job] = cost if fits else None
        if fits:
            made |= missing.keys()
            seconds -= cost
    return found


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

    def jobs(self, seeds: list[int]) -> list[Job]:
        """Return what is still to be run, all variants of a seed before the next."""
        finished = {(row["label"], row["seed"]) for row in self.rows}
        return [
            Job(label, replace(config, seed=seed))
            for seed in seeds
            for label, config in self.configs.items()
            if (label, seed) not in finished
        ]

    def needs(self, job: Job) -> dict[Path, float]:
        """Return the stages a job would have to build and the seconds each is expected to take."""
        pipeline = Plan(job.config, self.packed, STAGES, self.device)
        pipeline.predicted(self.packed["val"])
        missing = (stage for stage in pipeline.done.values() if not (stage.folder / "done.json").is_file())
        return {stage.folder: stage.seconds for stage in missing}

    def run(self, job: Job) -> None:
        """Train what a job needs, predict val on the path of submit.py, score it and remember the score."""
        pipeline = Pipeline(job.config, self.packed, STAGES, self.device)
        val = self.packed["val"]
        found = score(np.array(pipeline.predictions(val)), val.masks[:, -1], self.groups)
        stages = pipeline.done.values()
        self.rows.append(
            {
                "label": job.label,
                "seed": job.config.seed,
                "jaccard": found.jaccard,
                "object_iou": found.object_iou,
                "object_iou_se": found.object_iou_se,
                "by_group": found.as_json()["by_group"],
                "videos": found.videos,
                "minutes": sum(stage.seconds for stage in stages) / 60,
                "peak_gib": max((stage.peak_gib for stage in stages if stage.peak_gib), default=None),
                "stages": {name: stage.seconds for name, stage in pipeline.done.items()},
                "commit": commit(),
            }
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "results.json", json.dumps(self.rows, indent=1))

    def summary(self, seeds: list[int]) -> list[dict]:
        """Return one dict per variant that ran: means over seeds, and the paired difference to the base."""
        found = {
            label: {row["seed"]: row for row in self.rows if row["label"] == label and row["seed"] in seeds}
            for label in self.configs
        }
        base = found[next(iter(self.configs))]
        table = []
        for label, rows in found.items():
            if not rows:
                continue
            scores = [row["jaccard"] for row in rows.values()]
            change = [row["jaccard"] - base[seed]["jaccard"] for seed, row in rows.items() if seed in base]
            is_base = rows is base
            peaks = [row["peak_gib"] for row in rows.values() if row["peak_gib"]]
            table.append(
                {
                    "method": label,
                    "jaccard": statistics.fmean(scores),
                    "jaccard_sd": statistics.stdev(scores) if len(scores) > 1 else None,
                    "n": len(scores),
                    "difference": statistics.fmean(change) if change and not is_base else None,
                    "difference_se": statistics.stdev(change) / math.sqrt(len(change))
                    if len(change) > 1 and not is_base
                    else None,
                    "object_iou": statistics.fmean(row["object_iou"] for row in rows.values()),
                    "object_iou_se": statistics.fmean(row["object_iou_se"] for row in rows.values()),
                    "by_group": mean_groups(list(rows.values())),
                    "minutes": statistics.fmean(row["minutes"] for row in rows.values()),
                    "peak_gib": max(peaks, default=None),
                }
            )
        return table

    def baselines(self) -> list[dict]:
        """Return rows like :meth:`summary`'s for what learns nothing, on the masks of the base's segmenter."""
        val = self.packed["val"]
        seen = Pipeline(next(iter(self.configs.values())), self.packed, STAGES, self.device).masks_of(val)
        unknown = dict.fromkeys(("jaccard_sd", "difference", "difference_se", "minutes", "peak_gib"))
        table = []
        for name, found in score_baselines(val.frames, seen, val.masks[:, -1], self.device, self.groups).items():
            scores = {key: getattr(found, key) for key in ("jaccard", "object_iou", "object_iou_se")}
            table.append({"method": name, "n": 1} | unknown | scores | {"by_group": found.as_json()["by_group"]})
        return table


def mean_groups(rows: list[dict]) -> dict[str, float | None]:
    """Return the means over runs of the IoUs by group; None where a group has no objects."""
    values = {name: [row["by_group"][name] for row in rows if "by_group" in row] for name in group_names(rows)}
    return {name: None if None in found else statistics.fmean(found) for name, found in values.items()}


def as_markdown(table: list[dict]) -> str:
    """Return the summary as a Markdown table."""
    groups = group_names(table)
    header = ["change", "Jaccard ± sd", "n", "difference ± se", "object IoU ± se", *groups, "minutes", "peak GiB"]
    rows = [
        [
            row["method"],
            with_error(row["jaccard"], row["jaccard_sd"]),
            str(row["n"]),
            with_error(row["difference"], row["difference_se"], "+.4f").replace("± +", "± "),
            with_error(row["object_iou"], row["object_iou_se"]),
            *group_cells(row, groups),
            number(row["minutes"], ".1f"),
            number(row["peak_gib"], ".1f"),
        ]
        for row in table
    ]
    return markdown_table(header, rows)


def as_csv(table: list[dict]) -> str:
    """Return the summary as CSV, numbers in full."""
    text = io.StringIO()
    flat = [{name: value for name, value in row.items() if name != "by_group"} | row["by_group"] for row in table]
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)))
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def draw_table(table: list[dict], rows: list[dict], path: Path) -> None:
    """Draw every run as a dot and every variant's mean ± sd, Jaccard and object IoU side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 1.2 + 0.35 * len(table)), sharey=True)
    places = range(len(table))
    for panel, value, error, title in (
        (panels[0], "jaccard", "jaccard_sd", "Jaccard, mean ± sd over seeds"),
        (panels[1], "object_iou", "object_iou_se", "object IoU ± standard error over objects"),
    ):
        means, errors = [row[value] for row in table], [row[error] or 0 for row in table]
        panel.axvline(means[0], color="0.75", linewidth=1)
        panel.errorbar(means, places, xerr=errors, fmt="D", color="#0072B2", capsize=3, markersize=5)
        for place, row in zip(places, table, strict=True):
            runs = [run[value] for run in rows if run["label"] == row["method"]]
            panel.plot(runs, [place + 0.2] * len(runs), "o", color="#E69F00", markersize=3)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [row["method"] for row in table])
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@click.command()
@click.argument("spec", required=False)
@click.option(
    "--vary",
    multiple=True,
    metavar="SECTION.KEY=V1,V2",
    help="Instead of SPEC: values to try, lists separated by semicolons; repeatable.",
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of every variant.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the competition. Default: as for submit.py.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="quick", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value of the base.")
@click.option("--minutes", type=Positive(), help="Leave out runs that do not fit.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--publish", is_flag=True, help="Also record the table in solution/results, for the README.")
@exits_cleanly
def main(
    spec: str | None,
    vary: tuple[str, ...],
    seeds: int,
    data: Path | None,
    preset: str,
    settings: tuple[str, ...],
    minutes: float | None,
    device_name: str | None,
    publish: bool,
) -> None:
    """Compare variants of the solution on val, those of SPEC or --vary anything.

    SPEC is frames, network, masks, jepa, dynamics, augmented, edges, loss, views, members, segmenter, pasted, copies or
    decode. Interrupted at any moment, the same command goes on where it was.
    """
    start = time.perf_counter()
    name, chosen = parse_spec(spec, vary)
    configs = configs_of(chosen, configured(preset, settings))
    device = choose_device(device_name)
    data = data or default_data() or standin_data(device)
    packed = pack_and_report(data, required=("train", "val"))
    if "val" not in packed:
        raise UserError(f"{data} has no val split to score on; name a competition that has one.")
    ablation = Ablation(name, configs, packed, device)
    first = next(iter(configs.values())).seed
    used = list(range(first, first + seeds))
    left_out = run_all(ablation, used, minutes, start)
    table = ablation.summary(used)
    if not table:
        raise UserError(f"not one run fits into {minutes:g} minutes; give --minutes more.")
    table += ablation.baselines()
    text = as_markdown(table)
    if left_out:
        text += "\n\nLeft out: " + "; ".join(left_out) + "."
    write_text(ablation.folder / "table.md", text + "\n")
    write_text(ablation.folder / "table.csv", as_csv(table))
    draw_table(table, [row for row in ablation.rows if row["seed"] in used], ablation.folder / "table.png")
    click.echo(f"\n{text}\n\n{ablation.folder}/table.md, table.csv, table.png")
    if publish:
        videos = ablation.rows[0]["videos"]
        given = (word for word in without_paths(sys.argv[1:]) if word != "--publish")
        record_result(
            RESULTS / f"ablate-{name}.json",
            table,
            command=shlex.join(["python", "-m", "solution.ablate", *given]),
            seeds=used,
            data=f"{len(packed['train'])} train videos of {data.name}, scored on {videos} of val, preset {preset}",
            device=device,
            note="Minutes are those of all stages from nothing, shared ones included.",
        )


def run_all(ablation: Ablation, seeds: list[int], minutes: float | None, start: float) -> list[str]:
    """Run what is missing and fits, printing what comes; return what was left out and why."""
    total = math.inf if minutes is None else 60 * minutes
    jobs = ablation.jobs(seeds)
    finished = len(ablation.configs) * len(seeds) - len(jobs)
    click.echo(f"{ablation.folder}: {finished} runs are finished, {len(jobs)} to go.")
    if minutes is not None:
        for job, cost in plan(jobs, ablation.needs, total - (time.perf_counter() - start)).items():
            click.echo(f"  {job.name}: {describe(job, cost, ablation)}")
    left_out = []
    for job in jobs:
        remaining = total - (time.perf_counter() - start)
        if plan([job], ablation.needs, remaining)[job] is None:
            left_out.append(f"{job.name} ({describe(job, None, ablation)}, {max(0.0, remaining) / 60:.1f} were left)")
            continue
        click.echo(f"{job.name}:")
        ablation.run(job)
    return left_out


def describe(job: Job, cost: float | None, ablation: Ablation) -> str:
    """Say what a job is expected to take, from what like stages took before."""
    costs = ablation.needs(job)
    unknown = sorted(folder.name.rsplit("-", 1)[0] for folder, value in costs.items() if math.isnan(value))
    known = sum(value for value in costs.values() if not math.isnan(value)) / 60
    if cost is None:
        return f"left out, needs about {known:.1f} minutes"
    beside = f", and nobody knows yet what {', '.join(unknown)} takes" if unknown else ""
    return f"about {cost / 60:.1f} minutes{beside}"


if __name__ == "__main__":
    main()
