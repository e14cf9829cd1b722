"""Methods that choose the least repetitive of the likeliest tokens: their formulas, and whole decodes."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice, pairwise
from math import inf, log
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import HIDDEN
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies import fsd, fsd_vec
from strategies.contrastive_search import ContrastiveSearch, likeness
from strategies.fsd import Fsd
from strategies.fsd_vec import FsdVec
from strategies.greedy import Greedy
from strategies.momentum import RESISTANCE, Momentum, repeated
from strategies.parts.candidates import likeliest, weighed
from strategies.parts.grams import Grams
from tests.decode import decode, engine, traced
from tests.markov import Markov
from tests.models import prompts, tiny_model
from tests.scale import scaled

ARCHS = ("llama", "qwen2", "gpt2", "opt")


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


def texts(count: int, kinds: int = 4, longest: int = 30) -> list[list[int]]:
    """Return random sequences over few tokens, with many repeats."""
    rng = np.random.default_rng(7)
    return [rng.integers(0, kinds, rng.integers(1, longest)).tolist() for _ in range(count)]


def test_the_likeliest_tokens_come_in_order() -> None:
    logits = torch.tensor([1.0, 3.0, -inf, 3.0, 1.0, 1.0, 2.0])
    probs, tokens = likeliest(logits, 4)
    assert tokens == [1, 3, 6, 0]
    assert torch.equal(probs, logits.softmax(-1)[tokens])
    assert likeliest(logits, 100)[1] == [1, 3, 6, 0, 4, 5]
    with pytest.raises(ValueError, match="impossible"):
        likeliest(torch.full((3,), -inf), 2)


def test_contrastive_golden() -> None:
    """Specs/quality 3.1."""
    known, states = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    probs, alike = torch.tensor([0.5, 0.3, 0.1]), likeness(states, known)
    assert (0.8 * probs - 0.2 * alike).tolist() == pytest.approx([0.2, 0.08, 0.08])
    assert (0.4 * probs - 0.6 * alike).tolist() == pytest.approx([-0.4, -0.36, 0.04])
    assert [weighed(probs, alike, alpha) for alpha in (0.0, 0.2, 0.6, 1.0)] == [0, 0, 2, 2]


def test_resistance_tables() -> None:
    linear, constant = [0, 1, 2, 3, 4, 5], [0, 2, 2, 2, 2, 2]
    logs, grown = [log(1 + r, 6) / 0.2 for r in range(6)], [0, *(1.5**r / 2 for r in range(1, 6))]
    tables = {"linear": linear, "constant": constant, "log": logs, "exp": grown, "chinese": [0, 1, 1, 2, 3, 4],
              "blocking": [0, 0, 0, 0, 5, inf]}
    assert {name: [charge(r) for r in range(6)] for name, charge in RESISTANCE.items()} == tables
    assert logs[5] == pytest.approx(5)


def naive_repeat(text: Sequence[int], token: int) -> int:
    """Compute r by its definition: search every l-gram at every position."""
    whole = [*text, token]
    for size in range(5, 1, -1):
        if any(list(text[i:i + size]) == whole[-size:] for i in range(len(text) - size + 1)) and size <= len(whole):
            return size
    return int(token in text)


def test_momentum_goldens() -> None:
    """Specs/quality 3.2."""
    text = [1, 2, 3, 7, 8, 2, 3]
    assert repeated(Grams(5, text), [7, 9, 1]) == [3, 0, 1]
    assert repeated(Grams(5, [*text, 7]), [8]) == [4]
    assert repeated(Grams(5, [5, 5, 5]), [5]) == [3]
    assert repeated(Grams(5, list(range(9)) * 2), [0, 1]) == [5, 1]


def test_momentum_is_its_definition_on_many_texts() -> None:
    for text in texts(scaled(1500, 5000)):
        assert repeated(Grams(5, text), range(5)) == [naive_repeat(text, token) for token in range(5)], text


def naive_charge(text: Sequence[int], token: int, n: int, beta: float, skips: bool) -> float:
    """Compute FSD's q by its definition, on all n-grams of the sequence."""
    left, charge = 1.0, 0.0
    if len(text) < n - 1:
        return 0.0
    for length in range(n - 1, -1, -1):
        tail = list(text[len(text) - length:])
        after = [text[i + length] for i in range(len(text) - length) if list(text[i:i + length]) == tail]
        if token in after or not skips:
            share = after.count(token) / (len(after) + 1) * beta if length else after.count(token) / len(after)
            charge, left = charge + left * share, left * (1 - beta)
    return charge


