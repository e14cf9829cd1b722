"""The original masked diffusion process: each step fills every mask with the same probability.

Ye et al. 2025 (Dream, arXiv 2508.15487; `alg=origin` in its code). The steps go from time 1 to `eps`; one from t to s
fills a mask with probability 1 − s/t, and the last step fills all. There is one step for each `tokens` masks of a
window. A step that would fill none fills one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import unmasked
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class CanvasOrigin(Diffusion):
    """Fills masks at random places."""

    tokens: int = knob(1, "masks of a window for each step", low=1, high=4096, sweep=(1, 2, 4, 8))
    eps: float = knob(0.001, "time of the last step", low=0, high=1, sweep=(0.001, 0.01))

    paper: ClassVar[str] = "Ye et al. 2025, arXiv 2508.15487"
    order: ClassVar[str] = "random"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Draw the number of masks that are filled."""
        steps = -(-seen.size // self.tokens)
        return unmasked(len(scores), seen.step, steps, self.eps, request.stream)
