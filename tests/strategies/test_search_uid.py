"""UID-regularised beam search: goldens, the exact argmax on the chain, and its identities."""

import math
from itertools import pairwise

import pytest
import torch

from harness.decoding.search import Hypothesis
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.uid_beam import Even, Path, UidBeam
from tests.chain import all_sequences, chain_request, hypotheses
from tests.decode import decode, engine
from tests.markov import START, TABLE, letters
from tests.models import EOS, prompts, tiny_model

KINDS = ("greedy", "variance", "local", "max", "squared")
GOLDEN = {"greedy": 9.25, "variance": 14 / 9, "local": 5 / 3, "max": 4.0, "squared": 21.0}


def regulariser(kind: str, u: list[float]) -> float:
    """Compute the regulariser by its definition, for a path of surprisals and a table of u*."""
    mean = sum(u) / len(u)
    return {"variance": sum((x - mean) ** 2 for x in u) / len(u), "max": max(u), "squared": sum(x * x for x in u),
            "local": sum((a - b) ** 2 for a, b in pairwise(u)) / len(u)}[kind]


def exact(kind: str, strength: float) -> str:
    """Return the best sequence of the chain by enumeration."""
    def score(text: str) -> float:
        tokens = [START, *("?ab$".index(letter) for letter in text)]
        steps = list(pairwise(tokens))
        u = [-math.log(TABLE[a, b]) for a, b in steps]
        if kind == "greedy":
            value = sum((x + math.log(TABLE[a].max())) ** 2 for x, (a, _) in zip(u, steps, strict=True))
        else:
            value = regulariser(kind, u)
        return -sum(u) - strength * value
    return max(all_sequences(), key=score)


@pytest.mark.parametrize("kind", KINDS)
def test_goldens(kind: str) -> None:
    """u = (1, 2, 4) where (1, 1.5, 1) was possible; token 1 is the path's."""
    knobs = UidBeam(regulariser=kind, strength=1.0)
    front = Even(4, lambda n: 1.0, "false", chain_request(9), live=[Hypothesis(state=Path())], knobs=knobs)
    path = Hypothesis()
    for least, taken in ((1.0, 1.0), (1.5, 2.0), (1.0, 4.0)):
        front.advance(torch.tensor([[-least, -taken, -9.0]]), torch.empty(1, 0))
        path = next(h for h in front.live if set(h.tokens) == {1})
        front.live = [path]
    assert path.score == pytest.approx(-7 - GOLDEN[kind])
    if kind != "greedy":
        assert regulariser(kind, [1, 2, 4]) == pytest.approx(GOLDEN[kind])


@pytest.mark.parametrize(("kind", "strength", "golden"), [
    *(("greedy", x, "a$") for x in (0.5, 1.0, 5.0)), ("greedy", 100.0, "abab"),
    *(("max", x, "a$") for x in (0.5, 1.0, 5.0)), ("max", 100.0, "abab"),
    *(("squared", x, "a$") for x in (0.5, 1.0, 5.0, 100.0)),
    *((kind, x, "$") for kind in ("variance", "local") for x in (0.1, 1.0, 100.0))])
def test_the_exact_argmax_on_the_chain(kind: str, strength: float, golden: str) -> None:
    assert exact(kind, strength) == golden
    assert letters(hypotheses(UidBeam(width=31, regulariser=kind, strength=strength))[0].tokens) == golden


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_definition(kind: str) -> None:
    for h in hypotheses(UidBeam(width=31, regulariser=kind, strength=0.7)):
        text = [START, *h.tokens]
        u = [-math.log(TABLE[a, b]) for a, b in pairwise(text)]
        if kind != "greedy":
            assert h.score == pytest.approx(-sum(u) - 0.7 * regulariser(kind, u), abs=1e-5)
        assert h.log_p == pytest.approx(-sum(u), abs=1e-5)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_identities(arch: str) -> None:
    target = engine(tiny_model(arch))
    for prompt in prompts(2, 97, 11):
        greedy = decode(Greedy(), target, prompt, new=15)
        assert decode(UidBeam(width=4, strength=1e6), target, prompt, new=15) == greedy
        assert decode(UidBeam(width=1, regulariser="variance"), target, prompt, new=15) == greedy
        request = Request(tuple(prompt), 15, PhiloxStream(0), frozenset({EOS}))
        plain = Beam(width=4, length_penalty=0.6, finished="kept").search(Session(target), request)
        for kind in KINDS:
            even = UidBeam(width=4, length_penalty=0.6, strength=0.0, regulariser=kind)
            assert [h.tokens for h in even.search(Session(target), request)] == [h.tokens for h in plain]


def test_strength_makes_surprise_even() -> None:
    target, spread = engine(tiny_model("llama")), dict[float, float]()
    for strength in (0.0, 20.0):
        total = 0.0
        for prompt in prompts(6, 97, 12):
            request = Request(tuple(prompt), 12, PhiloxStream(0))
            best = UidBeam(regulariser="variance", strength=strength).search(Session(target), request)[0]
            total += best.state.total / len(best.tokens)
        spread[strength] = total
    assert spread[20.0] < 0.5 * spread[0.0]
