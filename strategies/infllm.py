"""InfLLM: attend to the last tokens, and to the few units of earlier tokens that match best, whatever strategy decodes.

Xiao et al. 2024 (arXiv 2402.04617, §3). A token attends to the `window` last tokens at their positions. Behind the
window, tokens form units of `unit`; of a unit, the `reps` tokens that received most attention within the window, by
query head, stand for it with the mean of their keys. The `top` units whose means have the highest product with the
query, over all heads, are attended to as well, and so are the first `sinks` tokens and those that fill no unit yet. All
these are as if they were exactly `window` tokens away, in no order. One softmax covers both parts.

A prompt is read `block` tokens at a time, and units form between two forwards. Each token looks up units of its own;
the authors look up once for all tokens of a block. They also move units out of the device's memory; here all keys stay
in the cache, so this shows what the text becomes and not the memory that is saved. Counts of keys include the means of
units that a token compares itself with, half a key each. Drafts can change the text where a unit becomes complete while
they are verified, and the branches of a search form no units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.governed import GovernedCache
from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import shared_start
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.parts.units import Lookup


@dataclass(frozen=True)
class InfLLM(GovernedCache):
    """Identity: up to `window` tokens, the other strategy; with `top=0` only sinks are seen behind the window."""

    sinks: int = knob(128, "tokens at the start of the sequence that are always seen", low=0, high=1000000,
                      sweep=(4, 128))
    window: int = knob(4096, "last tokens, seen at their positions", low=1, high=1000000, sweep=(128, 512, 4096))
    unit: int = knob(128, "tokens of a unit", low=1, high=100000, sweep=(16, 32, 128))
    reps: int = knob(4, "tokens that stand for a unit", low=1, high=1000, sweep=(1, 4))
    top: int = knob(16, "units that a token looks up", low=0, high=100000, sweep=(0, 2, 4, 8, 16))
    block: int = knob(512, "tokens of a prompt that are read together; at most the window", low=1, high=100000,
                      sweep=(64, 512))

    paper: ClassVar[str] = "Xiao et al. 2024, arXiv 2402.04617"

    def policy(self) -> CachePolicy:
        """Look up units."""
        return Lookup(self.sinks, self.window, self.unit, self.reps, self.top)

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield what the wrapped strategy yields after the prompt has been read in blocks."""
        with session.with_cache_policy(self.policy()):
            size, count = min(self.block, self.window), len(request.prompt)
            begun = shared_start(session.tokens, request.prompt)
            for end in range(begun + size, count, size) if count > self.window else ():
                session.follow(request.prompt[:end])
                session.read()
            yield from self.over.generate(session, request)