@pytest.mark.parametrize(("text", "tokens", "skips", "charges"), [
    ([1, 2, 3, 1, 2], [3, 1, 2, 9], True, [0.497, 0.4, 0.4, 0.0]),
    ([1, 2, 3, 1, 2], [3, 1, 2, 9], False, [0.497, 0.004, 0.004, 0.0]),
    ([4, 4, 4, 4], [4], True, [0.6775]), ([4], [4], True, [0.0]), ([], [4], False, [0.0])])
def test_fsd_goldens(text: list[int], tokens: list[int], skips: bool, charges: list[float]) -> None:
    """Specs/quality 3.3."""
    assert fsd.penalties(Grams(3, text), tokens, 0.9, skips) == pytest.approx(charges)


def test_fsd_is_its_definition_on_many_texts() -> None:
    for i, text in enumerate(texts(1500)):
        n, beta, skips = 1 + i % 4, (0.9, 0.5, 1.0)[i % 3], i % 2 == 0
        expected = [naive_charge(text, token, n, beta, skips) for token in range(5)]
        assert fsd.penalties(Grams(n, text), list(range(5)), beta, skips) == pytest.approx(expected), (text, n)
        assert all(0 <= charge <= 1 for charge in expected)


def test_fsd_penalises_every_earlier_token_and_no_other() -> None:
    """A step among new tokens is greedy; among others the new one wins at alpha 1."""
    for text in texts(300, kinds=3):
        for n, skips in ((2, True), (3, True), (3, False)):
            charges = fsd.penalties(Grams(n, text), list(range(6)), 0.9, skips)
            assert [charge > 0 for charge in charges] == [token in text and len(text) >= n - 1 for token in range(6)]
    for alpha in (0.3, 0.65, 1.0):
        assert weighed(torch.tensor([0.6, 0.3, 0.1]), torch.zeros(3), alpha) == 0


def naive_likeness(states: Tensor, text: Sequence[int], token: int, span: int) -> float:
    """Compute FSD-vec's c by its definition: one cosine for every earlier span."""
    now = states[len(text) - span:].flatten()
    found = [float(torch.cosine_similarity(states[i - span:i].flatten(), now, dim=0))
             for i in range(span, len(text)) if text[i] == token]
    return min(max([0.0, *found]), 1.0)


@pytest.mark.parametrize("span", [1, 2, 3])
def test_fsd_vec_is_its_definition_on_many_texts(span: int) -> None:
    generator = torch.Generator().manual_seed(span)
    for text in texts(150):
        states = torch.randn(len(text), 3, generator=generator)
        found = fsd_vec.penalties(states, text, list(range(5)), span)
        expected = [naive_likeness(states, text, token, span) if len(text) > span else 0.0 for token in range(5)]
        assert found.tolist() == pytest.approx(expected, abs=1e-5), text
        assert bool(((found >= 0) & (found <= 1)).all())


def test_fsd_vec_with_one_hot_states_penalises_repeated_bigrams() -> None:
    for text in texts(300):
        states = torch.nn.functional.one_hot(torch.tensor(text), 4).float()
        pairs = set(pairwise(text))
        assert fsd_vec.penalties(states, text, [0, 1, 2, 3], 1).tolist() == [
            float((text[-1], token) in pairs) for token in range(4)]


def steps_of(call: Callable[[], object]) -> int:
    """Count the lines of Python that a call runs."""
    seen = Counter[str]()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        seen[event] += 1
        return trace
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return seen["line"]


