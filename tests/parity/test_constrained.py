"""Constrained beam search, token for token against what transformers 4.49 wrote; transformers 5 dropped it."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.decoding.constraints import Clause, Constraints, Turns
from harness.decoding.search import Hypothesis, divisor
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies import constrained_beam
from strategies.constrained_beam import ConstrainedBeam, Dealt, Official
from tests.decode import engine
from tests.models import tiny_model

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden" / "constrained.json").read_text())
ARCHS = ("llama", "qwen2", "gpt2", "opt")


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch, layers=2))


def clause(words: list[Any]) -> Clause:
    """One list of tokens is a phrase, a list of lists a choice."""
    return tuple(map(tuple, words)) if isinstance(words[0], list) else (tuple(words),)


def found(case: dict[str, Any], variant: str = "official") -> list[Hypothesis]:
    """Return the requested number of hypotheses of the final list."""
    s = case["settings"]
    strategy = ConstrainedBeam(width=s["num_beams"], length_penalty=s["length_penalty"], variant=variant,
                               early_stopping=str(s["early_stopping"]).lower())
    wanted = Constraints(tuple(clause(words) for words in s.get("force_words_ids", ())))
    asked = s["num_return_sequences"]
    request = Request(tuple(case["prompt"]), s["max_new_tokens"], PhiloxStream(0), frozenset({GOLDEN["model"]["eos"]}),
                      sample=asked - 1)
    session = Session(target(case["arch"]))
    try:
        return strategy.search(session, request, wanted)[:asked]
    finally:
        session.close()


def same(case: dict[str, Any], variant: str = "official") -> bool:
    return [list(one.tokens) for one in found(case, variant)] == case["sequences"]


@pytest.mark.parametrize("arch", ARCHS)
def test_constrained_beam(arch: str) -> None:
    mine = [case for case in GOLDEN["cases"] if case["arch"] == arch]
    assert len(mine) >= 25
    for case in mine:
        texts, rule = found(case), divisor("power", case["settings"]["length_penalty"])
        assert [list(one.tokens) for one in texts] == case["sequences"], case["settings"]
        assert [one.ranked(rule) for one in texts] == pytest.approx(case["scores"], abs=1e-4)


def test_goldens_end_early_and_at_the_limit_with_and_without_what_is_wanted() -> None:
    seen = set()
    for case in GOLDEN["cases"]:
        for tokens in case["sequences"]:
            state: Turns = Turns(Constraints(tuple(map(clause, case["settings"].get("force_words_ids", ())))))
            for token in tokens:
                state = state.advance(token)
            seen.add((tokens[-1] == GOLDEN["model"]["eos"], state.finished))
    assert seen >= {(True, True), (False, True), (False, False)}


def unmoved(state: Turns, token: int) -> Turns:
    after = ADVANCE(state, token)
    return replace(after, waiting=tuple(sorted(after.waiting))) if after.waiting else after


ADVANCE = Turns.advance
PLANTED: dict[str, tuple[int, object, str, object]] = {  # the first case that shows each, which is tried first
    "the prompt meets nothing": (36, Official, "start", Dealt.start),
    "ends that come too early have no chance": (108, Official, "impossible", Dealt.impossible),
    "complete texts come first": (3, Official, "finish", Dealt.finish),
    "each phrase that parts is in its own bank": (
        30, constrained_beam, "offered",
        lambda state: [(token, state.advance(token).count) for token in sorted(state.allowed())]),
    "banks do not matter": (8, constrained_beam, "BANK", 0.0),
    "the best bank takes all": (4, constrained_beam, "dealt", lambda order, banks: order),
    "begun phrases count from their start": (
        15, Turns, "count", property(lambda self: len(self.met) * max(self.wanted.longest, default=0)
                                 + (self.open[0].done if self.open else 0))),
    "the clause undone waits where it was": (22, Turns, "advance", unmoved),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_other_rules_give_other_texts(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, owner, name, other = PLANTED[bug]
    monkeypatch.setattr(owner, name, other)
    assert not all(same(case) for case in GOLDEN["cases"][first:] + GOLDEN["cases"][:first])


def test_mended_rules_give_other_texts() -> None:
    assert not all(same(case, "repaired") for case in GOLDEN["cases"])
