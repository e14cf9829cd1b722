"""DoLa: contrast the last layer's logits with those of the early layer that differs most.

Chuang et al. 2023 (arXiv 2309.03883). Early exits are read at `layers`: low or high, every second layer of the lower or
upper half (of 20 layers at the bottom or top of a model of more than 40), or numbers such as 0-2-4, 0 being the
embeddings. Among tokens with at least `alpha` times the highest probability the score is log p − log q, q being the
exit of the largest divergence from p. The paper adds a repetition penalty of 1.2.

`variant` "official" computes the "Jensen-Shannon" divergence as the authors and transformers do, with the arguments of
both Kullback-Leibler terms swapped; "paper" uses the correct one. Exits skip the final norm as in their code, unless
`norm`. Each sequence chooses its own layer; their code chooses one for a batch.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.contrast import Contrast, Scorer, away, exit_layers, from_exits, plausible
from harness.engine.hooks import ModelParts
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class Dola(Contrast):
    """`alpha=1` is `greedy`, and so are `layers` with the last layer alone."""

    layers: str = knob("low", "early exits: low, high, or numbers with '-' between them", sweep=("low", "high"),
                       also="dola_layers")
    alpha: float = knob(0.1, "share of the highest probability that a token needs", low=0, high=1,
                        sweep=(0.05, 0.1, 0.2))
    norm: bool = knob(False, "early exits go through the final norm", sweep=(False, True))
    variant: str = knob("official", "whose divergence", choices=("official", "paper"), sweep=("official", "paper"))

    paper: ClassVar[str] = "Chuang et al. 2023, arXiv 2309.03883"

    def __post_init__(self) -> None:
        """Refuse layers that are not numbers."""
        super().__post_init__()
        if self.layers not in ("low", "high") and not all(part.isdecimal() for part in self.layers.split("-")):
            raise UserError(f"dola: layers must be low, high or numbers such as 0-2-4, not '{self.layers}'.")

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence."""
        bucket = self.bucket(session.engine.parts)
        early = [layer for layer in bucket if layer < len(session.engine.parts.layers)]

        def scores(last: Tensor, exits: Tensor) -> Tensor:
            known = dict(zip(early, exits, strict=True))
            return self.scores(last, torch.stack([known.get(layer, last) for layer in bucket]))
        return from_exits(session, early, self.norm, scores)

    def scores(self, last: Tensor, exits: Tensor) -> Tensor:
        """Compute scores (V,) from the logits (V,) of the last layer and (J, V) of the exits; ties go to the first."""
        p, early = last.log_softmax(-1), exits.log_softmax(-1)
        divergences = divergence(p, early, self.variant).tolist()
        return away(p, early[divergences.index(max(divergences))], 1).masked_fill(~plausible(p, self.alpha), -inf)

    def bucket(self, parts: ModelParts) -> list[int]:
        """Return the layers of the early exits; raises `Unsupported` for one that the model does not have."""
        if self.layers in ("low", "high"):
            return exit_layers(parts, self.layers)
        chosen = [int(part) for part in self.layers.split("-")]
        if max(chosen) > (count := len(parts.layers)):
            raise Unsupported(f"has {count} layers, so it has no layer {max(chosen)} for an early exit")
        return chosen


def divergence(p: Tensor, q: Tensor, variant: str) -> Tensor:
    """Compute the divergence (J,) of log-probabilities q (J, V) from p (V,): Jensen-Shannon in nats, or "official".

    The latter is (½·KL(m‖p) + ½·KL(m‖q)) / V, where m is the mean of both.
    """
    mean = (p.exp() + q.exp()) / 2
    log = mean.log()
    if variant == "official":
        return (mean * (log - (p + q) / 2)).nan_to_num(0.0, posinf=0.0).mean(-1)
    return (p.exp() * (p - log) + q.exp() * (q - log)).nan_to_num(0.0).sum(-1) / 2
