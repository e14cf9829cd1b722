"""Weighted vote (self_certainty, cisc): sample several texts, and weigh each vote by the model's confidence in it.

Self-consistency with unequal votes. Three published methods are settings of it.

Borda voting by self-certainty (Kang et al. 2025, arXiv 2502.18581) is the default: the r-th of N texts by confidence
has (N − r + 1)^`power` votes. The authors' code has `power=0.5`.

CISC (Taubenfeld et al. 2025, arXiv 2502.06233) is `confidence=p_true,vote=softmax`: the weight is the softmax of
confidence / `spread` over the texts of the prompt. The authors tune `spread`; with 1 the votes are nearly equal.

DeepConf without early stop (Fu et al. 2025, arXiv 2508.15260) is `confidence=lowest,vote=linear,keep=10`: the weight is
the confidence, and of the texts with an answer only the most confident `keep` % vote.

`confidence` is, over the tokens of a text, the mean KL(uniform ‖ p) (self_certainty); the geometric mean of their
probabilities (probability); or DeepConf's −log p averaged over the `top` likeliest tokens of each row: its mean over
the text, that of its last `window` tokens (tail), of the lowest `window` successive tokens (lowest), or of the lowest
tenth of such groups (bottom). p_true asks the model whether its text is right, in words of our own, and takes
p(yes) / (p(yes) + p(no)); it needs a model that can judge. All read the model's own logits, in one more forward for
each different text. The window of DeepConf, 2,048 tokens, is for long chains of thought; here it is 16.

The text of the largest weight with the elected answer is returned. Ties are broken as in `self_consistency`. A text
without an answer keeps its rank but has no vote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness.decoding.confidence import CONFIDENCES, least
from harness.decoding.samples import Chosen, log_p, voted
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.strategy import Request, knob

QUESTION, YES, NO = "\nIs this answer right? Reply with yes or no:", " yes", " no"


@dataclass(frozen=True)
class WeightedVote(Chosen):
    """Identities: `n=1` is the other strategy; `vote=equal` is `self_consistency`, and so is `power=0`;
    `vote=borda` with a large `power` and `confidence=probability` is `best_of_n:score=mean`.
    """

    n: int = knob(40, "sequences sampled", low=1, high=1024, sweep=(5, 10, 20, 40))
    confidence: str = knob("self_certainty", "of the model in a text", choices=(*CONFIDENCES, "p_true"),
                           sweep=(*CONFIDENCES, "p_true"))
    vote: str = knob("borda", "weight of a text by its confidence", choices=("borda", "softmax", "linear", "equal"),
                     sweep=("borda", "softmax", "linear", "equal"))
    power: float = knob(0.5, "exponent of the votes of a rank (borda)", low=0, high=100,
                       sweep=(0.0, 0.3, 0.5, 1.2, 2.0))
    spread: float = knob(1.0, "divides confidences (softmax)", low=1e-6, high=1e6, sweep=(0.01, 0.1, 1.0))
    keep: float = knob(100.0, "percentage of texts that vote, the most confident ones", low=0, high=100,
                       sweep=(10.0, 50.0, 90.0, 100.0))
    top: int = knob(20, "likeliest tokens of a row that the confidences of DeepConf average", low=1, high=1000)
    window: int = knob(16, "tokens in a group (lowest, bottom, tail)", low=1, high=1_000_000, sweep=(8, 16, 32, 2048))

    default_over: ClassVar[str] = "temperature:temperature=0.7"
    paper: ClassVar[str] = "Kang et al. 2025, arXiv 2502.18581"

    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the text of the largest weight with the elected answer."""
        votes = [request.as_text.answer(request.as_text.decode(answer)) for answer in answers]
        if self.vote == "equal" and self.keep == 100:
            return voted(session, request, answers, votes, [1.0] * len(answers))
        known = {text: self.sureness(session, request, list(text)) for text in dict.fromkeys(map(tuple, answers))}
        confidences = [known[tuple(answer)] for answer in answers]
        if voters := [sure for sure, vote in zip(confidences, votes, strict=True) if vote is not None]:
            low = least(voters, self.keep)
            votes = [vote if sure >= low else None for sure, vote in zip(confidences, votes, strict=True)]
        return voted(session, request, answers, votes, self.weights(confidences))

    def sureness(self, session: Session, request: Request, text: list[int]) -> float:
        """Return the confidence of the model in a text (token ids)."""
        if self.confidence == "p_true":
            return p_true(session, request, text)
        return CONFIDENCES[self.confidence](session, request.prompt, text, self.top, self.window)

    def weights(self, confidences: Sequence[float]) -> list[float]:
        """Return the weight of each text."""
        if self.vote == "equal":
            return [1.0] * len(confidences)
        if self.vote == "linear":
            return list(confidences)
        if self.vote == "softmax":
            shares: list[float] = (torch.tensor(confidences, dtype=torch.float64) / self.spread).softmax(-1).tolist()
            return shares
        order = sorted(range(len(confidences)), key=lambda i: -confidences[i])
        votes = {i: float(len(order) - place) ** self.power for place, i in enumerate(order)}
        return [votes[i] for i in range(len(order))]


def p_true(session: Session, request: Request, text: list[int]) -> float:
    """Return the probability with which the model says after its text that it is right, rather than wrong."""
    if session.source:
        raise Unsupported("asks the model behind its answer, which a decoder with an encoder has not learnt")
    question = request.as_text.tokens(QUESTION)
    words = [request.as_text.tokens(word) for word in (YES, NO)]
    room = session.engine.max_len - max(map(len, words))
    before = [*request.prompt, *(token for token in text if token not in request.eos), *question][-room:]
    yes, no = (log_p(session, before, word).sum() for word in words)
    return float((yes - no).sigmoid())
