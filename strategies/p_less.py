"""P-less sampling: draw from the tokens that are at least as probable as two draws are to agree.

Tan et al. 2025 (arXiv 2509.23234, §3). Two independent draws give the same token with probability L = Σ p², which is
high where the model is sure. Tokens of probability L or more are kept; the likeliest always is one of them. There is
nothing to tune but the temperature, which comes first. `norm` subtracts the agreement of random guesses,
(V·L − 1)/(V − 1), and keeps more: V counts the tokens of nonzero probability, where the authors take the whole
vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class PLess(Sampler):
    """No knob makes it plain sampling; it becomes greedy as the temperature falls."""

    norm: bool = knob(False, "subtract the agreement of random guesses", sweep=(False, True))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Tan et al. 2025, arXiv 2509.23234"

    def kept(self) -> logit_warps.Warp:
        """Keep the tokens of at least the probability that two draws agree."""
        return logit_warps.p_less(self.norm)
