"""Drafts that a sampler's own warp verifies follow the distribution of the sampler without drafts."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from harness.decoding import accept
from harness.decoding.loop import draft_and_verify
from harness.decoding.sampled import Sampler
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Need, Request, Strategy
from harness.verify.distribution import Distribution, Evidence
from strategies.drafters.chain import ModelChain
from strategies.dynamic_temperature import DynamicTemperature
from strategies.entropy_temperature import EntropyTemperature
from strategies.min_k import MinK
from strategies.p_less import PLess
from strategies.quadratic import Quadratic
from strategies.tail_free import TailFree
from strategies.top_a import TopA
from strategies.xtc import XTC
from tests.chances import DRAWS, LENGTH, PROMPT, draft, drawn, target


@dataclass(frozen=True)
class Drafted(Strategy):
    """Speculative decoding of two drafts a step whose warp, of draft model and target, is that of a sampler."""

    sampler: Sampler = field(default_factory=PLess)

    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "speculative"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield accepted drafts and one more token at each step."""
        warp = self.sampler.warp(request)
        drafter = ModelChain(session.draft, 2, warp, request.stream)
        return draft_and_verify(session, drafter, accept.rejection, request, warp)


@dataclass(frozen=True)
class Mixture(Distribution):
    """The distribution of a sampler: with XTC, that of a position whose coin has not been seen."""

    sampler: Sampler = field(default_factory=PLess)

    def probs(self, logits: Tensor) -> Tensor:
        """Return (…, V) probabilities in float64."""
        rows, parts, sampler = logits.reshape(-1, logits.shape[-1]).float(), [(1.0, self.sampler)], self.sampler
        if isinstance(sampler, XTC):
            parts = [(sampler.probability, replace(sampler, probability=1.0)),
                     (1 - sampler.probability, replace(sampler, probability=0.0))]
        warped = [weight * part.warp(Request((5,), 1, PhiloxStream(0)))(rows, [()] * len(rows)).double().softmax(-1)
                  for weight, part in parts]
        return torch.stack(warped).sum(0).view(logits.shape)


def p_value(sampler: Sampler) -> float:
    """Of every token of `Drafted` under its exact distribution, computed without a KV cache."""
    evidence = Evidence(Mixture(1.0, sampler=sampler))
    evidence.add(target(), draft(), PROMPT, drawn(Drafted(sampler), target(), draft(), DRAWS, LENGTH), 0)
    assert evidence.tokens == DRAWS * LENGTH
    return evidence.p_value()


@pytest.mark.parametrize("sampler", [
    PLess(temperature=1.5), PLess(norm=True), MinK(tau=6.0), TopA(share=0.5), TailFree(z=0.9), Quadratic(),
    DynamicTemperature(), EntropyTemperature(), XTC(), XTC(probability=0.3, threshold=0.2, temperature=0.8)],
    ids=lambda s: s.spec())
@torch.inference_mode()
def test_drafts_do_not_change_the_distribution(sampler: Sampler) -> None:
    assert p_value(sampler) > 1e-3


@torch.inference_mode()
def test_a_planted_bug_under_drafts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "_normal", lambda rest, p: p)
    assert p_value(XTC(probability=1.0, threshold=0.2)) < 1e-6
