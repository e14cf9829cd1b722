"""Token for token against what transformers 4.49 wrote; transformers 5 dropped both methods."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.decoding.search import divisor
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies.contrastive_search import ContrastiveSearch
from strategies.diverse_beam import DiverseBeam
from tests.decode import decode, engine
from tests.models import tiny_model
from tests.scale import scaled

GOLDEN = Path(__file__).parent.parent / "golden"
ARCHS = ("llama", "qwen2", "gpt2", "opt")


@cache
def cases(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / name).read_text())
    return loaded


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch, layers=2))


@pytest.mark.parametrize("arch", ARCHS)
def test_group_beams(arch: str) -> None:
    golden = cases("group_beam.json")
    mine = [case for case in golden["cases"] if case["arch"] == arch]
    assert len(mine) >= 40
    for case in mine[::scaled(5, 1)]:
        s = case["settings"]
        strategy = DiverseBeam(width=s["num_beams"], groups=s["num_beam_groups"], diversity=s["diversity_penalty"],
                               length_penalty=s["length_penalty"], early_stopping=str(s["early_stopping"]).lower(),
                               variant="official")
        session = Session(target(arch))
        eos = frozenset({golden["model"]["eos"]})
        request = Request(tuple(case["prompt"]), s["max_new_tokens"], PhiloxStream(0), eos)
        found = strategy.search(session, request)
        session.close()
        assert [list(h.tokens) for h in found] == case["sequences"], s
        ranked = [h.ranked(divisor("power", s["length_penalty"])) for h in found]
        assert ranked == pytest.approx(case["scores"], abs=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_contrastive_search(arch: str) -> None:
    mine = [case for case in cases("contrastive.json")["cases"] if case["arch"] == arch]
    assert len(mine) >= 30
    for case in mine[::scaled(3, 1)]:
        s = case["settings"]
        strategy = ContrastiveSearch(k=s["top_k"], alpha=s["penalty_alpha"])
        assert [decode(strategy, target(arch), case["prompt"], new=s["max_new_tokens"])] == case["sequences"], s
