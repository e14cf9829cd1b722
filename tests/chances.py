"""The law of what a whole strategy writes, on a vocabulary so small that every continuation can be counted."""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from itertools import product

import torch
from scipy.stats import chisquare

from harness.engine import logit_warps
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.plugins.strategy import Strategy
from tests.decode import decode, engine
from tests.models import tiny_model

VOCAB, LENGTH, DRAWS = 6, 4, 4000  # the first token is undrafted: four leave room for two drafted levels
PROMPT = [3, 4, 5, 3, 4]
TEMPERATURE, MASS = 0.8, 0.9


@cache
def target() -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, sharpness=0.8))


@cache
def draft() -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, seed=1, sharpness=0.8))


@cache
def expected() -> dict[tuple[int, ...], float]:
    """The probability of every continuation of LENGTH tokens under temperature and nucleus."""
    law = logit_warps.compose(logit_warps.temperature(TEMPERATURE), logit_warps.top_p(MASS))

    def following(text: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = target().model(torch.tensor([text])).logits[0, -1:].float()
        return law(logits, [text])[0].double().softmax(-1).tolist()
    found = {(): 1.0}
    for _ in range(LENGTH):
        found = {(*text, token): chance * p for text, chance in found.items()
                 for token, p in enumerate(following([*PROMPT, *text])) if p}
    return found


@torch.inference_mode()
def p_value(strategy: Strategy, drafter: Callable[[], Engine] | None) -> float:
    """Chi-square of the strategy's outputs against the exact law; rare continuations are pooled."""
    small = drafter() if drafter else None
    jobs = [partial(decode, strategy, target(), PROMPT, draft=small, new=LENGTH, eos=None,
                    stream=PhiloxStream("law", strategy.spec(), i)) for i in range(DRAWS)]
    said = run_batched([target(), small] if small else [target()], jobs, 64)
    seen = Counter(tuple(tokens) for tokens in said if isinstance(tokens, list))
    assert set(seen) <= set(expected())
    common = [text for text in product(range(VOCAB), repeat=LENGTH) if DRAWS * expected().get(text, 0) >= 5]
    counts, shares = [seen[text] for text in common], [DRAWS * expected()[text] for text in common]
    return float(chisquare([*counts, DRAWS - sum(counts)], [*shares, DRAWS - sum(shares)]).pvalue)
