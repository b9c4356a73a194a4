"""Train one stage, and whatever it needs, without predicting anything."""

from pathlib import Path

import click

from data_prep.errors import exits_cleanly
from solution import processes
from solution.pipeline import MAKERS, Pipeline, configured
from solution.presets import PRESETS
from solution.runs import (
    STAGES,
    choose_device,
    default_data,
    default_preset,
    pack_and_report,
    run_folder,
    save_run,
    standin_data,
)


@click.command()
@click.argument("stage", type=click.Choice(list(MAKERS)))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the competition. Default: as submit.py.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Default: as submit.py.")
@click.option("--run", "run_name", help="Name to remember this run by. Default: the preset's name.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value; repeatable.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@exits_cleanly
@processes.together
def main(
    stage: str,
    data: Path | None,
    preset: str | None,
    run_name: str | None,
    settings: tuple[str, ...],
    device_name: str | None,
) -> None:
    """Train STAGE and the stages it needs; submit.py with the same preset and settings finds them done."""
    device, data = choose_device(device_name), data or default_data()
    preset = preset or default_preset(data, device)
    config = configured(preset, settings)
    run_name = run_name or preset
    run_folder(run_name)
    with processes.first_goes_first():
        packed = pack_and_report(data or standin_data(device), ("train",), run=run_name)
    pipeline = Pipeline(config, packed, STAGES, device)
    done = pipeline.make(stage)
    if processes.is_first():
        save_run(run_name, pipeline)
    click.echo(f"{done.folder} holds the trained {stage}.")


if __name__ == "__main__":
    main()