def test_a_token_costs_the_same_however_long_the_text() -> None:
    def step(grams: Grams) -> None:
        repeated(grams, [0, 1, 2])
        fsd.penalties(grams, [0, 1, 2], 0.9, True)
        grams.add(3)
    short, long = (Grams(5, (list(range(20)) * length)) for length in (2, 400))
    assert steps_of(lambda: step(short)) == steps_of(lambda: step(long))


METHODS = [Momentum(), Fsd(), FsdVec(), ContrastiveSearch(), FsdVec(n=3), Fsd(variant="paper", n=2),
           Momentum(resistance="blocking", k=40)]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("strategy", [
    *[Momentum(alpha=0, resistance=name) for name in RESISTANCE], Momentum(k=1), Fsd(alpha=0), Fsd(k=1), FsdVec(k=1),
    FsdVec(alpha=0), ContrastiveSearch(alpha=0), ContrastiveSearch(k=1), ContrastiveSearch(k=1, alpha=1)],
    ids=lambda s: s.spec())
def test_degenerate_settings_are_greedy(strategy: Strategy, arch: str) -> None:
    for prompt in prompts(2, 97, 1):
        greedy = decode(Greedy(), target(arch), prompt * 2, new=scaled(16, 30))
        assert decode(strategy, target(arch), prompt * 2, new=scaled(16, 30)) == greedy


def naive(strategy: Strategy, text: list[int], said: Callable[[list[int]], tuple[Tensor, Tensor]]) -> int:
    """The next token, from nothing but the method's formula; `said` reads a text anew: logits (V,), states (T, D)."""
    logits, states = said(text)
    probs = logits.double().softmax(-1)
    tokens = sorted(range(len(probs)), key=lambda token: (-float(logits[token]), token))[:strategy.k]  # type: ignore
    alpha = strategy.alpha  # type: ignore[attr-defined]

    def score(token: int) -> float:
        p = float(probs[token])
        if isinstance(strategy, Momentum):
            return p - alpha * RESISTANCE[strategy.resistance](naive_repeat(text, token))
        if isinstance(strategy, Fsd):
            return (1 - alpha) * p - alpha * naive_charge(text, token, strategy.n, strategy.beta,
                                                          strategy.variant == "official")
        if isinstance(strategy, FsdVec):
            long = len(text) >= strategy.n
            return (1 - alpha) * p - alpha * (naive_likeness(states, text, token, strategy.n - 1) if long else 0)
        new = said([*text, token])[1][-1:]
        return (1 - alpha) * p - alpha * float(torch.cosine_similarity(new, states).max())
    return max(tokens, key=score)


def whole(model: Any, text: list[int]) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        out = model(torch.tensor([text]), output_hidden_states=True)
    return out.logits[0, -1], out.hidden_states[-1][0]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("strategy", METHODS, ids=lambda s: s.spec())
def test_the_cache_changes_nothing(strategy: Strategy, arch: str) -> None:
    """The tokens equal those of each method's formula with a full forward over the sequence at every step."""
    for prompt in prompts(2, 97, 2):
        text, found = prompt * 2, decode(strategy, target(arch), prompt * 2, new=16)
        for token in found:
            assert token == naive(strategy, text, partial(whole, target(arch).model)), text
            text.append(token)


def random_table(seed: int) -> Tensor:
    """Return (4, 4) next-token probabilities of a chain."""
    return torch.softmax(2 * torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)), -1)


@pytest.mark.parametrize("strategy", METHODS, ids=lambda s: s.spec())
def test_random_tables(strategy: Strategy) -> None:
    """On first-order chains with random tables the states are one-hot, and everything can be counted."""
    for seed in range(scaled(20, 60)):
        table = random_table(seed)

        def said(text: list[int], table: Tensor = table) -> tuple[Tensor, Tensor]:
            return table.log()[text[-1]], torch.eye(4)[text]
        text = [seed % 4, 1, seed % 3]
        for token in decode(strategy, Engine(Markov(table), 64), text, new=12, eos=None):
            assert token == naive(strategy, text, said), (seed, text)
            text.append(token)


