"""Samplers against their definitions: the tokens kept, the distribution sampled, and Mirostat's feedback."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from scipy.stats import chisquare

from harness.decoding.sampled import Sampler
from harness.engine import logit_warps as warps
from harness.engine.engine import Engine
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import PhiloxStream
from harness.engine.tree import EMPTY
from strategies.epsilon import Epsilon
from strategies.eta import Eta
from strategies.greedy import Greedy
from strategies.min_p import MinP
from strategies.mirostat import Mirostat, Steered, size, zipf
from strategies.temperature import Temperature
from strategies.top_h import TopH
from strategies.top_k import TopK
from strategies.top_nsigma import TopNSigma
from strategies.top_p import TopP
from strategies.typical import Typical
from tests.decode import decode
from tests.markov import Markov
from tests.scale import scaled
from tests.strategies.test_sampling import D1, kept

HOT = 2.0
Q = torch.tensor([0.461623, 0.279988, 0.169822, 0.062474, 0.022983, 0.003110])


def chances(z: Sequence[float]) -> list[float]:
    total = sum(map(math.exp, z))
    return [math.exp(value) / total for value in z]


def entropy(p: Sequence[float]) -> float:
    return -sum(x * math.log(x) for x in p)


def shortest(p: Sequence[float], order: Sequence[int], mass: float) -> set[int]:
    return set(order[:next(n for n in range(1, len(p) + 1) if n == len(p) or sum(p[i] for i in order[:n]) >= mass)])


def defined(strategy: Sampler, z: Sequence[float]) -> set[int]:
    """The tokens that the papers keep of logits `z`, which are divided by temperature already."""
    p = chances(z)
    nats, order, each = entropy(p), sorted(range(len(p)), key=lambda i: -p[i]), range(len(p))
    match strategy:
        case TopK(k=k):
            return set(order[:k])
        case TopP(p=mass):
            return shortest(p, order, mass)
        case MinP(share=share):
            return {i for i in each if p[i] >= share * max(p)}
        case Typical(mass=mass):
            return shortest(p, sorted(each, key=lambda i: abs(-math.log(p[i]) - nats)), mass)
        case Epsilon(least=least):
            return {i for i in each if p[i] >= least} | {order[0]}
        case Eta(least=least):
            return {i for i in each if p[i] >= min(least, math.sqrt(least) * math.exp(-nats))} | {order[0]}
        case TopNSigma(n=n):
            return {i for i in each if z[i] >= max(z) - n * statistics.stdev(z)}
        case TopH(share=share):
            return {order[0]} | {order[n] for n in each
                                 if entropy([p[i] for i in order[:n + 1]]) <= share * nats}
    return set(each)


def test_the_numbers_of_the_distribution() -> None:
    """Specs/quality 0.3: p, its entropy, the threshold of eta, and the deviation of the logits."""
    z = D1[0].tolist()
    assert chances(z) == pytest.approx(Q.tolist(), abs=5e-7)
    assert entropy(chances(z)) == pytest.approx(1.292271, abs=5e-7)
    assert math.sqrt(0.3) * math.exp(-entropy(chances(z))) == pytest.approx(0.150430, abs=5e-7)
    assert statistics.stdev(z) == pytest.approx(1.8552, abs=5e-5)


@pytest.mark.parametrize(("law", "sets"), [
    (warps.top_p, [(0.4616, 1), (0.4617, 2), (0.7416, 2), (0.7417, 3), (0.9114, 3), (0.9115, 4), (0.9739, 4)]),
    (warps.min_p, [(0.6066, 1), (0.6065, 2), (0.3679, 2), (0.3678, 3), (0.1354, 3), (0.1353, 4)]),
    (warps.epsilon, [(0.2800, 1), (0.2799, 2), (0.1699, 2), (0.1698, 3), (0.0625, 3), (0.0624, 4)]),
    (warps.eta, [(0.3824, 2), (0.3823, 3), (0.0625, 3), (0.0624, 4), (0.0230, 4), (0.0229, 5)]),
    (warps.top_nsigma, [(0.2695, 1), (0.2696, 2), (0.5390, 2), (0.5391, 3), (1.0780, 3), (1.0781, 4)]),
    (warps.top_h, [(0.5519, 1), (0.5520, 2), (0.7849, 2), (0.7850, 3)])],
    ids=lambda each: getattr(each, "__name__", ""))
def test_where_the_next_token_comes_in(law: Any, sets: list[tuple[float, int]]) -> None:
    for value, count in sets:
        assert kept(law(value), D1) == [set(range(count))], value


@pytest.mark.parametrize(("mass", "tokens"), [
    (0.2799, {1}), (0.2800, {1, 2}), (0.4498, {1, 2}), (0.4499, {0, 1, 2}), (0.9114, {0, 1, 2}),
    (0.9115, {0, 1, 2, 3})])
def test_where_the_next_typical_token_comes_in(mass: float, tokens: set[int]) -> None:
    assert kept(warps.typical(mass), D1) == [tokens]


SAMPLERS: list[Sampler] = [TopK(k=2), TopP(p=0.8), MinP(share=0.3), Typical(mass=0.8), Epsilon(least=0.18),
                           Eta(least=0.4), TopNSigma(n=1.0), TopH(share=0.7), Temperature()]


@pytest.mark.parametrize("strategy", SAMPLERS, ids=lambda s: s.name)
def test_the_distribution_is_that_of_the_definition(strategy: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temperature comes before what is left out; 100 000 draws of the nucleus, and fewer of the others."""
    monkeypatch.setattr("harness.decoding.sampled.one_by_one", lambda session, accept, request, law: (accept, law))
    hot = type(strategy)(**{**strategy.values(), "temperature": HOT})  # type: ignore[arg-type]
    accept, law = cast(Any, hot.generate(None, None))  # type: ignore[arg-type]
    p, tokens = chances((D1[0] / HOT).tolist()), sorted(defined(hot, (D1[0] / HOT).tolist()))
    settled = isinstance(strategy, TopK | TopNSigma | Temperature)
    assert settled == (set(tokens) == defined(strategy, D1[0].tolist()))  # the order of the two is put to the test
    stream = PhiloxStream("D1", strategy.name)
    draws = scaled(20_000, 100_000) if isinstance(strategy, TopP) else scaled(2000, 8000)
    bent = law(D1, [()])
    seen = Counter(accept(EMPTY, bent, stream)[1] for _ in range(draws))
    assert set(seen) <= set(tokens)
    share = sum(p[i] for i in tokens)
    assert len(tokens) == 1 or chisquare([seen[i] for i in tokens], [draws * p[i] / share for i in tokens]
                                         ).pvalue > 1e-3


