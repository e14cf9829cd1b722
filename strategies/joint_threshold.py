"""Joint threshold: each step fills the masks of which the model is sure, and corrects what it filled before.

The decoding of LLaDA 2.1, as in SGLang (`JointThreshold`). A mask is filled if the probability of its token is above
`threshold`, and the best one in any case. A token of the window that was filled before is replaced if the model prefers
another one with a probability above `edit_threshold`; at 1 nothing is. A window ends when nothing changes, or after
`edit_rounds` steps without masks. `penalty` is taken from the logit of the token to the left, against repetition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.canvas import Canvas
from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import joint
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class JointThreshold(Diffusion):
    """Identity: an edit threshold of 1 is `canvas_threshold`."""

    threshold: float = knob(0.5, "probability above which a mask is filled", low=0, high=1, sweep=(0.5, 0.7, 0.9))
    edit_threshold: float = knob(0.0, "probability above which a token is replaced", low=0, high=1,
                                 sweep=(0.0, 0.5, 0.9, 1.0))
    edit_rounds: int = knob(16, "steps without masks in a window", low=1, high=1024, sweep=(1, 4, 16))
    penalty: float = knob(0.0, "taken from the logit of the token to the left", low=0, high=100, sweep=(0.0, 1.0))

    paper: ClassVar[str] = "LLaDA 2.1, SGLang 2026"

    def writes(self, seen: Predicted, request: Request) -> Mapping[int, int]:
        """Return the tokens of masks that are filled, and of places that are edited."""
        first, last = seen.canvas.window
        is_open = [place in seen.canvas.open for place in range(first, last)]
        return seen.written([first + place for place in joint(
            seen.canvas.tokens[first:last], seen.tokens, seen.scores, is_open, self.threshold, self.edit_threshold)])

    def rounds(self) -> int:
        """Return the steps without masks; none if nothing can be edited."""
        return self.edit_rounds if self.edit_threshold < 1 else 0

    def changed(self, logits: Tensor, canvas: Canvas, step: int) -> Tensor:
        """Return the logits with the penalty."""
        if not self.penalty:
            return logits
        first, last = canvas.window
        left = torch.tensor(canvas.tokens[first - 1:last - 1], device=logits.device)[:, None]
        return logits.scatter_add(-1, left, logits.new_full(left.shape, -self.penalty))
