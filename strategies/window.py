"""Sliding window: a token attends to the last tokens alone, whatever strategy decodes.

The baseline of all cache policies (Beltagy et al. 2020, arXiv 2004.05150, §3.1, at decoding time). What tokens before
the window said still reaches it through the keys and values of those in it.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.governed import GovernedCache
from harness.engine.cache_policy import CachePolicy
from harness.plugins.strategy import knob
from strategies.streaming import Ends


@dataclass(frozen=True)
class Window(GovernedCache):
    """Identity: up to `window` + 1 tokens, the other strategy; at any length `streaming:sinks=0`."""

    window: int = knob(512, "tokens before the current one that are kept", low=1, high=1000000,
                       sweep=(64, 128, 256, 508, 1020))
    whole: bool = knob(True, "read the prompt with all of its tokens, and drop tokens after it", sweep=(True, False))

    paper: ClassVar[str] = "Beltagy et al. 2020, arXiv 2004.05150"

    def policy(self) -> CachePolicy:
        """Keep the last tokens."""
        return Ends(0, self.window, self.whole)
