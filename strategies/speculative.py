"""Speculative decoding: a small model drafts a few tokens, the large one checks them all in one forward.

Leviathan et al. 2022 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318). `gamma` tokens are drafted a step;
`temperature` and `p` choose the law, which is the target's own: drafts are drawn from the draft model under the same
warps and accepted with min(1, p/q).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import warp
from harness.decoding.accept import at
from harness.decoding.loop import draft_and_verify
from harness.decoding.session import Session
from harness.strategy import Guarantee, Need, Request, Strategy, knob
from strategies.drafters.chain import ModelChain


@dataclass(frozen=True)
class Speculative(Strategy):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    gamma: int = knob(4, "tokens drafted a step", low=1, high=64, sweep=(1, 2, 3, 4, 5, 8, 12))
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0))

    paper: ClassVar[str] = "Leviathan et al. 2022, arXiv 2211.17192"
    family: ClassVar[str] = "speculative"
    guarantee: ClassVar[Guarantee] = "exact-law"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        law = warp.compose(warp.temperature(self.temperature), warp.top_p(self.p))
        drafter = ModelChain(session.draft, self.gamma, law, request.stream if self.temperature else None)
        return draft_and_verify(session, drafter, at(self.temperature), request, law)
