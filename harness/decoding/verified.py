"""Base classes of strategies that draft and verify, exactly or with a lossy acceptance rule."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from harness.decoding.accept import Accept, at, delta
from harness.decoding.loop import Drafter, draft_and_verify
from harness.engine import logit_warps
from harness.engine.offers import Capability
from harness.engine.random_stream import Likeliest, Stream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.plugin import per_instance
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob


@dataclass(frozen=True)
class Verified(Strategy):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs.

    A method defines its `drafter` and, if drafts are sampled rather than chosen, the `rule` that preserves the
    distribution.
    """

    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    family: ClassVar[str] = "speculative"
    guarantee: ClassVar[Guarantee] = "distribution-preserving"

    @abstractmethod
    def drafter(self, session: Session, request: Request) -> Drafter:
        """Return the drafter for one sequence."""

    def rule(self) -> Accept:
        """Return the acceptance rule above temperature 0."""
        return delta

    def logit_warp(self) -> logit_warps.Warp:
        """Return the logit warp of both draft model and target."""
        return logit_warps.compose(logit_warps.temperature(self.temperature), logit_warps.top_p(self.p))

    def draws(self, request: Request) -> Stream | None:
        """Return the random stream for drafts, None at temperature 0, where drafts are the likeliest tokens."""
        return request.stream if self.temperature else None

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        return draft_and_verify(session, self.drafter(session, request), at(self.temperature, self.rule()), request,
                                self.logit_warp())


@dataclass(frozen=True)
class Lossy(Verified):
    """Drafts as an exact method does, with a lossy `rule` that accepts more drafts and changes the output.

    The needs are those of the exact method. With `compares`, the rule uses the draft distributions, which are then
    recorded at temperature 0 too.
    """

    over: str = knob("speculative", "exact strategy that drafts, with its knobs after ':' and separated by ';'")

    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = per_instance(frozenset({"draft"}), lambda self: self._exact().needs)
    stateful: ClassVar[bool] = per_instance(False, lambda self: self._exact().stateful)
    head_kind: ClassVar[str] = per_instance("", lambda self: self._exact().head_kind)
    translates: ClassVar[bool] = per_instance(False, lambda self: self._exact().translates)
    drafts_with: ClassVar[Capability] = per_instance("causal", lambda self: self._exact().drafts_with)
    compares: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise `UserError` unless `over` is an exact method that drafts."""
        super().__post_init__()
        self._exact()

    def files(self) -> dict[str, Path]:
        """Return the files of this strategy and of the exact method."""
        return {f"over.{key}": path for key, path in self._exact().files().items()} | super().files()

    @property
    def sure(self) -> bool:
        """Whether the temperature is 0."""
        return not self.temperature

    @abstractmethod
    def rule(self) -> Accept:
        """Return the acceptance rule, also for temperature 0."""

    def drafter(self, session: Session, request: Request) -> Drafter:
        """Return the exact method's drafter with this temperature and nucleus."""
        exact = replace(self._exact(), temperature=self.temperature, p=self.p)
        if self.sure and self.compares:
            exact, request = replace(exact, temperature=1.0), replace(request, stream=Likeliest())
        return exact.drafter(session, request)

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        return draft_and_verify(session, self.drafter(session, request), self.rule(), request, self.logit_warp())

    def _exact(self) -> Verified:
        exact = STRATEGIES.build(self.over.replace(";", ","))
        if not isinstance(exact, Verified) or isinstance(exact, Lossy):
            raise UserError(f"{self.name}: '{self.over}' is not a method that drafts and verifies exactly.")
        return exact
