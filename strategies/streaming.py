"""StreamingLLM: keep the first tokens (attention sinks) and the last ones in the KV cache, whatever strategy decodes.

Xiao et al. 2023 (arXiv 2309.17453, §3.2). A token attends to the first `sinks` tokens, the `window` tokens before it
and itself. Positions count within the cache: the sinks are as near as if the tokens between them and the window had
never been. No token is read twice, so a text of any length takes the same memory and time per token.

The authors cache keys without rotation and rotate all of them at each step. Here the query is rotated to the distance
at which it sees the sinks, and keys stay as they are. When a window's worth of tokens has left the window, they are
dropped together, and the keys of the others are rotated back once. What a token attends to does not depend on that,
nor on how many tokens a forward computes: drafts are verified as if they were decoded one by one.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.decoding.governed import GovernedCache
from harness.engine.attention_hooks import Attend
from harness.engine.cache_policy import CachePolicy, LayerAttention
from harness.engine.cached_sequence import CachedSequence
from harness.engine.hooks import View
from harness.engine.windows import narrowed
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class Ends(CachePolicy):
    """Keeps the ends of a sequence; `whole` reads a prompt before it drops anything of it."""

    sinks: int
    window: int
    whole: bool

    rotates: ClassVar[bool] = True

    def settle(self, sequence: CachedSequence) -> None:
        """Drop what has left the window, once it is as much as the window holds."""
        sequence.row.state = True
        gone = sequence.start - self.sinks - self.window
        if gone >= self.window:
            sequence.drop(self.sinks, self.sinks + gone)
            sequence.turn(self.sinks, gone)

    def attention(self, view: View) -> LayerAttention | None:
        """Attend to the ends, from a distance to the sinks at most that of a full cache."""
        if view.longest <= self.sinks + self.window + 1:
            return None
        dense = torch.tensor([self.whole and row.state is None for row in view.rows], device=view.slots.device)
        near = cache(partial(self._near, dense))  # layers of one kind get the same mask
        full = self.sinks + self.window
        back = (full - view.positions).clamp_max(0).masked_fill(dense[:, None], 0) if self.sinks else None

        def attend(layer: int, own: Attend, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                   *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            if back is not None:
                turned = view.rotary().turned(layer, query, back)
                query, key = torch.cat([query, turned], -1), _apart(key, self.sinks)
            return own(module, query, key, value, near(mask), *args, **kwargs)

        return attend

    def _near(self, dense: Tensor, mask: Tensor) -> Tensor:
        return torch.where(dense[:, None, None, None], mask, narrowed(mask, self.window + 1, self.sinks))


def _apart(key: Tensor, sinks: int) -> Tensor:
    """Return keys (B, G, S, 2D): the first half is that of later tokens, the second half that of the sinks."""
    near, far = key.clone(), torch.zeros_like(key)
    near[:, :, :sinks] = 0
    far[:, :, :sinks] = key[:, :, :sinks]
    return torch.cat([near, far], -1)


@dataclass(frozen=True)
class Streaming(GovernedCache):
    """Identity: up to `sinks` + `window` + 1 tokens, the other strategy."""

    sinks: int = knob(4, "tokens kept from the start of the sequence", low=0, high=1024, sweep=(0, 1, 2, 4, 8))
    window: int = knob(512, "tokens before the current one that are kept", low=1, high=1000000,
                       sweep=(64, 128, 256, 508, 1020))
    whole: bool = knob(True, "read the prompt with all of its tokens, and drop tokens after it", sweep=(True, False))

    paper: ClassVar[str] = "Xiao et al. 2023, arXiv 2309.17453"

    def policy(self) -> CachePolicy:
        """Keep both ends."""
        return Ends(self.sinks, self.window, self.whole)
