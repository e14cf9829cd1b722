"""ALISA: attend to the last keys and to those that the last few tokens attended to, whatever strategy decodes.

Zhao et al. 2024 (arXiv 2403.17312), sparse window attention: a share `local` of the `budget` goes to the last keys, the
rest to the earlier keys with the highest sum of the attention weights that the last `steps` tokens gave, chosen by each
KV head of each layer after the prompt and after each decode step. The prompt is read with all of its keys. Half of the
budget is local in the paper; whether exactly, and how many steps it sums over, was not checked.

Nothing is dropped: a key that is left out can come back, as long as one of the last `steps` tokens has attended to it.
The paper's schedule of which keys are held, moved or computed again is not followed.

Keys are chosen between two forwards. Drafts are verified in one forward, so they can change the text; a search sees the
choice made after the prompt, and all keys of its hypotheses.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.decoding.governed import GovernedCache
from harness.engine.attention_hooks import Attend
from harness.engine.cache_policy import CachePolicy, LayerAttention
from harness.engine.cached_sequence import CachedSequence
from harness.engine.heed import highest, weights
from harness.engine.hooks import View
from harness.plugins.strategy import knob


class Given(NamedTuple):
    """The attention (N, layers, KV heads, S) that the last N tokens gave, and which keys the next ones do not see."""

    mass: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True)
class SparseWindow(CachePolicy):
    """Hides all but the last `local` keys and the `others` that received most from the last `steps` tokens."""

    local: int
    others: int
    steps: int

    heeds: ClassVar[bool] = True

    def learn(self, sequence: CachedSequence) -> None:
        """Note the attention that the newest tokens gave."""
        queries, state = sequence.queries[-self.steps:], sequence.row.state
        if not len(queries):
            return
        given = weights(sequence, queries, state.hidden if state else None)
        mass = torch.stack([each.sum(1).transpose(0, 1) for each in given], 1)
        if state:
            mass = torch.cat([pad(state.mass, (0, mass.shape[-1] - state.mass.shape[-1])), mass])[-self.steps:]
        sequence.row.state = Given(mass, state.hidden if state else None)
        sequence.settled = sequence.cached

    def settle(self, sequence: CachedSequence) -> None:
        """Choose what the next tokens see."""
        scores = sequence.row.state.mass.sum(0)
        if scores.shape[-1] > self.local + self.others:
            slots = highest(scores, self.others, self.local)
            hidden = torch.ones_like(scores, dtype=torch.bool).scatter_(-1, slots, False)
            sequence.row.state = sequence.row.state._replace(hidden=hidden)

    def attention(self, view: View) -> LayerAttention | None:
        """Hide keys."""
        hidden = [row.state.hidden if row.state else None for row in view.rows]
        if not (known := [each for each in hidden if each is not None]):
            return None
        none = torch.zeros_like(known[0])

        @cache
        def padded(slots: int) -> Tensor:
            rows = [none if each is None else each for each in hidden]
            return torch.stack([pad(each, (0, slots - each.shape[-1]))[..., :slots] for each in rows])

        def attend(layer: int, own: Attend, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                   *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            left_out = padded(mask.shape[-1])[:, layer].repeat_interleave(query.shape[1] // key.shape[1], 1)
            mask = mask.masked_fill(left_out[:, :, None], torch.finfo(mask.dtype).min)
            return own(module, query, key, value, mask, *args, **kwargs)

        return attend


@dataclass(frozen=True)
class Alisa(GovernedCache):
    """Identity: up to `budget` + 1 tokens, the other strategy; `local=1` is a window."""

    budget: int = knob(256, "keys that a token attends to besides its own", low=1, high=1000000,
                       sweep=(64, 128, 256, 1024))
    local: float = knob(0.5, "share of the budget that the last keys get", low=0.0, high=1.0,
                        sweep=(0.25, 0.5, 0.75))
    steps: int = knob(4, "last tokens whose attention chooses the other keys", low=1, high=1000, sweep=(1, 4, 16))

    paper: ClassVar[str] = "Zhao et al. 2024, arXiv 2403.17312"

    def policy(self) -> CachePolicy:
        """Attend to a sparse window."""
        local = int(self.local * self.budget)
        return SparseWindow(local, self.budget - local, self.steps)
