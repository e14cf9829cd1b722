"""Whole strategies on a tiny model: their outputs follow the law of plain sampling, and a planted bug does not."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
import torch
from scipy.stats import chisquare

from harness.decoding import accept, warp
from harness.decoding.draw import PhiloxStream
from harness.decoding.engine import Engine
from harness.strategy import Strategy
from strategies.prompt_lookup import PromptLookup
from strategies.speculative import Speculative
from strategies.top_p import TopP
from tests.decode import decode, engine
from tests.models import tiny_model

VOCAB, LENGTH, DRAWS = 6, 3, 2500
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
    """The probability of every continuation of three tokens under temperature and nucleus."""
    law = warp.compose(warp.temperature(TEMPERATURE), warp.top_p(MASS))

    def following(text: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = target().model(torch.tensor([text])).logits[0, -1:].float()
        return law(logits, [text])[0].double().softmax(-1).tolist()
    found = {(): 1.0}
    for _ in range(LENGTH):
        found = {(*text, token): chance * p for text, chance in found.items()
                 for token, p in enumerate(following([*PROMPT, *text])) if p}
    return found


def p_value(strategy: Strategy, drafter: Callable[[], Engine] | None) -> float:
    """Chi-square of the strategy's outputs against the exact law; rare continuations are pooled."""
    seen = Counter(tuple(decode(strategy, target(), PROMPT, draft=drafter() if drafter else None, new=LENGTH, eos=None,
                                stream=PhiloxStream("law", strategy.spec(), i))) for i in range(DRAWS))
    assert set(seen) <= set(expected())
    common = [text for text in product(range(VOCAB), repeat=LENGTH) if DRAWS * expected().get(text, 0) >= 5]
    counts = [seen[text] for text in common]
    shares = [DRAWS * expected()[text] for text in common]
    counts.append(DRAWS - sum(counts))
    shares.append(DRAWS - sum(shares))
    return float(chisquare(counts, shares).pvalue)


@pytest.mark.parametrize(("strategy", "drafter"), [
    (TopP(p=MASS, temperature=TEMPERATURE), None),
    (Speculative(gamma=2, temperature=TEMPERATURE, p=MASS), draft),
    (PromptLookup(max_ngram=2, length=2, temperature=TEMPERATURE, p=MASS), None),
], ids=["top_p", "speculative", "prompt_lookup"])
def test_the_law_is_kept(strategy: Strategy, drafter: Callable[[], Engine] | None) -> None:
    assert p_value(strategy, drafter) > 1e-3


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing from p instead of what a rejection leaves of it is the classic mistake."""
    monkeypatch.setattr(accept, "_rejected", lambda p, q, token, replacement: (p, q))
    assert p_value(Speculative(gamma=2, temperature=TEMPERATURE, p=MASS), draft) < 1e-6
