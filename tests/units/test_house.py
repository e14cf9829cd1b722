"""The rules of the house: sizes, one direction of imports, and packages that come from this repository."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
import strategies
import tasks

ROOT = Path(__file__).resolve().parents[2]
CORE = ("harness", "strategies", "tasks")


def sources(package: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in path.parts)


@pytest.mark.parametrize("package", CORE)
def test_files_and_functions_stay_short(package: str) -> None:
    most = 150 if package in ("strategies", "tasks") else 400
    for path in sources(package):
        text = path.read_text()
        assert text.count("\n") <= most, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.parametrize(("package", "foreign"), [("harness", {"strategies", "tasks"}), ("strategies", {"tasks"}),
                                                  ("tasks", {"strategies"})])
def test_imports_point_one_way(package: str, foreign: set[str]) -> None:
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & foreign, path
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"


def test_the_packages_are_ours() -> None:
    for package in (harness, strategies, tasks):
        assert package.__file__ is not None
        assert Path(package.__file__).parent.parent == ROOT
        assert (Path(package.__file__).parent / "py.typed").exists()


def test_data_folders_hold_no_code() -> None:
    for folder in ("results", "reports"):
        assert not list((ROOT / folder).rglob("*.py"))
