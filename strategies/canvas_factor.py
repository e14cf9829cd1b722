"""Confidence factor: the more masks a step fills, the surer the model must be of the last one.

Wu et al. 2025 (Fast-dLLM, arXiv 2505.22618, §3.3). A step fills the n best masks if (n + 1)(1 − c_n) < `factor`, where
c_n is the lowest probability among them: at 1, the likeliest text of all masks together is then that of each alone. The
authors' code also fills the last mask of a window if it is the only one that fails (`variant=official`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import factor
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class CanvasFactor(Diffusion):
    """Identity: factor 0 is `canvas_schedule`."""

    factor: float = knob(1.0, "limit of (n + 1)(1 − c)", low=0, high=100, sweep=(0.25, 0.5, 1.0, 2.0))
    variant: str = knob("paper", "whose rule for the last mask", choices=("paper", "official"),
                        sweep=("paper", "official"))

    paper: ClassVar[str] = "Wu et al. 2025, arXiv 2505.22618"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Count the masks that the factor allows."""
        return factor(scores, self.factor, self.variant == "official")
