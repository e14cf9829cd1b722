"""H2O: keep the last keys and those that have received most attention (heavy hitters), whatever strategy decodes.

Zhang et al. 2023 (arXiv 2306.14048, §4). Few tokens receive nearly all attention. In each layer, every KV head sums up
how much attention each of its keys has received from all tokens so far. The prompt is read with all of its keys; then,
and after each decode step, a head keeps its `recent` last keys and the `heavy` others with the highest sums. A dropped
key never returns. Keys keep the positions that they were written with.

The authors' simulation chooses keys for every query head, which takes as many copies of a key as query heads share it;
here the heads of a group choose together (`share`). Old keys have been seen by more tokens and so have higher sums;
`norm=mean` divides by that number, which the authors' code has as a comment.

Keys are dropped between two forwards. Drafts are verified in one forward, in which no key is dropped, so drafts can
change the text; a search drops keys of the prompt only, and keeps those of its hypotheses.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.decoding.governed import GovernedCache
from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import CachedSequence
from harness.engine.heed import highest, weights
from harness.plugins.strategy import knob


class Received(NamedTuple):
    """The attention that slots (layers, KV heads, S) received, the tokens that could attend, and the keys to keep."""

    mass: Tensor
    seen: Tensor
    heavy: int = 0
    recent: int = 0

    def scores(self, norm: str) -> Tensor:
        """Return the score of each slot."""
        return self.mass / self.seen if norm == "mean" else self.mass


@dataclass(frozen=True)
class HeavyHitters(CachePolicy):
    """Keeps shares of the prompt's length: of the last keys, and of the others that received most attention."""

    heavy: float
    recent: float
    norm: str
    share: str

    heeds: ClassVar[bool] = True

    def learn(self, sequence: CachedSequence) -> None:
        """Add the attention that new tokens gave."""
        queries, before = sequence.queries, sequence.row.state
        if not len(queries):
            return
        given = torch.stack([each.sum(2) for each in weights(sequence, queries)])  # (layers, G, H/G, S)
        mass = given.amax(2) if self.share == "max" else given.sum(2)
        slots = torch.arange(mass.shape[-1], device=mass.device)
        seen = (len(slots) - slots).clamp_max(len(queries)).expand_as(mass)
        if before:
            new = (0, mass.shape[-1] - before.mass.shape[-1])
            mass, seen = mass + pad(before.mass, new), seen + pad(before.seen, new)
        sequence.row.state = Received(mass, seen, *(before[2:] if before else ()))
        sequence.settled = sequence.cached

    def settle(self, sequence: CachedSequence) -> None:
        """Keep the budget, which the prompt sets."""
        state: Received = sequence.row.state
        if not state.recent:
            heavy, recent = int(self.heavy * sequence.cached), int(self.recent * sequence.cached)
            state = state._replace(heavy=heavy, recent=max(1, recent))
        if sequence.start > state.heavy + state.recent:
            slots = highest(state.scores(self.norm), state.heavy, state.recent)
            sequence.select(slots)
            state = state._replace(mass=state.mass.gather(-1, slots), seen=state.seen.gather(-1, slots))
        sequence.row.state = state


@dataclass(frozen=True)
class H2O(GovernedCache):
    """Identity: with shares of the prompt that cover the whole text, the other strategy; `heavy=0` keeps a window."""

    heavy: float = knob(0.1, "keys with most attention that are kept, as a share of the prompt's length", low=0.0,
                        high=1000.0, sweep=(0.05, 0.1, 0.2, 0.4))
    recent: float = knob(0.1, "last keys that are kept, as a share of the prompt's length; at least one", low=0.0,
                         high=1000.0, sweep=(0.05, 0.1, 0.2, 0.4))
    norm: str = knob("sum", "the attention of a key is the sum over all tokens since, or their mean",
                     choices=("sum", "mean"), sweep=("sum", "mean"))
    share: str = knob("sum", "query heads that share keys choose by the sum or the maximum of theirs",
                      choices=("sum", "max"), sweep=("sum", "max"))

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv 2306.14048"

    def policy(self) -> CachePolicy:
        """Keep heavy hitters."""
        return HeavyHitters(self.heavy, self.recent, self.norm, self.share)
