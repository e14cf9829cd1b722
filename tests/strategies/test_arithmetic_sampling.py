"""Arithmetic sampling: each sample has its own distribution, and together the samples cover it."""

import math
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from functools import cache, partial
from itertools import combinations
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, ttest_rel
from torch import Tensor

from harness.backends.transformers import open_session
from harness.decoding.samples import nth
from harness.engine.batching import run_batched
from harness.engine.random_stream import PhiloxStream
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from strategies.arithmetic_sampling import ArithmeticSampling, Code, interval
from tests.chances import PROMPT, chi_square, draft, target
from tests.decode import decode
from tests.scale import scaled

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LENGTH = 4


def sampling(n: int = 8, variant: str = "paper", over: str = "temperature") -> ArithmeticSampling:
    found = STRATEGIES.build(f"{over}+arithmetic_sampling:n={n},variant={variant}")
    assert isinstance(found, ArithmeticSampling)
    return found


def request(sample: int, prompt: object = 0) -> Request:
    return Request(tuple(PROMPT), LENGTH, PhiloxStream(prompt, sample), sample=sample,
                   shared=PhiloxStream(prompt, "all"))


def codes(n: int, variant: str, prompt: object = 0, samples: int = 0) -> list[float]:
    found = [sampling(n, variant).code(request(i, prompt)) for i in range(samples or n)]
    return [each.value for each in found if isinstance(each, Code)]


def test_the_golden_codes() -> None:
    found = [interval(P, code) for code in (0.3, 0.5, 0.7, 0.9)]
    assert [index for index, _, _ in found] == [0, 1, 1, 2]
    rest = [Code(PhiloxStream(0), code, 0.2) for code in (0.3, 0.5, 0.7, 0.9)]
    assert [each.choose(P) for each in rest] == [0, 1, 1, 2]
    assert [each.value for each in rest] == pytest.approx([0.6, 0, 2 / 3, 0.5], abs=1e-12)
    assert [each.width for each in rest] == pytest.approx([0.5, 0.3, 0.3, 0.2])


@pytest.mark.parametrize(("variant", "spaces"), [("paper", 9), ("systematic", 8)])
def test_codes_are_evenly_spaced(variant: str, spaces: int) -> None:
    found = codes(8, variant)
    shifts = [(code - i / spaces) % 1 for i, code in enumerate(found)]
    assert shifts == pytest.approx([shifts[0]] * 8)
    assert codes(8, variant) == found
    assert codes(8, variant, "another") != found
    assert len({round(code * spaces % 1, 9) for code in codes(8, variant, samples=24)}) == 3  # further shifts


def test_systematic_codes_leave_no_room_for_chance() -> None:
    counts = Counter(sum(interval(P, code)[0] == 0 for code in codes(8, "systematic", i)) for i in range(50))
    assert counts == {4: 50}
    assert {sum(interval(P, code)[0] == 0 for code in codes(8, "paper", i)) for i in range(50)} <= {3, 4, 5}


def test_a_token_of_probability_zero_has_no_interval() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0])
    assert [interval(weights, code) for code in (0.0, 0.2, 0.25, 1 - 2.0 ** -53)] == \
        [(1, 0, 0.25), (1, 0, 0.25), (3, 0.25, 1), (3, 0.25, 1)]


def test_a_coin_is_an_interval_too() -> None:
    code = Code(PhiloxStream(0), 0.7, 0.01)
    assert (code.coin(0.6), code.value, code.width) == (False, pytest.approx(0.25), pytest.approx(0.4))
    assert (code.coin(0.5), code.value, code.width) == (True, pytest.approx(0.5), pytest.approx(0.2))
    assert (code.coin(1.0), code.coin(0.0), code.width) == (True, False, pytest.approx(0.2))


def following(sequence: tuple[int, ...]) -> list[float]:
    logits: Tensor = target().model(torch.tensor([[*PROMPT, *sequence]])).logits[0, -1]
    return logits.double().softmax(-1).tolist()


def answer(strategy: Strategy, asked: Request) -> list[int]:
    session, text = open_session(strategy, [target(), draft()]), list[int]()
    for step in strategy.generate(session, asked):
        text += step
        if len(text) >= LENGTH:
            break
    session.close()
    return text[:LENGTH]


@cache
def texts(spec: str, prompts: int, n: int) -> list[list[list[int]]]:
    """For each of many prompts, which differ in their random streams only, all samples."""
    strategy = STRATEGIES.build(spec)
    jobs = [partial(answer, strategy, request(i, prompt)) for prompt in range(prompts) for i in range(n)]
    found = run_batched([target(), draft()], jobs, 64)
    return [found[start:start + n] for start in range(0, len(found), n)]


