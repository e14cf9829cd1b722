"""Renoising: each step accepts the places of a window that an entropy bound allows, and the others begin again.

The decoding of DiffusionGemma in transformers. A step draws a token for every place and accepts those with the lowest
entropies, as `entropy_bound` does. The other places are masked again, or get random tokens, which is for models that
were trained without a mask. With `revise`, a token must be accepted in every step, and is drawn again each time;
without, it stays. A window ends when the likeliest tokens are those of the step before and the mean entropy is below
`sure`, or after `steps`: then its open places, and with `revise` all, get their likeliest tokens.

The temperature falls from `temperature` in the first step in equal parts, to `cooled` times as much after `steps`.
Entropies are those at this temperature; at 0, where the likeliest tokens are taken, those of the model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

from torch import Tensor

from harness.decoding.canvas import Canvas
from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import entropy_bound
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class CanvasRenoise(Diffusion):
    """Identity: gamma 0 and sure 0 without `revise` at temperature 0 are `canvas_schedule:order=entropy`."""

    gamma: float = knob(0.1, "bound of the entropies, in nats", low=0, high=100, sweep=(0.05, 0.1, 0.5))
    noise: str = knob("mask", "what a place that is not accepted shows", choices=("mask", "random"),
                      sweep=("mask", "random"))
    revise: bool = knob(True, "whether a token must be accepted in every step", sweep=(False, True))
    steps: int = knob(48, "steps of a window at most", low=1, high=4096, sweep=(12, 24, 48))
    sure: float = knob(0.005, "mean entropy in nats below which a window may end", low=0, high=100,
                       sweep=(0.005, 0.05, 0.5))
    temperature: float = knob(0.8, "of the first step; 0 takes the likeliest", low=0, high=10,
                              sweep=(0.0, 0.4, 0.8))
    cooled: float = knob(0.5, "share of the temperature after all steps", low=0.01, high=1, sweep=(0.1, 0.5, 1.0))

    paper: ClassVar[str] = "DiffusionGemma, transformers 2026"
    order: ClassVar[str] = "entropy"

    def rounds(self) -> int:
        """Return the steps that may go on without open places; none if tokens stay."""
        return self.steps if self.revise else 0

    @property
    def heat(self) -> float:
        """The temperature at which tokens are drawn from logits that have been divided by it."""
        return float(self.temperature > 0)

    def changed(self, logits: Tensor, canvas: Canvas, step: int) -> Tensor:
        """Return the logits at the temperature of the step."""
        if not self.temperature:
            return logits
        return logits / (self.temperature * (1 - (1 - self.cooled) * step / self.steps))

    def begin(self, canvas: Canvas, request: Request) -> None:
        """Fill a window with noise."""
        canvas.reopen(canvas.open, request.stream if self.noise == "random" else None)

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield a window when it ends, or without `revise` the tokens before the first open place."""
        return self.fill(session, request, Accepting(self).writes)


@dataclass
class Accepting:
    """Accepts places of one canvas after another, and knows the likeliest tokens of the step before."""

    rule: CanvasRenoise
    before: list[int] = field(default_factory=list)

    def writes(self, seen: Predicted, request: Request) -> Mapping[int, int]:
        """Return the accepted tokens, after the places that are not accepted were opened; none ends the window."""
        canvas, rule, first = seen.canvas, self.rule, seen.canvas.window[0]
        places = list(range(*canvas.window)) if rule.revise else canvas.open
        if self._ends(seen, places):
            final = {place: seen.best[place - first] for place in places}
            if rule.revise:
                canvas.write(final)
            return {} if rule.revise else final
        ranked = sorted(places, key=lambda place: (-seen.scores[place - first], place))
        count = entropy_bound([-seen.scores[place - first] for place in ranked], rule.gamma)
        canvas.reopen(sorted(ranked[count:]), request.stream if rule.noise == "random" else None)
        return seen.written(ranked[:count])

    def _ends(self, seen: Predicted, places: list[int]) -> bool:
        """Return whether the window ends: its likeliest tokens have not changed and are sure, or no step is left."""
        before, self.before = self.before if seen.step else [], list(seen.best)
        entropy = -fmean(seen.scores[place - seen.canvas.window[0]] for place in places)
        return seen.step + 1 >= self.rule.steps or (before == self.before and entropy < self.rule.sure)
