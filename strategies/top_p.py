"""Nucleus sampling: draw from the smallest set of likeliest tokens that holds a given mass.

Holtzman et al., The Curious Case of Neural Text Degeneration, 2019 (arXiv 1904.09751, §3.1).
`p` is the mass of the nucleus, `temperature` divides the logits before it is cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import warp
from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.decoding.session import Session
from harness.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class TopP(Strategy):
    """Temperature first, then the nucleus, then one draw, as transformers and vLLM do."""

    p: float = knob(0.95, "mass of the nucleus; 1 keeps every token", low=0, high=1, sweep=(0.8, 0.9, 0.92, 0.95, 0.98))
    temperature: float = knob(1.0, "divides the logits; 0 is greedy", low=0, high=10, sweep=(0.3, 0.5, 0.7, 1.0, 1.2))

    paper: ClassVar[str] = "Holtzman et al. 2019, arXiv 1904.09751"
    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one drawn token a step."""
        nucleus = warp.compose(warp.temperature(self.temperature), warp.top_p(self.p))
        return one_by_one(session, at(self.temperature), request, nucleus)
