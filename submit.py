"""From raw frames to the leaderboard file, in one command."""

from pathlib import Path

import click

from data_prep.errors import exits_cleanly
from solution.config import MEMBERS
from solution.presets import PRESETS


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the competition. Default: ./data, else a stand-in."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("submission.pt"), show_default=True, help="File to write."
)
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Default: full on a GPU with real data, else quick.")
@click.option("--run", "run_name", help="Name to remember this run by. Default: the preset's name.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value; repeatable.")
@click.option("--members", help=f"Predictors of the ensemble, separated by commas: {', '.join(MEMBERS)}.")
@click.option("--use", metavar="RUN", help="Predict --data with this run, a name or a folder, without training.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the first videos (.png, .jpg), with --use.")
@click.option("--device", "device_name", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--record", type=click.Path(path_type=Path), help="Also add the stand-in's scores to this JSON file.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--allow-gaps", is_flag=True, help="Take hidden videos even if their numbers have a gap.")
@exits_cleanly
def main(**options) -> None:
    """Train on a competition and write the masks of its hidden videos as a leaderboard file.

    With --use, a run that was trained before predicts any folder that has hidden videos, or that is one video.
    Finished stages are kept and interrupted ones go on: start the same command again until the file is there.
    """
    from solution.leaderboard import submit  # what it needs takes seconds, which --help does not wait for

    submit(**options)


if __name__ == "__main__":
    main()
