"""Sampling: one token per step, sampled after temperature and a method's mask."""

from collections.abc import Iterator
from typing import Any, ClassVar

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


def temperature_knob() -> Any:
    """Return the knob `temperature`, which every sampler has as its last one."""
    return knob(1.0, "divides the logits; 0 is greedy", low=0, high=10, sweep=(0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0))


class Sampler(Strategy):
    """Applies temperature, then the mask `kept`, then samples, as transformers and vLLM do; greedy at temperature 0.

    A sampler ends its knobs with `temperature: float = temperature_knob()`, and defines `kept`, or `warp` if it changes
    the logits in another way.
    """

    temperature: float

    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def kept(self) -> logit_warps.Warp:
        """Return the logit warp that masks the tokens that cannot be sampled; by default there are none."""
        return logit_warps.identity

    def warp(self, request: Request) -> logit_warps.Warp:
        """Return the logit warp of one request, temperature included."""
        return logit_warps.drawn_at(self.temperature, self.kept())

    def native(self, options: NativeOptions) -> NativeCall:
        """Use the engine's own sampler, or its plain sampling of logits after this strategy's warps."""
        temperature = float(self.temperature)
        return options(self) or NativeCall({"temperature": 1.0 if temperature else 0.0}, warps=bool(temperature))

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one sampled token a step."""
        return one_by_one(session, at(self.temperature), request, self.warp(request))
