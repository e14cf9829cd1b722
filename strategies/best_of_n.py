"""Best of n: sample several answers and return the one with the best score.

Adiwardana et al., Towards a Human-like Open-Domain Chatbot, 2020 (arXiv 2001.09977, §3.3: sample and rank); nearly
every reranker is a case of it. The score is the model's own log p at temperature 1, EOS counted.
`n` answers are drawn; `score` is their mean log p a token, their sum (the paper's), or the same for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.samples import Chosen, first_best, log_p, mean
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class BestOfN(Chosen):
    """Identities: `n=1` and `score=constant` are the other strategy."""

    n: int = knob(20, "answers sampled", low=1, high=1024, sweep=(1, 4, 8, 16, 32))
    score: str = knob("mean", "of the log p of an answer's tokens", choices=("mean", "sum", "constant"),
                      sweep=("mean", "sum"))

    default_over: ClassVar[str] = "temperature:temperature=0.88"
    paper: ClassVar[str] = "Adiwardana et al. 2020, arXiv 2001.09977"

    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the answer with the best score; ties go to the first."""
        if self.score == "constant":
            return 0
        score = mean if self.score == "mean" else lambda values: float(values.sum())
        return first_best([score(log_p(session, request.prompt, answer)) for answer in answers])
