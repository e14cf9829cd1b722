"""Mixtures of the model's distribution with that of a memory, which is asked with the key of the last token."""

from abc import abstractmethod
from collections.abc import Iterator
from math import inf, log, log1p
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from harness.decoding.accept import at
from harness.engine import logit_warps
from harness.engine.engine import Engine
from harness.engine.session import Reading, Session
from harness.engine.tree import EMPTY
from harness.plugins.strategy import Guarantee, Request, Strategy
from strategies.parts.keys import WATCH

M = TypeVar("M")


class Mixture(Strategy, Generic[M]):
    """Decodes from `lam` times the distribution of a memory M plus 1 − `lam` times the model's.

    `temperature` and `p` act on the mixture.
    """

    lam: float
    temperature: float
    p: float

    family: ClassVar[str] = "memory"
    guarantee: ClassVar[Guarantee] = "changes-output"

    @abstractmethod
    def opened(self, engine: Engine) -> M:
        """Return the memory for a model; raises `Unsupported` or `UserError` when there is none."""

    @abstractmethod
    def votes(self, reading: Reading, memory: M) -> Tensor:
        """Compute the memory's distribution (1 + N, V) in float32 from a forward pass with the hook WATCH."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        memory = self.opened(session.engine)
        warp = logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p))
        sequence, accept = list(request.prompt), at(self.temperature)
        if session.tokens == sequence:
            session.follow(sequence[:-1])  # run the last token again: its key may not have been recorded
        while True:
            session.follow(sequence)
            logits = warp(self.mixed(session.read(hook=WATCH), memory), [sequence])
            sequence.append(accept(EMPTY, logits, request.stream)[1])
            yield sequence[-1:]

    def mixed(self, reading: Reading, memory: M) -> Tensor:
        """Compute log-probabilities (1 + N, V) of the mixture from a forward pass with the hook WATCH.

        Tokens of logit −∞ stay excluded; where the memory has no votes the model's distribution is unchanged.
        """
        logits = reading.logits
        if not self.lam:
            return logits
        share, own = self.votes(reading, memory), logits.log_softmax(-1)
        both = torch.logaddexp(share.log() + log(self.lam), own + (log1p(-self.lam) if self.lam < 1 else -inf))
        both = both.masked_fill(logits == -inf, -inf)
        return torch.where(both.isfinite().any(-1, keepdim=True), both, own).log_softmax(-1)