@pytest.mark.parametrize("spec", [
    "temperature+arithmetic_sampling:n=4", "temperature+arithmetic_sampling:n=4,variant=systematic",
    "temperature+arithmetic_sampling:n=4,variant=antithetic", "temperature+arithmetic_sampling:n=1000",
    "speculative:temperature=1,gamma=2+arithmetic_sampling:n=4"])
@torch.inference_mode()
def test_each_sample_alone_has_the_distribution_of_the_other_strategy(spec: str) -> None:
    """Of sample 1 of many prompts; with n = 1000 the code decides about nearly all tokens."""
    drawn = [samples[1] for samples in texts(spec, scaled(300, 800), 2)]
    assert chi_square(drawn, cache(following)) > 1e-3


@torch.inference_mode()
def test_fewer_samples_begin_in_the_same_way() -> None:
    """Two samples share a beginning only if it is likelier than the distance of two codes."""
    shared, prompts, n = Counter[str](), scaled(40, 100), 8
    probability = cache(lambda text: 1.0 if not text else probability(text[:-1]) * following(text[:-1])[text[-1]])
    for variant, distance in (("paper", 1 / 9), ("systematic", 1 / 8)):
        for samples in texts(f"temperature+arithmetic_sampling:n={n},variant={variant}", prompts, n):
            for one, two in combinations(samples, 2):
                alike = next((i for i in range(LENGTH) if one[i] != two[i]), LENGTH)
                assert probability(tuple(one[:alike])) > distance
    for spec in ("temperature", f"temperature+arithmetic_sampling:n={n}"):
        for samples in texts(spec, prompts, n):
            shared[spec] += n - len({tuple(text[:2]) for text in samples})
    assert shared[f"temperature+arithmetic_sampling:n={n}"] < 0.7 * shared["temperature"]


def share(samples: Sequence[Sequence[int]]) -> float:
    """How many samples begin with the likeliest token."""
    law = following(())
    return sum(text[0] == law.index(max(law)) for text in samples) / len(samples)


@pytest.mark.parametrize("variant", ["paper", "systematic", "antithetic"])
@torch.inference_mode()
def test_shares_vary_less_than_those_of_independent_samples(variant: str) -> None:
    prompts = scaled(120, 200)
    spread = {}
    for spec in ("temperature", f"temperature+arithmetic_sampling:n=8,variant={variant}"):
        means = torch.tensor([share(samples) for samples in texts(spec, prompts, 8)], dtype=torch.float64)
        spread[spec] = ((means - means.mean()) ** 2).tolist()
    plain, ours = spread.values()
    assert ttest_rel(plain, ours, alternative="greater").pvalue < 0.01


def test_mirrored_pairs_take_opposite_numbers() -> None:
    """Sorted by probability: where one sample has a likely token, the other has an unlikely one."""
    weights, pairs, alone = torch.tensor([0.1, 0.6, 0.3]), Counter[tuple[int, int]](), Counter[int]()
    for prompt in range(600):
        one, two = (sampling(variant="antithetic").code(request(i, prompt)).choose(weights) for i in (6, 7))
        pairs[one, two] += 1
        alone[two] += 1
    assert chisquare([alone[i] for i in range(3)], [60, 360, 180]).pvalue > 1e-3
    assert set(pairs) == {(1, 1), (1, 0), (1, 2), (2, 1), (0, 1)}  # never two of the lower 0.4 at once


def test_answers_of_one_request_are_one_group() -> None:
    """As self_consistency and others sample them, each with a copy of the shared stream, or of the only one."""
    for shared in (PhiloxStream("all"), None):
        whole = Request((5,), LENGTH, PhiloxStream(0), shared=shared)
        found: list[Any] = [sampling(4).code(nth(deepcopy(whole), i, i)) for i in range(4)]
        assert [(each.value - found[0].value) % 1 for each in found] == pytest.approx([0, 0.2, 0.4, 0.6])


def test_at_temperature_zero_every_code_gives_the_same() -> None:
    greedy = decode(STRATEGIES.build("greedy"), target(), PROMPT, eos=None)
    for sample in (0, 3):
        assert decode(sampling(over="temperature:temperature=0"), target(), PROMPT, sample=sample, eos=None) == greedy


def test_rounding_of_probabilities_decides_about_no_token() -> None:
    """After a beginning that no other sample can have, the sample's own stream decides."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(200, 50, generator=generator, dtype=torch.float64)
    drawn = []
    for noise in (0.0, 1e-7):
        code = sampling(8).code(request(3))
        drawn.append([code.choose(row * (1 + noise * (-1) ** torch.arange(50))) for row in weights])
    assert drawn[0] == drawn[1]
    assert not math.isnan(sum(drawn[0]))
