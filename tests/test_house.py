"""The rules of the house: sizes, one direction of imports, and packages that come from this repository."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import harness
import strategies
import studies
import tasks

ROOT = Path(__file__).resolve().parents[1]
CORE = ("harness", "strategies", "studies", "tasks")


def sources(package: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in path.parts)


@pytest.mark.parametrize("package", [*CORE, "benchmarks", "tests"])
def test_files_and_functions_stay_short(package: str) -> None:
    most = 150 if package in ("strategies", "studies", "tasks") else 400
    for path in sources(package):
        text = path.read_text()
        assert text.count("\n") <= most, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.parametrize(("package", "foreign"), [
    ("harness", {"strategies", "studies", "tasks"}), ("strategies", {"studies", "tasks"}),
    ("studies", {"tasks"}), ("tasks", {"strategies", "studies"})])
def test_imports_point_one_way(package: str, foreign: set[str]) -> None:
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & foreign, path
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"


def test_the_packages_are_ours() -> None:
    for package in (harness, strategies, studies, tasks):
        assert package.__file__ is not None
        assert Path(package.__file__).parent.parent == ROOT
        assert (Path(package.__file__).parent / "py.typed").exists()


def test_data_folders_hold_no_code() -> None:
    for folder in ("results", "reports"):
        assert not list((ROOT / folder).rglob("*.py"))


def folders_below() -> dict[str, set[str]]:
    """Each folder of `harness` and the others that its modules import; what only type checkers read does not count."""
    found: dict[str, set[str]] = {}
    for path in sources("harness"):
        tree = ast.parse(path.read_text())
        unread = {id(node) for block in ast.walk(tree) if isinstance(block, ast.If)
                  and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING" for node in ast.walk(block)}
        own = path.relative_to(ROOT / "harness").parts
        if len(own) == 1:
            assert own[0] in ("__init__.py", "errors.py"), f"{path} lies loose in harness"
            continue
        names = [name for node in ast.walk(tree) if id(node) not in unread for name in imported(node)]
        below = {name.split(".")[1] for name in names if name.startswith("harness.")}
        found.setdefault(own[0], set()).update(below - {own[0], "errors"})
    return found


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_folders_import_only_from_those_above_them() -> None:
    below = folders_below()
    list(TopologicalSorter(below).static_order())  # raises CycleError, which names the folders that import each other
    order = re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    assert sorted(order) == sorted(below)
    for folder, others in below.items():
        climbs = {other for other in others if order.index(other) > order.index(folder)}
        assert not climbs, f"harness/{folder} imports {climbs}, which docs/architecture.md has below it"
