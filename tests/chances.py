"""The output distribution of a whole strategy, on a vocabulary so small that all continuations can be counted."""

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
from tests.scale import scaled

VOCAB = 6
PROMPT = [3, 4, 5, 3, 4]
TEMPERATURE, MASS = 0.8, 0.9
DRAWS, LENGTH = scaled(150, 300), 6  # of `by_token`: as powerful as ten times as many whole continuations
CERTAIN = 1e-6  # smaller p-values of `by_token` need no second set of draws
MANY, SHORT = 1200, 4  # of `by_continuation`: the first token is undrafted, four leave room for two drafted levels

PValue = Callable[..., float]


@cache
def target() -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, sharpness=0.8, layers=2))


@cache
def draft() -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, seed=1, sharpness=0.8, layers=2))


def drawn(strategy: Any, on: Engine, small: Engine | None, draws: int, length: int,
          key: str = "law") -> list[list[int]]:
    """Sample `draws` continuations of PROMPT, each with its own random stream."""
    jobs = [partial(decode, strategy, on, PROMPT, draft=small, new=length, eos=None,
                    stream=PhiloxStream(key, strategy.spec(), i)) for i in range(draws)]
    sequences = run_batched([on, small] if small else [on], jobs, 64)
    assert all(isinstance(sequence, list) for sequence in sequences), sequences
    return sequences


@torch.inference_mode()
def by_token(strategy: Any, drafter: Callable[[], Engine] | None, on: Engine | None = None,
             draws: int = DRAWS) -> float:
    """Compute the p-value of every token under its exact distribution given the tokens before it, as `verify` does.

    A small one may be chance: it is then replaced by that of four times as many new draws.
    """
    on, small = on or target(), drafter() if drafter else None

    def p_value(draws: int, key: str) -> float:
        evidence = Evidence(Distribution(strategy.temperature, strategy.p))
        evidence.add(on, small, PROMPT, drawn(strategy, on, small, draws, LENGTH, key), 0)
        assert evidence.tokens == draws * LENGTH
        return evidence.p_value()
    first = p_value(draws, "law")
    return first if first > 0.01 or first < CERTAIN else p_value(4 * draws, "again")


@torch.inference_mode()
def by_continuation(strategy: Any, drafter: Callable[[], Engine] | None, on: Engine | None = None) -> float:
    """Compute the chi-square p-value of whole continuations under their exact probabilities; rare ones are pooled."""
    on, small = on or target(), drafter() if drafter else None
    exact = Distribution(strategy.temperature, strategy.p)

    def following(sequence: tuple[int, ...]) -> list[float]:
        return exact.probs(on.model(torch.tensor([[*PROMPT, *sequence]])).logits[0, -1]).tolist()
    return chi_square(drawn(strategy, on, small, MANY, SHORT), following)


def chi_square(sequences: list[list[int]], following: Callable[[tuple[int, ...]], list[float]]) -> float:
    """Compute the p-value of `sequences`, if `following` gives the probabilities (V,) of the token after a prefix."""
    expected, draws, length = {(): 1.0}, len(sequences), len(sequences[0])
    for _ in range(length):
        expected = {(*sequence, token): chance * p for sequence, chance in expected.items()
                    for token, p in enumerate(following(sequence)) if p}
    seen = Counter(map(tuple, sequences))
    assert set(seen) <= set(expected)
    common = [sequence for sequence in product(range(VOCAB), repeat=length) if draws * expected.get(sequence, 0) >= 5]
    counts, shares = [seen[sequence] for sequence in common], [draws * expected[sequence] for sequence in common]
    return float(chisquare([*counts, draws - sum(counts)], [*shares, draws - sum(shares)]).pvalue)
