"""Samplers that users ask for: the tokens they keep, the temperatures they take, and what no warp may do."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.decoding.sampled import Sampler
from harness.engine import logit_warps as warps
from harness.engine.engine import Engine
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import PhiloxStream
from harness.plugins.strategy import Request, Strategy
from strategies.dynamic_temperature import DynamicTemperature
from strategies.entropy_temperature import EntropyTemperature
from strategies.greedy import Greedy
from strategies.min_k import MinK
from strategies.p_less import PLess
from strategies.quadratic import Quadratic
from strategies.tail_free import TailFree
from strategies.temperature import Temperature
from strategies.top_a import TopA
from strategies.xtc import XTC
from tests.decode import decode, engine
from tests.models import tiny_model
from tests.scale import scaled
from tests.strategies.test_sampling import D1, kept

NEAR = torch.tensor([[5.0, 4.9, 4.8, 1.0, 0.9, 0.8]])


def request(stream: int = 0) -> Request:
    return Request((5,), 10, PhiloxStream(stream))


def law(sampler: Sampler, logits: Tensor) -> Tensor:
    """The distributions (N, V) that a sampler draws from, temperature included."""
    return sampler.warp(request())(logits, [(5,)] * len(logits)).double().softmax(-1)


@pytest.mark.parametrize(("warp", "logits", "count"), [
    (warps.p_less(), D1, 1), (warps.p_less(norm=True), D1, 2), (warps.p_less(), D1 / 2, 2),
    (warps.p_less(norm=True), D1 / 2, 4), (warps.p_less(), D1 / 5, 3), (warps.p_less(norm=True), D1 / 5, 6),
    (warps.top_a(0.2), D1, 4), (warps.top_a(0.5), D1, 3), (warps.top_a(1), D1, 2),
    (warps.tail_free(0.25), D1, 1), (warps.tail_free(0.5), D1, 3), (warps.tail_free(0.9), D1, 4),
    (warps.tail_free(0.95), D1, 4),
    (warps.min_k(0), D1, 1), (warps.min_k(3), D1, 1), (warps.min_k(3), NEAR, 3), (warps.min_k(0), NEAR, 3),
    (warps.min_k(10), NEAR, 3), (warps.min_k(3), torch.tensor([[0.3, 0.2, 0.1, 0.0]]), 4)])
def test_golden_sets_of_community_samplers(warp: Warp, logits: Tensor, count: int) -> None:
    assert kept(warp, logits) == [set(range(count))]


@pytest.mark.parametrize(("spread", "exponent", "heat"), [(0.5, 1.0, 1.22123), (0.5, 2.0, 1.02017)])
def test_golden_temperatures_by_relative_entropy(spread: float, exponent: float, heat: float) -> None:
    found = law(DynamicTemperature(spread=spread, exponent=exponent), D1)
    assert torch.allclose(found, (D1.double() / heat).softmax(-1), atol=2e-6)


@pytest.mark.parametrize(("sampler", "heat"), [
    (DynamicTemperature(spread=0.6, temperature=0.8), 1.06548), (EntropyTemperature(theta=0.1), 0.98288),
    (EntropyTemperature(theta=0.5), 0.91728), (EntropyTemperature(theta=1.0), 0.84141)], ids=lambda s: str(s))
def test_golden_temperatures(sampler: Sampler, heat: float) -> None:
    assert torch.allclose(law(sampler, D1), (D1.double() / heat).softmax(-1), atol=2e-6)


@pytest.mark.parametrize(("curve", "law_of_d1"), [
    (1.0, (0.2949, 0.2805, 0.2414, 0.1325, 0.0487, 0.0020)), (2.0, (0.3215, 0.3097, 0.2632, 0.0968, 0.0088, 0.0))])
def test_golden_laws_of_quadratic(curve: float, law_of_d1: Sequence[float]) -> None:
    assert law(Quadratic(factor=0.2, curve=curve), D1)[0].tolist() == pytest.approx(law_of_d1, abs=5e-5)


def chances(z: Sequence[float]) -> list[float]:
    total = sum(math.exp(value) for value in z)
    return [math.exp(value) / total for value in z]


def defined(sampler: Sampler, z: Sequence[float]) -> set[int]:
    """The tokens that the sources keep of logits `z`, which are divided by temperature already, step by step."""
    p, size = chances(z), len(z)
    order = sorted(range(size), key=lambda i: (-z[i], i))
    match sampler:
        case PLess(norm=norm):
            bound = sum(x * x for x in p)
            return {i for i in range(size) if p[i] >= ((size * bound - 1) / (size - 1) if norm else bound)}
        case TopA(share=share):
            return {i for i in range(size) if p[i] >= share * max(p) ** 2}
        case MinK(tau=tau):
            span = max(z) - min(z) + 1e-8
            falls = [(z[order[i - 1]] - z[order[i]]) / (i * span) for i in range(1, size)]
            return set(order[:max(falls.index(max(falls)) + 1, min(size, int(tau / span)))])
        case TailFree(z=mass):
            slopes = [b - a for a, b in pairwise(sorted(p, reverse=True))]
            bends = [abs(b - a) for a, b in pairwise(slopes)]
            reached = [sum(bends[:i + 1]) / sum(bends) for i in range(len(bends))]
            return {order[0], *(order[i + 1] for i, share in enumerate(reached) if share <= mass)}
    raise AssertionError(sampler)


CUTS: list[Sampler] = [PLess(), PLess(norm=True), TopA(), TopA(share=1.0), MinK(), MinK(tau=0.0), MinK(tau=60.0),
                       TailFree(), TailFree(z=0.5)]


@pytest.mark.parametrize("vocab", [4, 40, 900])  # 900 is more than are sorted at first
@pytest.mark.parametrize("sampler", CUTS, ids=lambda s: s.spec())
def test_random_sets_are_those_of_the_sources(sampler: Sampler, vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    for spread in (0.3, 1.0, 3.0):
        logits = spread * torch.randn(scaled(6, 30), vocab, generator=generator).double()
        warp = sampler.warp(request()) if isinstance(sampler, MinK) else sampler.kept()
        assert kept(warp, logits) == [defined(sampler, row) for row in logits.tolist()]


def test_the_steepest_fall_is_found_far_down() -> None:
    """Past the tokens that are sorted at first, where the falls before it are many and small."""
    steps = torch.tensor([1e-6] * 600 + [20.0] + [1e-6] * 400)
    logits = -torch.cat([torch.zeros(1), steps.cumsum(0)])[None].double()
    assert [len(tokens) for tokens in kept(warps.min_k(0), logits)] == [601]


def test_the_temperature_does_not_change_what_min_k_keeps_but_what_p_less_keeps() -> None:
    for heat in (0.5, 2.0, 10.0):
        assert (law(MinK(temperature=heat), NEAR) > 0).sum() == 3
    assert [int((law(PLess(temperature=heat), D1) > 0).sum()) for heat in (1.0, 2.0, 5.0)] == [1, 2, 3]


def test_min_k_measures_from_the_smallest_finite_logit() -> None:
    masked = torch.cat([NEAR, torch.full((1, 3), -math.inf)], -1)
    assert kept(warps.min_k(3), masked) == kept(warps.min_k(3), NEAR)
    assert kept(warps.min_k(20), masked) == kept(warps.min_k(20), NEAR) == [set(range(4))]


def test_p_less_of_impossible_tokens_is_that_of_a_smaller_vocabulary() -> None:
    masked = torch.cat([D1, torch.full((1, 50), -math.inf)], -1)
    assert kept(warps.p_less(norm=True), masked) == [{0, 1}]


@pytest.mark.parametrize("warp", [warps.p_less(), warps.p_less(norm=True), warps.min_k(0), warps.top_a(1)])
def test_equal_tokens_are_all_kept(warp: Warp) -> None:
    for size in (2, 3, 7, 97, 2048):
        assert kept(warp, torch.full((2, size), 0.1)) == [set(range(size))] * 2


def test_tail_free_drops_the_last_of_equal_tokens_as_its_source() -> None:
    assert kept(warps.tail_free(0.95), torch.zeros(1, 5)) == [{0, 1, 2, 3}]
    assert kept(warps.tail_free(0.95), torch.zeros(1, 2)) == [{0}]


WARPS: list[Sampler] = [*CUTS, Quadratic(), Quadratic(curve=3.0), DynamicTemperature(), EntropyTemperature(),
                        DynamicTemperature(spread=2.0, exponent=0.5)]
ALL = [*WARPS, XTC(probability=1.0), XTC(probability=1.0, threshold=0.02, temperature=0.7)]


def some(rows: int = 40, vocab: int = 30) -> Tensor:
    logits = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(7))
    logits[:, 4] = logits[::2, 9] = -math.inf
    return logits


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: s.spec())
def test_what_no_warp_may_do(sampler: Sampler) -> None:
    """Make an impossible token possible, depend on a constant or on other rows, or leave no token."""
    found = law(sampler, some())
    assert float(found[:, 4].max()) == float(found[::2, 9].max()) == 0
    assert torch.allclose(law(sampler, some() + 20), found, atol=1e-4)
    assert torch.equal(torch.cat([law(sampler, row[None]) for row in some()]), found)
    assert torch.allclose(found.sum(-1), torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize("sampler", WARPS, ids=lambda s: s.spec())
def test_the_likeliest_token_stays_the_likeliest(sampler: Sampler) -> None:
    assert torch.equal(law(sampler, some()).argmax(-1), some().argmax(-1))


def test_a_certain_token_is_taken_at_any_temperature() -> None:
    """Where the entropy is 0 the temperature may be 0, and no division by it may give NaN."""
    sure = torch.tensor([[200.0, 0.0, -5.0], [0.0, -math.inf, -math.inf]])
    for sampler in (DynamicTemperature(spread=1.0), DynamicTemperature(spread=3.0), EntropyTemperature()):
        assert law(sampler, sure).tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("sampler", [DynamicTemperature(), EntropyTemperature()], ids=lambda s: s.name)
def test_the_temperature_rises_with_the_entropy(sampler: Sampler) -> None:
    """The same two tokens lie closer together where the others are likelier."""
    gaps = []
    for rest in (-5.0, 0.0, 1.0):
        one, two, *_ = law(sampler, torch.tensor([[2.0, 1.0, *[rest] * 20]]))[0].log().tolist()
        gaps.append(one - two)
    assert all(high > low for high, low in pairwise(gaps))


@pytest.fixture(scope="module")
def target() -> Engine:
    return engine(tiny_model("llama"))


@pytest.mark.parametrize("strategy", [
    TopA(share=0), TailFree(z=1), Quadratic(factor=0), DynamicTemperature(spread=0), EntropyTemperature(theta=0),
    EntropyTemperature(base=1.0), MinK(tau=1e6), XTC(probability=0), XTC(probability=1, threshold=0.51)],
    ids=lambda s: s.spec())
def test_the_neutral_knob_is_plain_sampling(strategy: Sampler, target: Engine) -> None:
    for heat in (1.0, 1.5):
        changed = type(strategy)(**{**cast(Any, strategy.values()), "temperature": heat})
        for sample in range(scaled(1, 4)):
            assert decode(changed, target, [5, 6, 7], sample=sample) == \
                decode(Temperature(temperature=heat), target, [5, 6, 7], sample=sample)


@pytest.mark.parametrize("strategy", [
    *(cls(temperature=0) for cls in dict.fromkeys(map(type, WARPS))), PLess(temperature=0.005),
    XTC(probability=0, temperature=0)],
    ids=lambda s: s.spec())
def test_at_temperature_zero_they_are_greedy(strategy: Strategy, target: Engine) -> None:
    assert decode(strategy, target, [5, 6, 7]) == decode(Greedy(), target, [5, 6, 7])