def test_long_repeats_never_beat_a_new_token() -> None:
    """At alpha · f(5) = 1 a 5-gram is repeated only if every candidate already occurs in the sequence."""
    again = 0
    for seed in range(40):
        table, text = random_table(seed), [seed % 4]
        for token in decode(Momentum(k=2), Engine(Markov(table), 64), text, new=40, eos=None):
            if naive_repeat(text, token) == 5:
                again += 1
                assert 0 not in repeated(Grams(5, text), likeliest(table.log()[text[-1]], 2)[1])
            text.append(token)
    assert again > 20  # the rule was put to the test


def test_blocking_repeats_no_long_stretch() -> None:
    text = [*prompts(1, 97, 3)[0] * 3]
    found = decode(Momentum(resistance="blocking", k=97), target(), text, new=60, eos=None)
    grams = [tuple([*text, *found][i:i + 4]) for i in range(len(text) + 57)]
    assert max(Counter(grams[len(text) - 3:]).values()) == 1
    assert not set(grams[:len(text) - 3]) & set(grams[len(text) - 3:])


def test_alpha_one_takes_the_least_alike() -> None:
    text = prompts(1, 97, 5)[0]
    for token in decode(ContrastiveSearch(alpha=1, k=6), target(), list(text), new=8, eos=None):
        logits, states = whole(target().model, text)
        cosines = {other: float(torch.cosine_similarity(whole(target().model, [*text, other])[1][-1:], states).max())
                   for other in likeliest(logits, 6)[1]}
        assert token == min(cosines, key=lambda other: cosines[other])
        text.append(token)


@pytest.mark.parametrize("strategy", [Fsd(newlines=0), FsdVec(newlines=0.3, alpha=0.6)], ids=lambda s: s.name)
def test_line_breaks_may_have_a_lower_penalty(strategy: Fsd | FsdVec) -> None:
    changed, words = 0, RequestText("", lambda text: [], lambda text: [0, 2], lambda tokens: "", lambda text: None)
    for seed in range(40):
        table, text = random_table(seed), [seed % 4, 1, 2]
        session = Session(Engine(Markov(table), 64), remember=(HIDDEN,))
        request = Request(tuple(text), 12, PhiloxStream(0), text=words)
        for (token,) in islice(strategy.generate(session, request), 12):
            probs, tokens = likeliest(table.log()[text[-1]], 3)
            charges = (fsd.penalties(Grams(3, text), tokens, 0.9, True) if isinstance(strategy, Fsd) else
                       fsd_vec.penalties(torch.eye(4)[text], text, tokens, 1).tolist())
            less = [charge * (strategy.newlines if other == 2 else 1)
                    for other, charge in zip(tokens, charges, strict=True)]
            assert token == tokens[weighed(probs, torch.tensor(less), strategy.alpha)]
            changed += token != tokens[weighed(probs, torch.tensor(charges), strategy.alpha)]
            text.append(token)
    assert changed
    with pytest.raises(Unsupported, match="as text"):
        next(strategy.generate(Session(target(), remember=(HIDDEN,)), Request((5, 6), 4, PhiloxStream(0))))


@pytest.mark.parametrize("strategy", METHODS[:5], ids=lambda s: s.spec())
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(strategy: Strategy) -> None:
    jobs = [partial(decode, strategy, target(), prompt * 2, new=20) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [job() for job in jobs]
    for most in (3, 16):
        assert run_batched([target()], jobs, most) == alone


def test_one_forward_a_token() -> None:
    prompt = prompts(1, 97, 1)[0]
    for strategy in (Momentum(), Fsd(), FsdVec()):
        work = traced(strategy, target(), prompt, new=10, eos=None)[1]
        assert (work.forwards, work.positions) == (10, len(prompt) + 9)
