"""Masked diffusion on a schedule: each step fills the same number of masks.

Nie et al. 2025 (LLaDA, arXiv 2502.09992, §2.4); the orders are those of Dream (arXiv 2508.15487). Each step closes
`tokens` masks, the best first by `order`: the probability of their token, the margin between the two likeliest ones,
the lowest entropy, or at random. With one token a step, it is the reference of all faster rules. At a temperature, the
first order prefers the tokens that were drawn and are likely, so only the others draw from the model's distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.canvas_loop import ORDERS, Diffusion, Predicted
from harness.decoding.closing import split
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class CanvasSchedule(Diffusion):
    """Closes equally many masks in each step of a window; earlier steps take one more if that does not divide."""

    tokens: int = knob(1, "masks that a step closes", low=1, high=4096, sweep=(1, 2, 4, 8))
    order: str = knob("probability", "which masks are closed first", choices=ORDERS, sweep=ORDERS)  # type: ignore[misc]

    paper: ClassVar[str] = "Nie et al. 2025, arXiv 2502.09992"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Return the number that the schedule has for this step."""
        return split(seen.size, -(-seen.size // self.tokens))[seen.step]
