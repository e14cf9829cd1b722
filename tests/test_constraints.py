"""The committed constraints pin one version of every package, inside the ranges of pyproject.toml, and nothing else."""

import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOR_CUDA = ("nvidia", "cuda", "triton")
PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]


def pins() -> list[Requirement]:
    lines = (ROOT / "harness" / "cli" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_every_line_is_a_plain_pin() -> None:
    for pin in pins():
        assert pin.url is None
        assert not pin.extras
        assert [one.operator for one in pin.specifier] == ["=="], pin
        assert not pin.name.startswith(FOR_CUDA), "left to the torch build of the platform"


@pytest.mark.parametrize(("system", "machine"), PLATFORMS)
def test_every_requirement_is_pinned_inside_its_range_on_every_platform(system: str, machine: str) -> None:
    here = {"sys_platform": system, "platform_machine": machine, "python_full_version": "3.11.9"}
    used = [pin for pin in pins() if not pin.marker or pin.marker.evaluate(here)]
    chosen = {pin.name: next(iter(pin.specifier)).version for pin in used}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(chosen[wanted.name]), line


def test_what_the_requirements_bring_along_is_pinned() -> None:
    names, todo, seen = {pin.name for pin in pins()}, ["decodebench"], set[str]()
    while todo:
        wanted = [Requirement(line) for line in requires(todo.pop()) or ()]
        new = {canonicalize_name(one.name) for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})}
        new = {name for name in new - seen if not name.startswith(FOR_CUDA)}
        assert new <= names
        seen |= new
        todo += new
    assert len(seen) > 50