def some(rows: int = 60, vocab: int = 40) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("strategy", SAMPLERS, ids=lambda s: s.name)
def test_the_sets_of_random_laws_are_those_of_the_definition(strategy: Sampler) -> None:
    logits = some().double()
    assert kept(strategy.kept(), logits) == [defined(strategy, row) for row in logits.tolist()]
    assert kept(strategy.kept(), logits + 30) == kept(strategy.kept(), logits - 7) == kept(strategy.kept(), logits)


@pytest.mark.parametrize("mass", [0.3, 0.8, 0.95])
def test_the_nucleus_has_its_mass_and_would_not_without_its_last_token(mass: float) -> None:
    logits = some()
    for row, tokens in zip(logits.softmax(-1), kept(warps.top_p(mass), logits), strict=True):
        inside = row[sorted(tokens)]
        assert float(inside.sum()) >= mass - 1e-6
        assert float(inside.sum() - inside.min()) < mass


def test_min_p_keeps_fewer_the_higher_the_share() -> None:
    sets = [kept(warps.min_p(share), some()) for share in (0.0, 0.01, 0.05, 0.1, 0.3, 0.7, 1.0)]
    for more, fewer in pairwise(sets):
        assert all(b <= a for a, b in zip(more, fewer, strict=True))
    assert [len(tokens) for tokens in sets[0]] == [40] * 60
    assert all(len(tokens) == 1 for tokens in sets[-1])


