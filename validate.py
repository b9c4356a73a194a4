"""Score a prediction, check a leaderboard file, or predict and score the validation videos with a run."""

from pathlib import Path

import click

from data_prep.errors import exits_cleanly


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--truth", type=click.Path(path_type=Path), help="Score FILE against this split's folder or tensor.")
@click.option("--hidden", type=click.Path(path_type=Path), help="Only check the format of FILE for this folder.")
@click.option("--run", help="Predict the val videos of --data with this run, a name or a folder; score every method.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the competition, for --run and --report.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write a page that shows where points were lost.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw typical objects (.png, .jpg), with --run.")
@click.option("--record", type=click.Path(path_type=Path), help="Also add the scores of --run to this JSON file.")
@click.option("--device", "device_name", help="cpu or cuda, for --run. Default: cuda where there is one.")
@exits_cleanly
def main(**options) -> None:
    """Score FILE (--truth), check its format (--hidden), or score a trained run on val (--run, --data).

    What is left out is the last finished run, else ./submission.pt, and ./data or the stand-in.
    """
    from solution.validation import validate  # what it needs takes seconds, which --help does not wait for

    validate(**options)


if __name__ == "__main__":
    main()
