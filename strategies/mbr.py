"""Minimum Bayes risk: sample several texts and return the one most similar to all of them.

Eikema and Aziz, Is MAP Decoding All You Need?, 2020 (arXiv 2005.10283, §6). The texts are both the candidates and the
sample that stands for the model's distribution. Freitag et al. 2023 (arXiv 2305.09860) draw them with
`epsilon:least=0.02`. `n` texts are drawn; `utility` says how alike two are: chrF, BLEU of the sentence, F1 of the
words, or whether they are the same. `weights` is what a text counts: as often as it was drawn, or once with its
probability by the model. `itself` says whether a text is compared with itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.samples import Chosen, first_best, log_p
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.parts.alike import UTILITIES


@dataclass(frozen=True)
class Mbr(Chosen):
    """Identities: `n=1` is the other strategy; `utility=exact` writes the text drawn most often."""

    n: int = knob(30, "sequences sampled", low=1, high=1024, sweep=(5, 10, 30, 100))
    utility: str = knob("chrf", "how alike two texts are", choices=tuple(UTILITIES),
                        sweep=("chrf", "bleu", "f1", "exact"))
    weights: str = knob("count", "what a text counts as a reference", choices=("count", "probability"),
                        sweep=("count", "probability"))
    itself: bool = knob(True, "a text is also compared with itself", sweep=(True, False))

    usual: ClassVar[str] = "temperature"
    paper: ClassVar[str] = "Eikema and Aziz 2020, arXiv 2005.10283"

    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """The answer with the highest expected utility, ties go to the first."""
        texts = [request.as_text.decode(answer) for answer in answers]
        if self.weights == "count":
            return best(texts, torch.ones(len(texts), dtype=torch.float64), self.utility, self.itself)
        own = [answers.index(list(answer)) for answer in dict.fromkeys(map(tuple, answers))]
        known = torch.stack([log_p(session, request.prompt, answers[i]).sum() for i in own])
        return own[best([texts[i] for i in own], (known - known.max()).exp(), self.utility, self.itself)]


def best(texts: Sequence[str], weights: Tensor, utility: str, itself: bool) -> int:
    """The first text whose utility against all, weighed by `weights` (R,), is highest up to rounding."""
    return first_best([round(value, 9) for value in expected(texts, weights, utility, itself).tolist()])


def expected(texts: Sequence[str], weights: Tensor, utility: str, itself: bool) -> Tensor:
    """(H,) float64: every text's weighed mean utility against all of them, or against all the others."""
    kinds = list(dict.fromkeys(texts))
    alike = UTILITIES[utility](kinds)
    place = {text: i for i, text in enumerate(kinds)}
    where = torch.tensor([place[text] for text in texts])
    share = torch.zeros(len(kinds), dtype=torch.float64).index_add_(0, where, weights)
    gain, total = (alike @ share)[where], weights.sum().expand(len(texts))
    if not itself:
        gain, total = gain - alike.diagonal()[where] * weights, total - weights
    return torch.where(total > 0, gain / total, 0)
