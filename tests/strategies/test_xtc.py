"""XTC leaves out top choices by one coin a position, which is the same for a draft and for its target."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from harness.decoding.accept import greedy, rejection
from harness.decoding.loop import draft_and_verify
from harness.engine import logit_warps as warps
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request
from strategies.drafters.chain import ModelChain
from strategies.xtc import XTC, tossed
from tests.decode import decode, engine
from tests.models import tiny_model
from tests.scale import scaled
from tests.strategies.test_sampling import D1, kept


@cache
def target() -> Engine:
    return engine(tiny_model("llama"))


def request(eos: frozenset[int] = frozenset(), seed: int = 0) -> Request:
    return Request((5,), 10, PhiloxStream(seed), eos)


@pytest.mark.parametrize(("threshold", "tokens"), [
    (0.1, {2, 3, 4, 5}), (0.15, {2, 3, 4, 5}), (0.2, {1, 2, 3, 4, 5}), (0.3, set(range(6))), (0.5, set(range(6))),
    (0.001, {5})])
def test_all_top_choices_but_the_least_likely_are_left_out(threshold: float, tokens: set[int]) -> None:
    assert kept(warps.xtc(threshold), D1) == [tokens]
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert kept(warps.xtc(threshold), D1[:, shuffled]) == [{i for i in range(6) if int(shuffled[i]) in tokens}]


def test_of_equal_top_choices_one_is_kept() -> None:
    assert [len(tokens) for tokens in kept(warps.xtc(0.2), torch.zeros(2, 4))] == [1, 1]


def test_the_threshold_is_that_of_the_distribution_before_temperature() -> None:
    for heat in (0.3, 5.0):
        out = XTC(probability=1.0, temperature=heat).warp(request())(D1, [(5,)])
        assert set(out[0].isfinite().nonzero()[:, 0].tolist()) == {2, 3, 4, 5}
        assert torch.allclose(out[0, 2:], D1[0, 2:] / heat)


def test_eos_is_not_left_out() -> None:
    both = D1.repeat(2, 1)
    both[1] = both[1].flip(0)
    ends = frozenset({1, 99})  # 99 is beyond the vocabulary
    assert kept(XTC(probability=1.0).warp(request(ends)), both) == [set(range(6)), {0, 1, 2, 3}]
    assert kept(XTC(probability=1.0, protect=False).warp(request(ends)), both) == [{2, 3, 4, 5}, {0, 1, 2, 3}]
    assert kept(XTC(probability=1.0).warp(request(frozenset({2}))), D1) == [{2, 3, 4, 5}]  # EOS itself stays


def law(probability: float, draws: int) -> Tensor:
    """The mean distribution over positions."""
    warp = XTC(probability=probability, protect=False).warp(request())
    return torch.stack([warp(D1, [[5] * n])[0].double().softmax(-1) for n in range(draws)]).mean(0)


def test_the_golden_mixture() -> None:
    draws = scaled(1500, 6000)
    golden = torch.tensor([0.23081, 0.13999, 0.41353, 0.15213, 0.05596, 0.00757], dtype=torch.float64)
    assert torch.allclose(law(0.5, draws), golden, atol=4 * 0.25 / math.sqrt(draws))
    plain, cut = law(0.0, 1), law(1.0, 1)
    assert torch.allclose((plain + cut) / 2, golden, atol=6e-6)


def test_the_coin_of_a_position_is_always_the_same() -> None:
    warp, other = (XTC().warp(request(seed=seed)) for seed in (0, 1))
    prefixes = [[5] * n for n in range(1, 60)]
    first = warp(D1.expand(59, -1), prefixes)
    assert torch.equal(warp(D1.expand(59, -1), [[7] * len(prefix) for prefix in prefixes]), first)
    assert torch.equal(torch.cat([warp(D1, [prefix]) for prefix in prefixes[::-1]]).flip(0), first)
    assert not torch.equal(other(D1.expand(59, -1), prefixes), first)
    assert 15 < int((first[:, 0] == -math.inf).sum()) < 45


def test_a_perfect_draft_is_accepted_whole() -> None:
    """Only if draft model and target have the same coins; with others, top choices of one are not in the other."""
    session = Session(target(), Session(target()))
    asked = Request((5, 6, 7), 40, PhiloxStream(3))
    warp = XTC(threshold=0.02, temperature=0.5).warp(asked)
    drafter = ModelChain(session.draft, 4, warp, asked.stream)
    steps = draft_and_verify(session, drafter, rejection, asked, warp)
    assert [len(next(steps)) for _ in range(8)] == [1, *[5] * 7]
    session.close()


def test_the_same_text_with_and_without_drafts_at_temperature_zero() -> None:
    alone = decode(XTC(probability=1.0, threshold=0.02, temperature=0), target(), [5, 6, 7], eos=None)
    for probability in (1.0, 0.5):
        texts = []
        for gamma in (0, 4):
            session = Session(target(), Session(engine(tiny_model("llama", seed=1))))
            asked = Request((5, 6, 7), 30, PhiloxStream(0))
            warp = tossed(warps.xtc(0.02), probability, asked.stream)
            text = list[int]()
            for step in draft_and_verify(session, ModelChain(session.draft, gamma, warp, None), greedy, asked, warp):
                text += step
                if len(text) >= 30:
                    break
            session.close()
            texts.append(text[:30])
        assert texts[0] == texts[1]
        assert (texts[0] == alone) == (probability == 1)


def test_temperature_zero_is_refused_where_a_coin_decides() -> None:
    with pytest.raises(UserError, match=r"xtc is random.*take a higher one, or probability=1"):
        XTC(temperature=0)
    assert XTC(temperature=0, probability=0).spec() == "xtc:probability=0,threshold=0.1,protect=True,temperature=0"
