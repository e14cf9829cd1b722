"""Self-consistency: sample several chains of thought and return one with the most frequent answer.

Wang et al., Self-Consistency Improves Chain of Thought Reasoning in Language Models, 2022 (arXiv 2203.11171, §2).
The task extracts an answer from a text. A text without one has no vote; if none has one, the likeliest is returned.
Ties are broken by the summed probability of the texts with the answer, then by the order of sampling.
`n` texts are drawn; the first one with the elected answer is returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.samples import Chosen, voted
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class SelfConsistency(Chosen):
    """Identity: `n=1` is the other strategy."""

    n: int = knob(40, "sequences sampled", low=1, high=1024, sweep=(5, 10, 20, 40))

    default_over: ClassVar[str] = "temperature:temperature=0.7"
    paper: ClassVar[str] = "Wang et al. 2022, arXiv 2203.11171"

    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the first text with the elected answer."""
        votes = [request.as_text.answer(request.as_text.decode(answer)) for answer in answers]
        return voted(session, request, answers, votes, [1.0] * len(answers))
