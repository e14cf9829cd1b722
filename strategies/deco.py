"""DeCo: add the logits of the earlier layer that is most confident of a likely token to the last layer's.

Wang et al. 2024 (arXiv 2410.11779). Candidates are the shortest run of the `k` likeliest tokens that holds the mass
`tau`. Among the layers from `first` to `last` (shares of the depth; 20 to 28 of 32 at the defaults) the one that gives
a candidate the highest probability is chosen; its logits, times `alpha` and that probability, are added, and only
candidates may follow. Early layers go through the final norm, as in the authors' code. Each sequence chooses alone.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from harness.decoding.contrast import Contrast, Scorer, from_exits
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class Deco(Contrast):
    """`alpha=0` is `greedy`, and above temperature 0 a sample from the candidates; `k=1` is `greedy`."""

    alpha: float = knob(0.6, "weight of the earlier layer; 0 is greedy", low=0, high=10,
                        sweep=(0.1, 0.3, 0.5, 0.6, 0.8, 1.0))
    tau: float = knob(0.9, "mass of the candidates", low=0, high=1, sweep=(0.8, 0.9, 0.95))
    k: int = knob(20, "maximum candidates", low=1, high=4096, sweep=(10, 20, 50))
    first: float = knob(0.625, "first layer, as a share of the depth", low=0, high=1, sweep=(0.5, 0.625, 0.75))
    last: float = knob(0.88, "last layer, as a share of the depth", low=0, high=1, sweep=(0.75, 0.88))

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2410.11779"

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        super().__post_init__()
        if self.first > self.last:
            raise UserError(f"deco: first={self.first} must not be above last={self.last}.")

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence."""
        return from_exits(session, self.layers(len(session.engine.parts.layers)), True, self.scores)

    def layers(self, count: int) -> range:
        """Return the candidate layers of a model with `count` layers; 0 is the embeddings."""
        return range(int(self.first * count), int(self.last * count) + 1)

    def scores(self, last: Tensor, earlier: Tensor) -> Tensor:
        """Compute scores (V,) from the last layer's logits (V,) and earlier ones (J, V); −∞ but for candidates."""
        empty: list[list[int]] = [[]]
        few, mass = logit_warps.top_k(self.k)(last[None], empty)[0], logit_warps.top_p(self.tau)(last[None], empty)[0]
        left_out = (few == -inf) | (mass == -inf)
        confidence = earlier.softmax(-1).masked_fill(left_out, -1).amax(-1)  # (J,)
        layer = int(confidence.argmax())
        return (last + self.alpha * confidence[layer] * earlier[layer]).masked_fill(left_out, -inf)
