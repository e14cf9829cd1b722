"""The contract of cache policies: what a sequence keeps of its KV cache, and what its tokens attend to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.engine.attention_hooks import Attend, attending
from harness.engine.compute import ADDED, KV, SPARED
from harness.engine.hooks import Captured, ModelParts, View
from harness.engine.offers import missing
from harness.errors import Unsupported

if TYPE_CHECKING:
    from harness.engine.cached_sequence import CachedSequence

KEYS, QUERIES = SPARED + "keys", "queries"
LayerAttention = Callable[..., tuple[Tensor, Tensor | None]]
"""`(layer, attend, module, query (B, H, Q, D), key (B, G, S, D), value, mask, …) → (output (B, Q, H, D), weights)`.

`attend` also takes `compared`, the `Compared` of tokens that choose their keys by more than the keys themselves.
"""


class Compared(NamedTuple):
    """How many vectors each token (B, Q) is compared with before it attends; each has a part for `heads` heads."""

    vectors: Tensor
    heads: int


class CachePolicy:
    """A policy of one or more sequences; those with equal policies may share a forward.

    With `whole`, a prompt is read as without a policy, and the policy begins after it. If it `rotates` keys or queries,
    the model needs rotary position embeddings. If it `heeds` attention, sequences keep the queries of new tokens for
    it, and all layers of the model must attend to all tokens. By default, nothing changes.
    """

    whole: bool = True
    rotates: ClassVar[bool] = False
    heeds: ClassVar[bool] = False

    def check(self, sequence: "CachedSequence") -> None:
        """Raise `Unsupported` if another policy governs the sequence, or its model cannot be governed by this one."""
        engine = sequence.engine
        if sequence.policy:
            raise Unsupported("cannot be combined with another strategy that governs the KV cache")
        if reason := missing({"prompt", "attention"}, engine.offers):
            raise Unsupported(reason)
        if self.rotates:
            _ = engine.rotary
        if self.heeds and engine.windows.size:
            raise Unsupported("needs a model whose layers all attend to all tokens")
        if self.heeds and sequence.unheard:
            raise Unsupported("must see the attention of the whole prompt: write it behind all other strategies")

    def learn(self, sequence: "CachedSequence") -> None:
        """Learn of the tokens committed since the last call, before each forward, also within a `whole` prompt."""

    def settle(self, sequence: "CachedSequence") -> None:
        """Drop or change what the row holds, before a forward; all that it holds is committed."""

    def attention(self, view: View) -> LayerAttention | None:
        """Return the attention of all layers in one forward over the rows of `view`; None changes nothing."""
        return None

    def shorter(self, view: View) -> Tensor | None:
        """Return the bytes that rounded keys and values spare in one forward, for each token (B, Q) over all layers.

        The unit is a key and its value in full precision. None if nothing is rounded.
        """
        return None


@dataclass(frozen=True)
class Governed:
    """Lets a policy attend in place of the model, and counts what it spares and adds."""

    policy: CachePolicy

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Replace the attention of all layers in one forward pass; record `QUERIES` (B, W, layers, H, D) if heeded."""
        assert parts.view is not None
        attention, count = self.policy.attention(parts.view), cache(_count)  # many layers have the same mask
        captured, layers, queries = dict[str, Tensor](), range(len(parts.layers)), dict[int, Tensor]()
        with (attending(parts, {layer: partial(_heard, queries, layer) for layer in layers if self.policy.heeds}),
              attending(parts, {layer: partial(_counted, captured, count, partial(attention, layer))
                                for layer in layers if attention})):
            yield captured
        if (shorter := self.policy.shorter(parts.view)) is not None:
            captured[SPARED + KV] = shorter
        if queries and len(queries) == len(layers):
            captured[QUERIES] = torch.stack([queries[layer] for layer in layers], 2)


def _counted(captured: dict[str, Tensor], count: Callable[[Tensor], Tensor], attention: LayerAttention, own: Attend,
             module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *args: Any, **kwargs: Any
             ) -> tuple[Tensor, Tensor | None]:
    """Add the keys that the policy does not let the layer attend to, and what it compares queries with."""
    def counting(module: Any, query: Tensor, key: Tensor, value: Tensor, seen: Tensor, *args: Any,
                 compared: Compared | None = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        captured[KEYS] = captured.get(KEYS, 0) + count(mask) - count(seen)
        if compared:  # each takes half of the products and bytes of a key and its value
            for name, each in ((ADDED + "keys", 0.5), (ADDED + KV, 0.5 * compared.heads / key.shape[1])):
                captured[name] = captured.get(name, 0) + each * compared.vectors
        return own(module, query, key, value, seen, *args, **kwargs)
    return attention(counting, module, query, key, value, mask, *args, **kwargs)


def _count(mask: Tensor) -> Tensor:
    """Return how many keys each token (B, Q) attends to by an additive mask (B, 1 or H, Q, S), a mean over heads."""
    return (mask == 0).sum(-1).float().mean(1)


def _heard(queries: dict[int, Tensor], layer: int, attend: Attend, module: Any, query: Tensor, *args: Any,
           scaling: float, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Record the queries, scaled so that a product with a key is a score."""
    queries[layer] = query.transpose(1, 2) * scaling
    return attend(module, query, *args, scaling=scaling, **kwargs)
