"""SkipDecode: run fewer layers the further the answer is, the same number for every sequence at the same place.

Del Corro et al. 2023 (arXiv 2307.02628). The prompt runs all layers. The token at place t of the answer, from 0, runs
most - (most - least) · t / (horizon - 1) of them, rounded, and `least` of them from place `horizon` - 1 on. The first
`warm` layers always run, and the others that run are at the top: the lower middle is skipped. The number never rises,
so every layer that a token runs has the keys and values of all tokens before it. Decoding is greedy.

`most` is the model's number of layers. The rounding and the form of the fall were not compared with code of the
authors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.hooked import greedily
from harness.engine.hooks import ForwardHook, Skip
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class SkipDecode(Strategy):
    """`least` of all layers or more is `greedy`."""

    least: int = knob(6, "layers that the last tokens run", low=1, high=1000, sweep=(4, 6, 8))
    warm: int = knob(1, "first layers, which always run", low=1, high=1000, sweep=(1, 2))
    horizon: int = knob(64, "tokens of the answer until the number is the smallest", low=2, high=100000, sweep=(64,))

    paper: ClassVar[str] = "Del Corro et al. 2023, arXiv 2307.02628"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def depth(self, place: int, most: int) -> int:
        """Return the number of layers that the token at this place of the answer runs, of `most`."""
        least = min(most, max(self.least, self.warm))
        return int(most - (most - least) * min(1.0, place / (self.horizon - 1)) + 0.5)

    def skipped(self, place: int, most: int) -> range:
        """Return the layers that it skips."""
        return range(min(self.warm, most), min(self.warm, most) + most - self.depth(place, most))

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        session.follow(())  # the answer before a further prompt lacks keys, so that it is computed again
        layers = len(session.engine.parts.layers)

        def hook(step: int) -> ForwardHook | None:
            skipped = frozenset(self.skipped(step - 1, layers)) if step else frozenset[int]()
            return Skip(skipped, skipped) if skipped else None
        return greedily(session, request, hook)
