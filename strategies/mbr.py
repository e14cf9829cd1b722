"""Minimum Bayes risk: sample several texts and return the one most similar to all of them.

Eikema and Aziz, Is MAP Decoding All You Need?, 2020 (arXiv 2005.10283, §6). The texts are both the candidates and the
references, a sample of the model's distribution. Freitag et al. 2023 (arXiv 2305.09860) draw them with
`epsilon:least=0.02`. `n` texts are drawn; `utility` is the similarity of two: chrF, BLEU of the sentence, F1 of the
words, or equality. `weights` is the weight of a reference: its number of samples, or the model's probability. `itself`
sets whether a text is compared with itself.
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
    """Identities: `n=1` is the other strategy; `utility=exact` returns the most frequent sample."""

    n: int = knob(30, "sequences sampled", low=1, high=1024, sweep=(5, 10, 30, 100))
    utility: str = knob("chrf", "similarity of two texts", choices=tuple(UTILITIES),
                        sweep=("chrf", "bleu", "f1", "exact"))
    weights: str = knob("count", "weight of a text as a reference", choices=("count", "probability"),
                        sweep=("count", "probability"))
    itself: bool = knob(True, "a text is also compared with itself", sweep=(True, False))

    default_over: ClassVar[str] = "temperature"
    paper: ClassVar[str] = "Eikema and Aziz 2020, arXiv 2005.10283"

    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the answer with the highest expected utility; ties go to the first."""
        texts = [request.as_text.decode(answer) for answer in answers]
        if self.weights == "count":
            return best(texts, torch.ones(len(texts), dtype=torch.float64), self.utility, self.itself)
        unique = [answers.index(list(answer)) for answer in dict.fromkeys(map(tuple, answers))]
        sums = torch.stack([log_p(session, request.prompt, answers[i]).sum() for i in unique])
        return unique[best([texts[i] for i in unique], (sums - sums.max()).exp(), self.utility, self.itself)]


def best(texts: Sequence[str], weights: Tensor, utility: str, itself: bool) -> int:
    """Return the index of the first text with the highest mean utility, weighted by `weights` (R,), up to rounding."""
    return first_best([round(value, 9) for value in expected(texts, weights, utility, itself).tolist()])


def expected(texts: Sequence[str], weights: Tensor, utility: str, itself: bool) -> Tensor:
    """Compute (H,) float64 the weighted mean utility of every text against all texts, or against all others."""
    unique = list(dict.fromkeys(texts))
    utilities = UTILITIES[utility](unique)
    number = {text: i for i, text in enumerate(unique)}
    index = torch.tensor([number[text] for text in texts])
    share = torch.zeros(len(unique), dtype=torch.float64).index_add_(0, index, weights)
    gain, total = (utilities @ share)[index], weights.sum().expand(len(texts))
    if not itself:
        gain, total = gain - utilities.diagonal()[index] * weights, total - weights
    return torch.where(total > 0, gain / total, 0)
