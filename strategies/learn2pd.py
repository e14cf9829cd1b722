"""Learn2PD: a small network learns from the confidences of a window which masks are predicted as in the answer.

Bao et al. 2025 (Learning to Parallel, arXiv 2509.25188). Each step fills all masks for which the filter is sure, and
the best one in any case. The filter has learnt from answers of one mask a step: it was shown, at each step of
`canvas_oracle`, which tokens were those of the answer. With `cut`, an EOS ends the text (End-of-Text Prediction).
`python -m strategies.tools.learn2pd` trains a filter for a model in minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.errors import Unsupported
from harness.plugins.strategy import Request, knob
from strategies.parts.parallel_filter import COMMAND, WIDTH, confidences, load


@dataclass(frozen=True)
class Learn2PD(Diffusion):
    """Identity: a threshold of 1 is `canvas_schedule`."""

    threshold: float = knob(0.96, "chance above which a mask is filled", low=0, high=1, sweep=(0.5, 0.8, 0.9, 0.96))
    file: str = knob("", "the filter, as the tool writes it", file=True)

    paper: ClassVar[str] = "Bao et al. 2025, arXiv 2509.25188"

    def __post_init__(self) -> None:
        """Refuse a file that holds no filter."""
        super().__post_init__()
        if self.file:
            load(Path(self.file))

    def writes(self, seen: Predicted, request: Request) -> Mapping[int, int]:
        """Fill the masks that the filter approves, and the best one."""
        if len(seen.scores) > WIDTH:
            raise Unsupported(f"has a filter for windows of {WIDTH} places at most; lower block")
        if not self.file:
            raise Unsupported(f"needs a filter: train one with {COMMAND}, and give learn2pd:file=FILE")
        ranked, first = seen.ranked, seen.canvas.window[0]
        chances = load(Path(self.file)).chances(confidences(seen.scores, first, ranked))
        return seen.written([ranked[0], *(place for place in ranked[1:] if chances[place - first] > self.threshold)])
