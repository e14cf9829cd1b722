"""A window over the text that is read anew for every eviction: what StreamingLLM is compared with.

Xiao et al. 2023 (arXiv 2309.17453, §3.1: sliding window with recomputation). At most `sinks` + `window` tokens are in
the cache. When it is full, the `chunk` oldest tokens after the sinks are dropped, and all others are read again, as if
the dropped ones had never been: good text, at the price of many tokens read. `streaming` reads each token once.
`temperature` and `p` set the distribution; up to `sinks` + `window` tokens the output is that of greedy or `top_p`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import at
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import UserError
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class RecomputedWindow(Strategy):
    """One token a step from a context of bounded length."""

    sinks: int = knob(4, "tokens kept from the start of the sequence", low=0, high=1024, sweep=(0, 1, 2, 4, 8))
    window: int = knob(1020, "maximum recent tokens kept", low=1, high=1000000, sweep=(252, 508, 1020, 2044))
    chunk: int = knob(128, "tokens evicted together; at most window", low=1, high=1000000, sweep=(1, 32, 128))
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "Xiao et al. 2023, arXiv 2309.17453"
    family: ClassVar[str] = "cache"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __post_init__(self) -> None:
        """Refuse a chunk that is larger than the window."""
        super().__post_init__()
        if self.chunk > self.window:
            raise UserError(f"streaming: a chunk of {self.chunk} is larger than the window of {self.window}.")

    def dropped(self, length: int) -> int:
        """Return the number of evicted tokens of a sequence of `length` tokens: as few whole chunks as necessary."""
        over = max(0, length - self.sinks - self.window)
        return -(-over // self.chunk) * self.chunk

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        sequence, warp = list(request.prompt), logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p))
        while True:
            kept = sequence[:self.sinks] + sequence[self.sinks + self.dropped(len(sequence)):]
            session.follow(kept)
            reading = session.read()
            if self.temperature == 0:
                sequence += reading.best
            else:
                sequence.append(at(self.temperature)(EMPTY, warp(reading.logits, [kept]), request.stream)[1])
            yield sequence[-1:]
