"""Entropy-bounded unmasking: a step fills masks until their entropies add up to a bound.

Ben-Hamu et al. 2025 (EB-Sampler, arXiv 2505.24857). The masks with the lowest entropy go first, and the last one
does not count: the sum bounds how much the tokens can depend on each other. `gamma` is the bound in nats; 0.1 is that
of transformers, and SGLang has 0.15.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import entropy_bound
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class EntropyBound(Diffusion):
    """Identity: gamma 0 is `canvas_schedule:order=entropy`, unless an entropy is 0."""

    gamma: float = knob(0.1, "bound of the entropies, in nats", low=0, high=100, sweep=(0.05, 0.1, 0.15, 0.5))

    paper: ClassVar[str] = "Ben-Hamu et al. 2025, arXiv 2505.24857"
    order: ClassVar[str] = "entropy"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Count the masks within the bound."""
        return entropy_bound([-score for score in scores], self.gamma)
