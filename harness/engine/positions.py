"""Positions in decoders that count them by the length of their KV cache: for one forward, they get the true ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.cache import SlotCache, SlotLayer
from harness.engine.hooks import replaced
from harness.errors import Unsupported


class PlacedCache(SlotCache):
    """A slot cache that also holds the position of the token in each slot, which relative positions need."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self._place = SlotLayer(self)
        super().__init__(layers, device)

    def placed(self, positions: Tensor) -> Tensor:
        """Write the positions (B, Q) of new tokens to their slots, and return those (B, S) of all slots in view."""
        states = positions[:, None, :, None]
        return self._place.update(states, states)[0][:, 0, :, 0]

    def _moved(self) -> list[SlotLayer]:
        return [*super()._moved(), *([self._place] if self._place.is_initialized else [])]

    def _set_views(self) -> None:
        super()._set_views()
        self._place.set_views()


class Positions:
    """How the positions of new tokens enter a decoder: by a table of embeddings, or as a bias of attention.

    Tables are those of BART, mBART, Marian, Pegasus, Blenderbot and M2M100, biases those of T5, mT5 and UMT5. Raises
    `Unsupported` for a decoder with neither.
    """

    def __init__(self, decoder: Any) -> None:
        self.table: Any = getattr(decoder, "embed_positions", None)
        self.biased = [module for module in decoder.modules() if getattr(module, "has_relative_attention_bias", False)]
        if not self.biased and not isinstance(_weights(self.table), Tensor):
            raise Unsupported("cannot tell how positions enter its decoder")

    def cache(self, layers: int, device: torch.device) -> SlotCache:
        """Return an empty KV cache for the decoder."""
        return PlacedCache(layers, device) if self.biased else SlotCache(layers, device)

    @contextmanager
    def given(self, positions: Tensor, cache: SlotCache) -> Iterator[None]:
        """Let the tokens of one forward have these positions (B, Q)."""
        with ExitStack() as stack:
            if isinstance(cache, PlacedCache):
                bias = partial(_bias, positions, cache.placed(positions))
                stack.enter_context(replaced({module: partial(bias, module, module.compute_bias)
                                              for module in self.biased}, "compute_bias"))
            else:
                stack.enter_context(replaced({self.table: _looked_up(self.table, positions)}))
            yield


def _weights(table: Any) -> Any:
    """Return the embeddings (N, D) of a table of positions; None if it has none."""
    return getattr(table, "weight", getattr(table, "weights", None))


def _looked_up(table: Any, positions: Tensor) -> Callable[..., Tensor]:
    def forward(*args: object, **kwargs: object) -> Tensor:
        return nn.functional.embedding(positions + first, _weights(table))
    # M2M100 counts from behind the padding token, the others from an offset or from 0
    first = table.padding_idx + 1 if hasattr(table, "weights") else getattr(table, "offset", 0)
    return forward


def _bias(positions: Tensor, held: Tensor, module: Any, whole: Callable[..., Tensor], *args: object, **kwargs: object
          ) -> Tensor:
    """Return the bias (B, H, Q, S) of queries at `positions` (B, Q) to keys at the positions `held` (B, S).

    It depends on the distance alone, and is the same from the module's greatest distance on.
    """
    far = int(module.relative_attention_max_distance)
    by_distance = whole(1, far + 1, past_seen_tokens=far)[0, :, 0]  # (H, far + 1)
    distance = (positions[:, :, None] - held[:, None]).clamp(0, far)
    return by_distance[:, far - distance].transpose(0, 1)
