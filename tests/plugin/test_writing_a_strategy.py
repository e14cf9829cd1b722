"""Runs docs/writing-a-strategy.md: its files are written, and its tests and its commands are run."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch

from harness import nano
from harness.plugins.registry import Registry
from harness.plugins.strategy import Strategy
from strategies.greedy import Greedy
from tests.decode import decode, engine
from tests.models import prompts, tiny_model
from tests.pair import saved

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "writing-a-strategy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FILES = ("my_min_p.py", "my_repeat.py", "my_longest.py", "test_my_strategies.py")
SMALL = ["--limit", "2", "--max-new-tokens", "8", "--threads", "1"]


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


@cache
def model() -> str:
    """The embedded model, or a tiny one where it has not been trained yet."""
    return "nano" if (nano.weights("nano") / "model.safetensors").exists() else str(saved("llama"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for name, text in zip(FILES, blocks("python"), strict=True):
        assert f"`{name}`" in PAGE
        (tmp_path / name).write_text(text.replace('load("nano")', f"load({model()!r})"), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("name", "spec"), [("my_min_p", "my_min_p:share=1"), ("my_repeat", "my_repeat:length=5")])
def test_strategies_of_the_page_are_greedy_at_their_degenerate_settings(folder: Path, name: str, spec: str) -> None:
    registry = Registry("strategy", "strategies", Strategy)  # type: ignore[type-abstract]
    registry.add_file(folder / f"{name}.py")
    target = engine(tiny_model("llama"))
    for prompt in prompts(5, 97, 1):
        assert decode(registry.build(spec), target, prompt) == decode(Greedy(), target, prompt)


def test_min_p_of_the_page_drops_what_it_says(folder: Path) -> None:
    registry = Registry("strategy", "strategies", Strategy)  # type: ignore[type-abstract]
    registry.add_file(folder / "my_min_p.py")
    target = engine(tiny_model("llama", sharpness=1.0))
    drawn = {tuple(decode(registry.build("my_min_p:share=0.5"), target, prompts(1)[0], new=1, sample=i))
             for i in range(40)}
    logits = target.model(torch.tensor([prompts(1)[0]])).logits[0, -1].softmax(-1)
    kept = {(int(token),) for token in (logits >= 0.5 * logits.max()).nonzero()}
    assert drawn <= kept
    assert len(drawn) > 1


def test_commands_of_the_page_run(folder: Path) -> None:
    commands = [line.removeprefix("$ ") for text in blocks("console") for line in text.splitlines()]
    assert len(commands) == 3
    for command in commands:
        program, *rest = shlex.split(command)
        arguments = {"decodebench": ["-m", "harness.cli"], "python": []}[program] + rest
        if rest[0] == "run":
            arguments += ["-m", model(), *SMALL]
        if "pytest" in rest:
            arguments += ["-p", "no:cacheprovider"]
        done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if rest[0] == "run":
            assert re.search(r"my_min_p .*\n +share=0\.3", done.stdout), done.stdout


def test_a_package_made_as_the_page_says_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [table] = (tomllib.loads(text)["project"]["entry-points"]["decodebench.strategies"] for text in blocks("toml"))
    package, info = folder / "my_package", folder / "my_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "my_min_p.py").write_text(blocks("python")[0], encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
    points = "\n".join(f"{name} = {value}" for name, value in table.items())
    (info / "entry_points.txt").write_text(f"[decodebench.strategies]\n{points}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)  # of another page
    registry = Registry("strategy", "strategies", Strategy)  # type: ignore[type-abstract]
    monkeypatch.setenv("DECODEBENCH_PLUGINS", "my-package")
    assert registry.build("my_min_p").spec() == "my_min_p:share=0.1"
    monkeypatch.setenv("DECODEBENCH_PLUGINS", "another")
    assert "my_min_p" not in registry.names()


def test_the_page_stays_short() -> None:
    assert len(PAGE.splitlines()) <= 175
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 30
