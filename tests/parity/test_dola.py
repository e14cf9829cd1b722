"""DoLa, token for token against what transformers 4.49 wrote; transformers 5 dropped it."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.engine.engine import Engine
from strategies import dola
from strategies.dola import Dola
from tests.decode import decode, engine
from tests.models import tiny_model

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden" / "dola.json").read_text())
ARCHS = ("llama", "qwen2", "gpt2", "opt")


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch, layers=GOLDEN["model"]["layers"]))


def mine(arch: str) -> list[dict[str, Any]]:
    return [case for case in GOLDEN["cases"] if case["arch"] == arch]


def strategy(case: dict[str, Any]) -> Dola:
    layers = case["settings"]["dola_layers"]
    return Dola(layers=layers if isinstance(layers, str) else "-".join(map(str, layers)))


def written(case: dict[str, Any], method: Dola) -> list[list[int]]:
    return [decode(method, target(case["arch"]), case["prompt"], new=case["settings"]["max_new_tokens"])]


@pytest.mark.parametrize("arch", ARCHS)
def test_dola(arch: str) -> None:
    assert len(mine(arch)) >= 15
    for case in mine(arch):
        assert written(case, strategy(case)) == case["sequences"], case["settings"]


@pytest.mark.parametrize("arch", ARCHS)
def test_neither_the_norm_nor_another_cut_gives_the_same(arch: str) -> None:
    for change in ({"norm": True}, {"alpha": 0.9}):
        assert any(written(case, replace(strategy(case), **change)) != case["sequences"] for case in mine(arch))


def test_the_real_divergence_chooses_other_layers() -> None:
    cases = [case for arch in ARCHS for case in mine(arch)]
    assert any(written(case, replace(strategy(case), variant="paper")) != case["sequences"] for case in cases)


def test_a_planted_divergence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = dola.divergence
    monkeypatch.setattr(dola, "divergence", lambda p, q, variant: -real(p, q, variant))
    cases = [case for arch in ARCHS for case in mine(arch)]
    assert any(written(case, strategy(case)) != case["sequences"] for case in cases)
