"""Adaptive-p aims at a probability, remembers what it drew, and leaves the end of an answer alone."""

import math

import pytest
import torch
from torch import Tensor

from harness.decoding.accept import rejection
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.tree import EMPTY
from strategies.adaptive_p import AdaptiveP, Aimed
from strategies.min_p import MinP
from strategies.temperature import Temperature
from tests.decode import decode, engine
from tests.models import EOS, tiny_model
from tests.scale import scaled
from tests.strategies.test_sampling import D1


def aim(state: Aimed, token: int) -> float:
    """The next aim after `token` was drawn from D1."""
    state.warp(D1, [[token]])
    return 2 * state.knobs.target - float(state.sum) / state.weights


@pytest.mark.parametrize(("target", "law"), [
    (0.5, (0.94709, 0.04919, 0.00343, 0.00019, 0.00006, 0.00004)),
    (0.1, (0.00052, 0.03952, 0.24155, 0.32617, 0.22186, 0.17038))])
def test_the_golden_laws_of_adaptive_p(target: float, law: tuple[float, ...]) -> None:
    """At the first step the aim is the target, whatever the decay."""
    for decay in (0.0, 0.5, 0.99):
        bent = Aimed(AdaptiveP(target=target, decay=decay)).warp(D1, [[5]])
        assert bent[0].double().softmax(-1).tolist() == pytest.approx(law, abs=6e-6)


def test_the_golden_aims() -> None:
    state = Aimed(AdaptiveP(target=0.5, decay=0.9))
    state.warp(D1, [[5]])
    assert aim(state, 0) == pytest.approx(0.503838, abs=1e-6)
    assert aim(state, 4) == pytest.approx(0.551156, abs=1e-6)


def test_the_aim_stays_a_probability() -> None:
    """After many improbable tokens it is 1, after many probable ones 0."""
    for target, token in ((0.9, 5), (0.1, 0)):
        state = Aimed(AdaptiveP(target=target, decay=0.5))
        for _ in range(20):
            bent = state.warp(D1, [[token]])
        far = ((D1.double().softmax(-1) - int(token == 5)).abs() / 0.3)[0]
        assert torch.allclose(bent[0].double(), 5 - 10 * far.square() / (1 + far), atol=1e-4)


def rows(count: int) -> Tensor:
    """Logits (N, V) with many tokens of middling probability."""
    return 1.5 * torch.randn(count, 12, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("target", [0.2, 0.3, 0.4])
def test_the_mean_probability_comes_near_the_target(target: float) -> None:
    state, stream, text, seen = Aimed(AdaptiveP(target=target)), PhiloxStream("adaptive"), [0], list[float]()
    for row in rows(scaled(600, 2000)):
        text.append(rejection(EMPTY, state.warp(row[None], [text]), stream)[1])
        seen.append(float(row.double().softmax(-1)[text[-1]]))
    assert sum(seen) / len(seen) == pytest.approx(target, abs=0.05)


def test_what_is_cut_off_before_stays_impossible() -> None:
    masked = D1.clone()
    masked[0, 1:3] = -math.inf
    bent = Aimed(AdaptiveP(target=0.1)).warp(masked, [[5]])
    assert bent[0].isinf().tolist() == [False, True, True, False, False, False]


def test_without_a_guard_the_tail_of_a_large_vocabulary_wins() -> None:
    logits = torch.cat([D1[0] + 6, torch.zeros(2000)])[None]
    chain = {}
    for guard in (0.0, 0.05):
        state, kept = Aimed(AdaptiveP(target=0.1, guard=guard)), MinP(share=guard).kept()
        chain[guard] = float(state.warp(kept(logits, [[5]]), [[5]])[0].double().softmax(-1)[6:].sum())
    assert chain[0.0] > 0.5
    assert chain[0.05] == 0


def test_where_the_answer_would_end_nothing_is_changed() -> None:
    ends, moving = D1.clone(), D1.flip(-1)  # EOS, token 0, is the likeliest of the first only
    state = Aimed(AdaptiveP(), protected={0, 99})
    assert torch.equal(state.warp(ends, [[5]]), ends)
    assert not torch.equal(state.warp(moving, [[5]]), moving)
    assert not torch.equal(Aimed(AdaptiveP()).warp(ends, [[5]]), ends)


@pytest.fixture(scope="module")
def model() -> Engine:
    return engine(tiny_model("llama"))


def test_a_negative_target_is_plain_sampling(model: Engine) -> None:
    for sample in range(scaled(2, 4)):
        assert decode(AdaptiveP(target=-1, guard=0), model, [5, 6, 7], sample=sample) == \
            decode(Temperature(), model, [5, 6, 7], sample=sample)
        assert decode(AdaptiveP(target=-1, guard=0.3), model, [5, 6, 7], sample=sample) == \
            decode(MinP(share=0.3), model, [5, 6, 7], sample=sample)


def test_adaptive_p_starts_every_answer_anew(model: Engine) -> None:
    first = decode(AdaptiveP(target=0.1), model, [5, 6, 7], sample=1)
    decode(AdaptiveP(target=0.1), model, [8, 9], sample=2)
    assert decode(AdaptiveP(target=0.1), model, [5, 6, 7], sample=1) == first


def test_only_the_protection_needs_to_know_eos(model: Engine) -> None:
    texts = [decode(AdaptiveP(target=0.05, protect=protect), model, [5, 6, 7], sample=2, eos=eos, new=20)
             for protect, eos in ((False, EOS), (False, None))]
    assert texts[0] == texts[1][:len(texts[0])]
