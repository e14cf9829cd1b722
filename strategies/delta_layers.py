"""DeLTa: extrapolate each token's logit beyond the last layer along a straight line through those of the last layers.

He et al. 2025 (arXiv 2503.02343). A line is fitted by least squares to the logits of the last `layers` layers, the
final one included and all after the final norm; the scores are its values `ahead` layers above the final one. Tokens
below `alpha` times the highest probability are left out, which matters only above temperature 0. Both `layers` and
`ahead` are tuned for a model and a task; the defaults are the paper's example, layers 30 to 32 for a 33rd. The
embeddings are no layer, except in a model of one layer.

At `ahead=0` the scores are the fitted logits of the final layer, which are the true ones only for two layers. The
authors' code computes the whole sequence again for each token; here one forward gives both.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.contrast import Contrast, Scorer, exit_layers, from_exits, plausible
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class DeltaLayers(Contrast):
    """`layers=2,ahead=0` is `greedy`, and with `alpha=0` plain sampling above temperature 0."""

    layers: int = knob(3, "last layers that the line is fitted to; at most those of the model", low=2, high=1000,
                       sweep=(2, 3, 5, 9))
    ahead: float = knob(1.0, "layers above the final one", low=0, high=100, sweep=(0.0, 0.5, 1.0, 2.0, 5.0))
    alpha: float = knob(0.1, "share of the highest probability that a token needs to be drawn", low=0, high=1,
                        sweep=(0.05, 0.1, 0.2))

    paper: ClassVar[str] = "He et al. 2025, arXiv 2503.02343"

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence."""
        before = [layer for layer in exit_layers(session.engine.parts, "all") if layer] or [0]
        return from_exits(session, before[1 - self.layers:], True, self.scores)

    def scores(self, last: Tensor, exits: Tensor) -> Tensor:
        """Compute scores (V,) from the logits (V,) of the final layer and those (J, V) of the J layers before it."""
        possible = last > -inf
        points = torch.cat([exits, last.masked_fill(~possible, 0)[None]])
        predicted = last.new_tensor(weights(len(points), self.ahead)) @ points
        log_p = predicted.masked_fill(~possible, -inf).log_softmax(-1)
        return log_p.masked_fill(~plausible(log_p, self.alpha), -inf)


def weights(count: int, ahead: float) -> list[float]:
    """Return the weight of each of `count` equidistant values in the value of their line `ahead` places after the last.
    """
    mean = (count - 1) / 2
    spread = sum((place - mean) ** 2 for place in range(count))
    return [1 / count + (count - 1 + ahead - mean) * (place - mean) / spread for place in range(count)]
