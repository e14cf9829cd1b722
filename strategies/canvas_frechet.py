"""Fréchet bound: a step fills as many masks as are likely right together, however they depend on each other.

The rule of arXiv 2606.02955. The chance that n tokens are all right is at least Σ c_i − (n − 1); a step
fills the most masks for which this, less 1 − c_n, is above `margin`. For equal probabilities, a margin of 0 is
`canvas_factor:factor=1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import frechet
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class CanvasFrechet(Diffusion):
    """Identity: margin 1 is `canvas_schedule`."""

    margin: float = knob(0.02, "what the bound must exceed", low=-1, high=1, sweep=(0.0, 0.02, 0.1, 0.25))

    paper: ClassVar[str] = "arXiv 2606.02955"

    def number(self, scores: Sequence[float], seen: Predicted, request: Request) -> int:
        """Count the masks that the bound allows."""
        return frechet(scores, self.margin)
