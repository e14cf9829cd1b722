"""TOVA: after each step, drop the keys that the last token attends to least, whatever strategy decodes.

Oren et al. 2024 (arXiv 2401.06104, §3.2). A transformer whose KV cache has a fixed size is a recurrent network, whose
state each step replaces in part. Of each layer, all heads keep the same keys: the `budget` with the highest attention
weights of the last token, averaged over heads. Neither the first nor the last tokens are favoured, and the newest key
may be dropped at once. Keys keep the positions that they were written with. The prompt is read with all of its keys.

Keys are dropped between two forwards. Drafts are verified in one forward, in which no key is dropped, so drafts can
change the text; a search drops keys of the prompt only, and keeps those of its hypotheses.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness.decoding.governed import GovernedCache
from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import CachedSequence
from harness.engine.heed import highest, weights
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class LastAttention(CachePolicy):
    """Keeps the keys to which the last token attends most, the same for all heads of a layer."""

    budget: int

    heeds: ClassVar[bool] = True

    def settle(self, sequence: CachedSequence) -> None:
        """Keep the budget."""
        last = sequence.queries[-1:]
        if sequence.start > self.budget and len(last):
            scores = torch.stack([each.mean((0, 1, 2)) for each in weights(sequence, last)])  # (layers, S)
            heads = len(sequence.engine.cache.keys(sequence.row.index, 0)[0])
            sequence.select(highest(scores, self.budget)[:, None].expand(-1, heads, -1))


@dataclass(frozen=True)
class Tova(GovernedCache):
    """Identity: up to `budget` + 1 tokens, the other strategy."""

    budget: int = knob(512, "keys that are kept between two steps", low=1, high=1000000, sweep=(64, 128, 256, 1024))

    paper: ClassVar[str] = "Oren et al. 2024, arXiv 2401.06104"

    def policy(self) -> CachePolicy:
        """Keep what the last token attends to."""
        return LastAttention(self.budget)
