"""The kit's modules depend on each other in one direction."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FILES = [*ROOT.glob("data_prep/**/*.py"), *ROOT.glob("solution/**/*.py"), ROOT / "submit.py", ROOT / "validate.py"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """Return which of the modules a file imports, anywhere in it and for whatever purpose."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names & modules


def graph() -> dict[str, set[str]]:
    modules = {module_of(path): path for path in FILES}
    return {name: imports_of(path, set(modules)) for name, path in modules.items()}


def test_there_is_no_circle():
    order = list(TopologicalSorter(graph()).static_order())  # raises CycleError, which names the circle
    assert (
        order.index("solution.config") < order.index("solution.predictors.objects") < order.index("solution.pipeline")
    )
    assert order.index("solution.pipeline") < order.index("submit")


def test_what_lies_below_knows_nothing_of_what_lies_above():
    found = graph()
    assert all(name.startswith("data_prep") for name in found["solution.config"])
    for name, imported in found.items():
        if name.startswith("data_prep"):
            assert all(other.startswith("data_prep") for other in imported), name
        if name.startswith("solution.models."):
            assert all(o == "solution.models" or o.startswith(("data_prep", "solution.models.")) for o in imported), (
                name
            )
        if name.startswith("solution.predictors."):
            assert not imported & {"solution.pipeline", "solution.stages", "solution.ensemble"}, name
    members = {f"solution.predictors.{name}" for name in ("objects", "masks", "frames", "jepa")}
    assert all(not found[member] & members for member in members), "members do not know each other"


def test_nothing_is_imported_for_type_checkers_only():
    assert not [path for path in FILES if "TYPE_CHECKING" in path.read_text()]


HEAVY = ("torch", "numpy", "cv2", "pydantic")
HEAVIER = ("albumentations", "segmentation_models_pytorch", "timm", "sklearn", "mujoco", "scipy", "matplotlib")


def imported_by(script: str, *options: object) -> set[str]:
    """Return which of the heavy libraries a command imported that ended well."""
    code = f"""
import runpy, sys
sys.argv = {[script, *map(str, options)]!r}
try:
    runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*(name for name in {HEAVY + HEAVIER!r} if name in sys.modules), file=sys.stderr)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return set(found.stderr.split())


def test_scoring_and_checking_a_file_import_nothing_that_predicts(tmp_path):
    hidden = tmp_path / "hidden"
    for number in range(2):
        (hidden / f"video_{number}").mkdir(parents=True)
    torch.save(torch.zeros(2, 160, 240, dtype=torch.uint8), tmp_path / "masks.pt")
    for option, place in (("--truth", tmp_path / "masks.pt"), ("--hidden", hidden)):
        assert not imported_by("validate.py", tmp_path / "masks.pt", option, place) & set(HEAVIER), option


def test_help_imports_no_networks():
    assert not imported_by("validate.py", "--help") & {*HEAVY, *HEAVIER}
    assert not imported_by("submit.py", "--help") & set(HEAVIER)
