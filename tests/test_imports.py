"""The kit's modules depend on each other in one direction."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

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
            allowed = {"solution.forecast", "solution.models"}
            assert all(o in allowed or o.startswith(("data_prep", "solution.models.")) for o in imported), name
        if name.startswith("solution.predictors."):
            assert not imported & {"solution.pipeline", "solution.stages", "solution.ensemble"}, name
    members = {f"solution.predictors.{name}" for name in ("objects", "masks", "frames", "jepa")}
    assert all(not found[member] & members for member in members), "members do not know each other"


def test_nothing_is_imported_for_type_checkers_only():
    assert not [path for path in FILES if "TYPE_CHECKING" in path.read_text()]
