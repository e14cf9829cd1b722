"""Confidence threshold: each step fills all masks of which the model is sure enough.

Wu et al. 2025 (Fast-dLLM, arXiv 2505.22618, §3.3). A mask is filled if the probability of its token is at least
`threshold`, and the best one in any case. Above 1, one mask is filled at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import threshold
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class CanvasThreshold(Diffusion):
    """Identity: a threshold above 1 is `canvas_schedule`."""

    threshold: float = knob(0.9, "probability from which a mask is filled", low=0, high=2, sweep=(0.7, 0.8, 0.9, 0.95))

    paper: ClassVar[str] = "Wu et al. 2025, arXiv 2505.22618"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Count the masks above the threshold."""
        return threshold(scores, self.threshold)
