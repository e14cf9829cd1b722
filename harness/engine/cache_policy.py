"""The contract of cache policies: what a sequence keeps of its KV cache, and what its tokens attend to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from harness.engine.attention_hooks import attending
from harness.engine.hooks import ModelParts, View

if TYPE_CHECKING:
    from harness.engine.cached_sequence import CachedSequence

LayerAttention = Callable[..., tuple[Tensor, Tensor | None]]
"""`(layer, attend, module, query (B, H, Q, D), key (B, G, S, D), value, mask, …) → (output (B, Q, H, D), weights)`."""


class CachePolicy:
    """A policy of one or more sequences; those with equal policies may share a forward.

    With `whole`, a prompt is read as without a policy, and the policy begins after it. If it `rotates` keys or queries,
    the model needs rotary position embeddings. By default, nothing changes.
    """

    whole: bool = True
    rotates: ClassVar[bool] = False

    def settle(self, sequence: "CachedSequence") -> None:
        """Drop or change what the row holds, before a forward; all that it holds is committed."""

    def attention(self, view: View) -> LayerAttention | None:
        """Return the attention of all layers in one forward over the rows of `view`; None changes nothing."""
        return None


@dataclass(frozen=True)
class Governed:
    """Lets a policy attend in place of the model."""

    policy: CachePolicy

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Replace the attention of all layers in one forward pass."""
        assert parts.view is not None
        attention = self.policy.attention(parts.view)
        layers = range(len(parts.layers)) if attention else ()
        with attending(parts, {layer: partial(attention, layer) for layer in layers if attention}):
            yield
