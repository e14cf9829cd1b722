"""Speculative contrastive decoding writes the contrastive distribution, computed here by hand from full forwards."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.decoding import accept
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from strategies.speculative_contrastive import SpeculativeContrastive
from tests.chances import PROMPT, SHORT, chi_square, draft, drawn, target
from tests.decode import decode
from tests.scale import scaled

DRAWS = scaled(500, 1000)  # enough for the planted bug
METHOD = SpeculativeContrastive(gamma=2, temperature=0.8)


def log_probs(model: Engine, text: list[int]) -> Tensor:
    with torch.inference_mode():
        return model.model(torch.tensor([text])).logits[0, -1].double().log_softmax(-1)


def following(method: SpeculativeContrastive, text: list[int], beta: float | None = None) -> Tensor:
    """The contrastive distribution (V,) after a text, at the temperature of `method`, or 1 where that is 0."""
    beta = method.beta if beta is None else beta
    expert, amateur = log_probs(target(), text), log_probs(draft(), text)
    scores = (1 + beta) * expert - beta * amateur
    scores[expert.exp() < method.alpha * expert.exp().max()] = float("-inf")
    return (scores / (method.temperature or 1)).softmax(-1)


@torch.inference_mode()
def p_value(method: SpeculativeContrastive) -> float:
    return chi_square(drawn(method, target(), draft(), DRAWS, SHORT),
                      lambda text: following(method, [*PROMPT, *text]).tolist())


def test_the_contrastive_distribution_is_preserved() -> None:
    assert p_value(METHOD) > 1e-3


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "_normal", lambda rest, p: p)
    assert p_value(replace(METHOD, beta=2.0)) < 1e-6  # more is rejected


@pytest.mark.parametrize("method", [SpeculativeContrastive(), SpeculativeContrastive(gamma=2, beta=2.0, alpha=0.3)])
def test_at_temperature_zero_the_likeliest_of_the_contrast(method: SpeculativeContrastive) -> None:
    different, new = False, scaled(12, 30)
    for prompt in ([3, 4], [5, 3, 4], [4, 4, 5]):
        text = list(prompt)
        for _ in range(new):
            text.append(int(following(method, text).argmax()))
        found = decode(method, target(), prompt, draft=draft(), new=new, eos=None)
        assert found == text[len(prompt):]
        different |= found != decode(Greedy(), target(), prompt, new=new, eos=None)
    assert different


def test_the_extra_token_may_come_from_the_expert() -> None:
    """At alpha 1 the contrast is one token, and only the expert's own has a choice."""
    method = SpeculativeContrastive(gamma=2, extra="expert", alpha=1.0, temperature=1.0)
    kept = [decode(method, target(), PROMPT, draft=draft(), new=9, eos=None, sample=i) for i in range(8)]
    contrasts = [decode(replace(method, extra="contrast"), target(), PROMPT, draft=draft(), new=9, eos=None, sample=i)
                 for i in range(8)]
    greedy = decode(Greedy(), target(), PROMPT, new=9, eos=None)
    assert all(tokens == greedy for tokens in contrasts)
    assert any(tokens != greedy for tokens in kept)
    for cold in (SpeculativeContrastive(extra="expert", beta=0.0), SpeculativeContrastive(beta=0.0)):
        assert decode(cold, target(), PROMPT, draft=draft()) == decode(Greedy(), target(), PROMPT)


def test_without_weight_or_cut_it_is_speculative() -> None:
    plain = SpeculativeContrastive(alpha=0.0, beta=0.0, temperature=0.8, p=0.9)
    for sample in range(5):
        found = decode(plain, target(), PROMPT, draft=draft(), sample=sample)
        assert found == decode(Speculative(temperature=0.8, p=0.9), target(), PROMPT, draft=draft(), sample=sample)


@pytest.mark.parametrize(("extra", "drafts"), [("contrast", 6 * 4 + 7), ("expert", 6 * 4 + 1)])
def test_counts_when_all_is_kept(extra: str, drafts: int) -> None:
    """One model as both: the first token needs the amateur too, and so does a contrast after the last draft."""
    method, session, sizes = SpeculativeContrastive(extra=extra), Session(target(), Session(target())), list[int]()
    for block in method.generate(session, Request(tuple(PROMPT), 31, PhiloxStream(0))):
        sizes.append(len(block))
        if sum(sizes) >= 31:
            break
    session.close()
    assert sizes == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.forwards, session.draft_work.forwards) == (7, drafts)
