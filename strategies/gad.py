"""Generalized aggressive decoding: a drafter without order fills a block of masks in one forward, the target verifies.

Xia et al. 2022 (SpecDec, arXiv 2203.16487). The drafter is an encoder-decoder model that fills masks: its decoder sees
all tokens of the answer so far and `gamma` masks behind them. With `beta=1` the answer is greedy's. With more (GAD++),
a draft is accepted if it is among the target's `beta` likeliest tokens and within `tau` nats of the likeliest. The
authors' scripts have k = 25, β = 5 and τ = 3. `python -m harness.laboratory.gad` trains a drafter for nano-seq2seq.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.loop import draft_and_verify
from harness.decoding.lossy import near_best
from harness.engine.session import Session
from harness.plugins.plugin import per_instance
from harness.plugins.strategy import Guarantee, Need, Request, knob
from strategies.canvas_draft import CanvasDraft


@dataclass(frozen=True)
class Gad(CanvasDraft):
    """Lossless with `beta=1`; `gamma=1` drafts one token at a time."""

    gamma: int = knob(25, "masks of a block", low=1, high=128, sweep=(5, 10, 25))
    least: float = knob(0.0, "probability below which a draft ends", low=0, high=1, sweep=(0.0, 0.3, 0.6))
    beta: int = knob(1, "number of likeliest tokens that may be accepted; 1 is exact", low=1, high=100000,
                     sweep=(1, 3, 5))
    tau: float = knob(3.0, "with more: maximum gap in nats to the likeliest token", low=0, high=100,
                      sweep=(1.0, 3.0))

    paper: ClassVar[str] = "Xia et al. 2022, arXiv 2203.16487"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft", "source"})
    guarantee: ClassVar[Guarantee] = per_instance(
        "distribution-preserving", lambda self: "changes-output" if self.beta > 1 else "distribution-preserving")

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        if self.beta == 1:
            return super().generate(session, request)
        accept: Accept = near_best(self.beta, self.tau, sure=not self.temperature)
        return draft_and_verify(session, self.drafter(session, request), accept, request, self.logit_warp())