def test_entropy_rises_with_temperature() -> None:
    values = [torch.special.entr(warps.temperature(heat)(some(), []).softmax(-1)).sum(-1)
              for heat in (0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0)]
    assert all(bool((low < high).all()) for low, high in pairwise(values))


def test_in_a_flat_distribution_the_first_tokens_are_typical() -> None:
    flat = torch.zeros(1, 10)
    found = [kept(warps.typical(mass), flat) for mass in (0.05, 0.45, 0.95)]
    assert found == [[{0}], [set(range(5))], [set(range(10))]]


def test_cold_draws_are_greedy() -> None:
    """Not because they are routed to it: at .005 the distribution itself has one token."""
    chain = Engine(Markov(some(4, 4).softmax(-1)), 64)
    for prompt in ([0], [1, 3], [2], [3]):
        assert decode(Temperature(temperature=0.005), chain, prompt, eos=None) == \
            decode(Greedy(), chain, prompt, eos=None)


@pytest.mark.parametrize("vocab", [97, 2000, 50_000])
def test_the_size_of_mirostat_is_its_formula(vocab: int) -> None:
    """Specs/quality 1.8."""
    for s, mu in ((0.7, 2.0), (1.2, 1.0), (1.2, 6.0), (1.6, 6.0), (2.0, 8.0)):
        ideal = ((s - 1) * 2**mu / (1 - vocab**(1 - s))) ** (1 / s)
        assert size(s, mu, vocab) == min(vocab, round(ideal) + 1)
    assert size(1.0, 5.0, vocab) == pytest.approx(size(1 + 1e-6, 5.0, vocab), abs=1)
    assert (size(0.0, 5.0, vocab), size(-0.5, 5.0, vocab)) == (vocab, vocab)


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_mirostat_learns_from_the_whole_distribution(rate: float) -> None:
    """mu moves by `rate` times what the drawn token's surprise was off, in bits, before anything was left out."""
    logits, text = some(6, 50), [0]
    steered = Steered(Mirostat(target=1.5, rate=rate))
    mu = 3.0
    for row, drawn in zip(logits, (49, 3, 20, 7, 0, 11), strict=True):
        found = steered.warp(row[None], [text])
        assert steered.mu == pytest.approx(mu, abs=1e-6)
        fit = zipf((-row.double().log_softmax(-1)).sort().values[:101])
        assert int(found.isfinite().sum()) == size(fit, mu, 50)
        mu -= rate * (-float(row.double().log_softmax(-1)[drawn]) / math.log(2) - 1.5)
        text.append(drawn)


def test_mirostat_fits_the_given_number_of_ratios() -> None:
    logits, counts = some(1, 300), dict[int, int]()
    surprise = (-logits[0].double().log_softmax(-1)).sort().values
    for fitted in (1, 5, 100, 10_000):
        found = Steered(Mirostat(fitted=fitted, target=4.0)).warp(logits, [[0]])
        counts[fitted] = int(found.isfinite().sum())
        assert counts[fitted] == size(zipf(surprise[:fitted + 1]), 8.0, 300)
    assert len(set(counts.values())) > 2


def test_mirostat_takes_impossible_tokens_for_what_they_are() -> None:
    logits = some(1, 60)
    logits[0, 3:] = -math.inf
    found = Steered(Mirostat()).warp(logits, [[0]])
    assert not found.isnan().any()
    assert 1 <= int(found.isfinite().sum()) <= 3
    assert math.isfinite(zipf(torch.tensor([0.1, 0.5, math.inf, math.inf], dtype=torch.float64)))
    assert zipf(torch.tensor([0.0, math.inf], dtype=torch.float64)) == 0.0


def test_warps_of_all_rows_are_those_of_each_alone() -> None:
    laws: list[Warp] = [strategy.kept() for strategy in SAMPLERS]
    for law in laws:
        assert torch.equal(law(some(), [()] * 60), torch.cat([law(row[None], [()]) for row in some()]))
