"""The distribution of what a whole strategy writes, on a vocabulary so small that every continuation can be counted."""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from scipy.stats import chisquare

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.verify.distribution import Distribution, Evidence
from tests.decode import decode, engine
from tests.models import tiny_model

VOCAB = 6
PROMPT = [3, 4, 5, 3, 4]
TEMPERATURE, MASS = 0.8, 0.9
DRAWS, LENGTH = 300, 6  # of `by_token`: as sure of a mistake as ten times as many whole continuations
CERTAIN = 1e-6  # smaller p-values of `by_token` need no second set of draws
MANY, SHORT = 4000, 4   # of `by_continuation`: the first token is undrafted, four leave room for two drafted levels

PValue = Callable[..., float]


@cache
def target() -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, sharpness=0.8))


@cache
def draft() -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, seed=1, sharpness=0.8))


def drawn(strategy: Any, on: Engine, small: Engine | None, draws: int, length: int,
          key: str = "law") -> list[list[int]]:
    """So many continuations of PROMPT, each with a random stream of its own."""
    jobs = [partial(decode, strategy, on, PROMPT, draft=small, new=length, eos=None,
                    stream=PhiloxStream(key, strategy.spec(), i)) for i in range(draws)]
    texts = run_batched([on, small] if small else [on], jobs, 64)
    assert all(isinstance(text, list) for text in texts), texts
    return texts


@torch.inference_mode()
def by_token(strategy: Any, drafter: Callable[[], Engine] | None, on: Engine | None = None) -> float:
    """p-value of every token held against its exact distribution given the tokens before it, as `verify` does.

    A small one may be chance: then it is that of four times as many new draws, which are the surer of a mistake.
    """
    on, small = on or target(), drafter() if drafter else None

    def p_value(draws: int, key: str) -> float:
        evidence = Evidence(Distribution(strategy.temperature, strategy.p))
        evidence.add(on, small, PROMPT, drawn(strategy, on, small, draws, LENGTH, key), 0)
        assert evidence.tokens == draws * LENGTH
        return evidence.p_value()
    first = p_value(DRAWS, "law")
    return first if first > 0.01 or first < CERTAIN else p_value(4 * DRAWS, "again")


@torch.inference_mode()
def by_continuation(strategy: Any, drafter: Callable[[], Engine] | None, on: Engine | None = None) -> float:
    """Chi-square p-value of whole continuations against their exact probabilities; rare ones are pooled."""
    on, small = on or target(), drafter() if drafter else None
    exact = Distribution(strategy.temperature, strategy.p)

    def following(text: tuple[int, ...]) -> list[float]:
        return exact.probs(on.model(torch.tensor([[*PROMPT, *text]])).logits[0, -1]).tolist()
    return chi_square(drawn(strategy, on, small, MANY, SHORT), following)


def chi_square(texts: list[list[int]], following: Callable[[tuple[int, ...]], list[float]]) -> float:
    """The same of `texts`, when `following` says the probabilities (V,) of the token after some tokens."""
    expected, draws, length = {(): 1.0}, len(texts), len(texts[0])
    for _ in range(length):
        expected = {(*text, token): chance * p for text, chance in expected.items()
                    for token, p in enumerate(following(text)) if p}
    seen = Counter(map(tuple, texts))
    assert set(seen) <= set(expected)
    common = [text for text in product(range(VOCAB), repeat=length) if draws * expected.get(text, 0) >= 5]
    counts, shares = [seen[text] for text in common], [draws * expected[text] for text in common]
    return float(chisquare([*counts, draws - sum(counts)], [*shares, draws - sum(shares)]).pvalue)
