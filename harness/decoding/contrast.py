"""Contrastive decoding: contrast two next-token distributions, mask implausible tokens, and run the decoding loop."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.decoding.accept import at
from harness.engine import logit_warps
from harness.engine.hooks import ModelParts, Watch
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.plugins.strategy import Guarantee, Request, Strategy, knob

ROUNDING = 1e-4  # scores that differ by less are ties: two forward passes over one sequence differ by a tenth of it


class Scored(NamedTuple):
    """The `scores` (V,) of the next token by a method, and the model's logits `plain` (V,), which break ties."""

    scores: Tensor
    plain: Tensor


Scorer = Callable[[Sequence[int]], Scored]
"""`sequence → Scored`, where the sequence is the prompt and the generated tokens."""


def plausible(log_p: Tensor, alpha: float, least: int = 1) -> Tensor:
    """Mark tokens whose log p (…, V) is within log `alpha` of the highest, and the `least` highest (2210.15097, §3.2).

    Tokens of probability 0 are never plausible.
    """
    bound = log_p.amax(-1, keepdim=True) + (log(alpha) if alpha else -inf)
    if least > 1:
        bound = torch.minimum(bound, log_p.topk(min(least, log_p.shape[-1]), -1).values[..., -1:])
    return (log_p >= bound) & (log_p > -inf)


def away(plus: Tensor, minus: Tensor, weight: float, own: float = 1.0) -> Tensor:
    """Return `own` · plus − `weight` · minus, all (…, V), with minus replaced by plus where minus is −∞.

    The result is −∞ where plus is; a token that is masked in minus only gains nothing from that.
    """
    minus = torch.where(minus == -inf, plus, minus)
    return (own * plus - weight * minus).masked_fill(plus == -inf, -inf)


def contrast(expert: Tensor, amateur: Tensor, alpha: float, beta: float) -> Tensor:
    """Return scores (…, V), (1 + β)·log p − β·log q from both models' logits; −∞ for tokens implausible to the expert.

    As in O'Brien and Lewis (2309.09117, §2).
    """
    p, q = expert.double().log_softmax(-1), amateur.double().log_softmax(-1)
    return away(p, q, beta, 1 + beta).masked_fill(~plausible(p, alpha), -inf)


def exit_layers(parts: ModelParts, which: str) -> list[int]:
    """Return the layers of early exits: "all", or every second one of the "low" or "high" half; 0 is the embeddings.

    As in DoLa (2309.03883), a half is 20 layers in a model of more than 40. With tied weights layers 0 and 1 are left
    out, as far as others are there: layer 0 then predicts the input token.
    """
    count = len(parts.layers)
    tied = getattr(parts.head, "weight", None) is parts.embedding.weight
    first = min(2, count - 1) if tied else 0
    if which == "high":
        return list(range(count // 2 if count <= 40 else count - 20, count, 2))
    if which == "low":
        return list(range(first, count // 2 if count <= 40 else 20, 2)) or [first]
    return list(range(first, count))


def from_exits(session: Session, layers: Sequence[int], norm: bool, scores: Callable[[Tensor, Tensor], Tensor]
               ) -> Scorer:
    """Return the scorer with `scores(last, exits)`: the model's logits (V,), and those (J, V) of J early exits.

    Exits are the outputs of `layers`, through the final norm if `norm`. All sequences of a batch share one product. A
    logit warp of the session changes the model's logits, not those of the exits.
    """
    parts, names = session.engine.parts, [f"hidden:{layer}" for layer in layers]
    watch = Watch(tuple(names)) if names else None

    def scored(sequence: Sequence[int]) -> Scored:
        session.follow(sequence)
        reading = session.read(EMPTY, watch)
        last = reading.logits[0]
        return Scored(scores(last, reading.exits(names, parts, norm) if names else last.new_empty(0, len(last))), last)
    return scored


@dataclass(frozen=True)
class Contrast(Strategy):
    """Scores next tokens by a contrast, and takes the best one at temperature 0 or samples above it.

    A method defines the scores (`scorer`), which are used as logits.
    """

    temperature: float = knob(0.0, "divides the scores; 0 takes the highest", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus that is drawn from", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    family: ClassVar[str] = "contrast"
    guarantee: ClassVar[Guarantee] = "changes-output"

    @abstractmethod
    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of next tokens for one request."""

    def pick(self, scored: Scored, sequence: Sequence[int], request: Request) -> int:
        """Return the next token; ties go to the token with the higher logit, then to the lower id."""
        warp = logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p))
        scores = scored.scores
        if not self.temperature:
            scores = scored.plain.masked_fill(scores < scores.max() - ROUNDING, -inf)
        return at(self.temperature)(EMPTY, warp(scores[None], [sequence]), request.stream)[1]

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield one token a step."""
        sequence, scorer = list(request.prompt), self.scorer(session, request)
        while True:
            sequence.append(self.pick(scorer(sequence), sequence, request))
            yield sequence[-1:]
