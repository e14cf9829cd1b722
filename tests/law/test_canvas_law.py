"""Masks filled by exact marginals: one at a time gives the joint distribution, several at once what can be computed.

The closed forms are those of specs/architectures, C4, after ParallelBench (arXiv 2510.04767).
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from scipy.stats import binomtest, chisquare

from harness.decoding.canvas_loop import Predicted
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from strategies.canvas_schedule import CanvasSchedule
from tests.canvases import MASK, TableDenoiser, table
from tests.decode import decode
from tests.scale import scaled

Text = tuple[int, ...]
DRAWS = scaled(300, 2000)


def shuffles(count: int) -> dict[Text, float]:
    """All orders of `count` names."""
    return {tuple(1 + i for i in order): 1.0 for order in itertools.permutations(range(count))}


def replacements(count: int) -> dict[Text, float]:
    """`count` names, one of which, any, is replaced by a new one."""
    return {tuple(count + 1 if i == place else 1 + i for i in range(count)): 1.0 for place in range(count)}


UNEVEN = {(1, 1, 2): 0.4, (1, 2, 1): 0.1, (2, 1, 1): 0.2, (2, 2, 2): 0.05, (2, 1, 2): 0.25}
JOINTS: Mapping[str, Mapping[Text, float]] = {
    "uneven": UNEVEN, "shuffle 3": shuffles(3), "replace 3": replacements(3)}


@cache
def engine(name: str) -> Engine:
    return table(JOINTS[name])


@dataclass(frozen=True)
class Greedily(CanvasSchedule):
    """Closes `tokens` masks in each step, and what is left in the last one."""

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        return min(self.tokens, len(scores))


def texts(strategy: Strategy, on: Engine, count: int, draws: int = DRAWS) -> Counter[Text]:
    return Counter(tuple(decode(strategy, on, [MASK], new=count, eos=None, stream=PhiloxStream("canvas", i)))
                   for i in range(draws))


def p_value(name: str, order: str) -> float:
    """Of one token at a time against the joint distribution."""
    joint, total = JOINTS[name], sum(JOINTS[name].values())
    found = texts(STRATEGIES.build(f"canvas_schedule:temperature=1,order={order}"), engine(name), 3)
    assert set(found) <= set(joint)
    return float(chisquare([found[text] for text in joint], [DRAWS * p / total for p in joint.values()]).pvalue)


@pytest.mark.parametrize("order", ["margin", "entropy", "random"])
@pytest.mark.parametrize("name", JOINTS)
def test_one_token_at_a_time_is_the_joint_distribution_in_any_order(name: str, order: str) -> None:
    assert p_value(name, order) > 1e-3


def test_an_order_by_the_tokens_that_were_drawn_is_another_distribution() -> None:
    """Likely tokens are closed first, and unlikely ones drawn again: the order of LLaDA and Fast-dLLM at a temperature.
    """
    assert p_value("uneven", "probability") < 1e-9


@pytest.mark.parametrize("spec", ["canvas_schedule:tokens=3", "canvas_threshold:threshold=0", "entropy_bound:gamma=9"])
def test_several_at_once_are_not(spec: str) -> None:
    found = texts(STRATEGIES.build(f"{spec},temperature=1"), engine("uneven"), 3)
    assert sum(found[text] for text in UNEVEN) < 0.9 * DRAWS
    marginals = TableDenoiser(UNEVEN).marginals([MASK] * 3)
    product = {text: float(math.prod(marginals[place, token] for place, token in enumerate(text)))
               for text in itertools.product((1, 2), repeat=3)}
    assert chisquare([found[text] for text in product], [DRAWS * p for p in product.values()]).pvalue > 1e-3


def accuracy(joint: Mapping[Text, float], at_once: int) -> float:
    """The exact chance that a text is one of `joint`, with `at_once` masks drawn from their marginals in each step."""
    denoiser, count = TableDenoiser(joint), len(next(iter(joint)))

    @cache
    def chance(text: Text) -> float:
        places = [place for place, token in enumerate(text) if token == MASK]
        if not places:
            return float(text in joint)
        if not any(all(a in (MASK, b) for a, b in zip(text, whole, strict=True)) for whole in joint):
            return 0.0
        chosen, marginals = list(itertools.combinations(places, min(at_once, len(places)))), denoiser.marginals(text)
        return sum(p * chance(then) for some in chosen for then, p in filled(text, some, marginals)) / len(chosen)
    return chance((MASK,) * count)


def filled(text: Text, places: Sequence[int], marginals: torch.Tensor) -> Iterator[tuple[Text, float]]:
    """All ways to fill some places, with their probabilities."""
    for tokens in itertools.product(*(marginals[place].nonzero().flatten().tolist() for place in places)):
        then = list(text)
        for place, token in zip(places, tokens, strict=True):
            then[place] = token
        yield tuple(then), math.prod(float(marginals[place, token])
                                     for place, token in zip(places, tokens, strict=True))


@pytest.mark.parametrize(("joint", "expected"), [
    (shuffles(4), {1: 1.0, 2: 0.3750, 3: 0.3750, 4: 0.0938}),
    (replacements(4), {1: 1.0, 2: 0.6562, 3: 0.8438, 4: 0.4219}),
    (replacements(6), {1: 1.0, 2: 0.7335, 3: 0.6044, 4: 0.6269, 6: 0.4019})])
def test_the_accuracy_of_several_at_once_is_known(joint: dict[Text, float], expected: dict[int, float]) -> None:
    assert {k: round(accuracy(joint, k), 4) for k in expected} == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(("joint", "at_once"), [(shuffles(4), 2), (shuffles(4), 4), (replacements(4), 2),
                                                (replacements(6), 4)])
def test_the_loop_has_the_accuracy_that_is_known(joint: dict[Text, float], at_once: int) -> None:
    found = texts(Greedily(tokens=at_once, order="random", temperature=1.0), table(joint), len(next(iter(joint))))
    right = sum(found[text] for text in joint)
    assert binomtest(right, DRAWS, accuracy(joint, at_once)).pvalue > 1e-3


def test_the_likeliest_tokens_at_once_replace_nothing() -> None:
    for count in (3, 4, 6):
        found = texts(STRATEGIES.build(f"canvas_schedule:tokens={count}"), table(replacements(count)), count, 1)
        assert list(found) == [tuple(range(1, count + 1))]


def test_the_bounds_close_what_is_independent_and_nothing_else() -> None:
    """Where one place decides all others, every rule that looks at chances needs two steps, and gets them right."""
    joint = {(1, 3, 5): 1.0, (2, 4, 6): 1.0}
    for spec in ("canvas_threshold", "canvas_factor", "canvas_frechet", "entropy_bound"):
        on = table(joint)
        found = texts(STRATEGIES.build(f"{spec}:temperature=1"), on, 3, 20)
        assert set(found) == set(joint)
        assert on.forwards == 2 * 20
