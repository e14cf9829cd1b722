"""Knobs read from a plugin's file are those that its class has, and nothing is imported for them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.plugins.declared import check_specs, declared
from harness.plugins.registry import STRATEGIES, TASKS, Registry

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("registry", "name"), [(STRATEGIES, name) for name in STRATEGIES.built_in()]
                         + [(TASKS, name) for name in TASKS.built_in()])
def test_the_file_of_a_plugin_tells_its_knobs(registry: Registry[Any], name: str) -> None:
    knobs = registry.get(name).knobs()
    others = {about.also: key for key, about in knobs.items() if about.also}
    assert declared(registry.built_in()[name]) == {key: key for key in knobs} | others


@pytest.mark.parametrize(("strategy", "words"), [
    ("beam:widht=4", "beam has no knob 'widht'. Did you mean 'width'?"),
    ("greedy:x=1", "greedy has no knob 'x'. It has no knobs."),
    ("top_p+self_consistency:m=3", "self_consistency has no knob 'm'."),
    ("top_p:q=0.9+self_consistency:n=3", "top_p has no knob 'q'. Known: p, temperature."),
    ("baem", "There is no strategy 'baem'. Did you mean 'beam'?"),
    ("beam:width", "In 'beam:width', write each knob as NAME=VALUE, not 'width'."),
])
def test_a_misspelt_spec_is_told_as_by_the_class(strategy: str, words: str) -> None:
    for refuse in (lambda: check_specs([strategy], []), lambda: STRATEGIES.build(strategy)):
        with pytest.raises(UserError) as caught:
            refuse()
        assert str(caught.value).startswith(words)


def test_what_is_right_passes_and_what_cannot_be_told_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    check_specs(["beam:num_beams=2", "top_p:top_p=0.9+self_consistency:n=3"], ["nano_math"])
    file = tmp_path / "mine.py"
    file.write_text("from elsewhere import Base\nfrom dataclasses import dataclass\n\n@dataclass(frozen=True)\n"
                    "class Mine(Base):\n    pass\n")
    STRATEGIES.add_file(file)
    assert declared(file) is None
    check_specs(["mine:anything=1"], [])


def test_nothing_is_imported() -> None:
    code = ("import sys\nfrom harness.plugins.declared import check_specs\n"
            "check_specs(['beam:width=2', 'top_p:p=0.5', 'decore'], ['nano_math', 'gsm8k'])\n"
            "print(*{name.partition('.')[0] for name in sys.modules})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "numpy", "strategies", "tasks"} & set(done.stdout.split())
