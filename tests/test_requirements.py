"""Every requirement has a lower bound that what is installed meets, and the one that must not move is pinned."""

from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

LINES = (Path(__file__).resolve().parents[1] / "requirements.txt").read_text().splitlines()
REQUIREMENTS = {r.name: r.specifier for r in (Requirement(line.partition("#")[0].strip()) for line in LINES)}


def test_requirements_are_bounded_and_met():
    for name, bounds in REQUIREMENTS.items():
        assert any(bound.operator in (">=", "==") for bound in bounds), name
        assert bounds.contains(version(name)), f"{name} {version(name)} is not {bounds}"
    assert str(REQUIREMENTS["albumentations"]) == "==2.0.8", "the last release under the MIT licence"
