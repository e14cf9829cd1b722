"""Attention to a window of tokens and to units of earlier ones, as `infllm` describes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.engine.attention_hooks import Attend
from harness.engine.cache_policy import CachePolicy, Compared, LayerAttention
from harness.engine.cached_sequence import CachedSequence
from harness.engine.hooks import View
from harness.engine.rotary import Rotary
from harness.engine.windows import narrowed


class Units(NamedTuple):
    """The means (layers, H, U, D) of U units, and the attention (layers, H, N) that each later token received."""

    means: Tensor
    mass: Tensor


class Sight(NamedTuple):
    """The additive mask (B, 1, Q, S) of the window, and which of the first F slots (B, Q, F) are seen from behind it.

    `places` (B, F) are the positions of these slots.
    """

    near: Tensor
    far: Tensor
    places: Tensor


@dataclass(frozen=True)
class Lookup(CachePolicy):
    """Attends to a window, and to the sinks and units behind it."""

    sinks: int
    window: int
    unit: int
    reps: int
    top: int

    whole: bool = False
    rotates: ClassVar[bool] = True
    heeds: ClassVar[bool] = True

    def learn(self, sequence: CachedSequence) -> None:
        """Add the attention that new tokens gave within their windows, and form the units that have left it."""
        queries, size, rotary = sequence.queries, sequence.start, sequence.engine.rotary
        if not len(queries):
            return
        empty = queries.new_zeros(*queries.shape[1:3], 0)
        known: Units = sequence.row.state or Units(empty[..., None].expand(*empty.shape, queries.shape[-1]),
                                                   empty.float())
        keys, first = sequence.engine.cache.keys(sequence.row.index, size), self.first(known)
        places, lowest = torch.arange(size, device=queries.device), torch.finfo(queries.dtype).min
        mask = queries.new_zeros(1, 1, len(queries), size).masked_fill(places > places[-len(queries):, None], lowest)
        sight, given = self.sight(mask), list[Tensor]()
        for layer, key in enumerate(keys):
            query, joined, mask = self.joined(layer, rotary, queries[:, layer].transpose(0, 1)[None], key[None], sight,
                                              places[None, -len(queries):], [known])
            weights = query.float() @ _by_head(joined, query).float().transpose(2, 3) + mask.float()
            given.append(weights.softmax(-1)[0, :, :, -size:].sum(1))
        new = torch.stack(given)[:, :, first:]
        known = Units(known.means, new + pad(known.mass, (0, new.shape[-1] - known.mass.shape[-1])))
        if (count := (size - first - self.window) // self.unit) > 0:
            known = self.formed(known, [rotary.turned(i, key[None, :, first:first + count * self.unit],
                                                      -places[None, first:first + count * self.unit])
                                        for i, key in enumerate(keys)])
        sequence.row.state, sequence.settled = known, sequence.cached

    def first(self, known: Units) -> int:
        """Return the first slot, behind the sinks, that is in no unit."""
        return self.sinks + self.unit * known.means.shape[2]

    def formed(self, known: Units, keys: Sequence[Tensor]) -> Units:
        """Return units with those of the next N tokens, given their keys (1, G, N, D) before the rotation, by layer."""
        count, shape = keys[0].shape[2], (*known.mass.shape[:2], -1, self.unit)
        plain = torch.cat([key.repeat_interleave(shape[1] // key.shape[1], 1) for key in keys])
        plain = plain.reshape(*shape, plain.shape[-1])
        best = known.mass[:, :, :count].reshape(shape).topk(min(self.reps, self.unit)).indices
        means = plain.gather(3, best[..., None].expand(*best.shape, plain.shape[-1])).mean(3)
        return Units(torch.cat([known.means, means], 2), known.mass[:, :, count:])

    def attention(self, view: View) -> LayerAttention | None:
        """Attend to the window and to what is seen behind it."""
        if view.longest <= self.window:
            return None
        units = [row.state if isinstance(row.state, Units) else None for row in view.rows]
        sight: Callable[[Tensor], Sight] = cache(self.sight)  # all layers get the same mask
        looked = torch.tensor([self.looked_up(known) for known in units],
                              device=view.positions.device)[:, None].expand_as(view.positions)

        def attend(layer: int, own: Attend, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                   *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            seen = sight(mask)
            query, key, mask = self.joined(layer, view.rotary(), query, key, seen, view.positions, units)
            value = torch.cat([value[:, :, :seen.far.shape[2]], value], 2)
            return own(module, query, key, value, mask, *args, compared=Compared(looked, query.shape[1]), **kwargs)

        return attend

    def looked_up(self, known: Units | None) -> int:
        """Return the units among which each token looks for the best: none if it sees all of them or none."""
        count = 0 if known is None else known.means.shape[2]
        return count if count > self.top > 0 else 0

    def sight(self, mask: Tensor) -> Sight:
        """Return what is seen in the window and behind it."""
        near, count = narrowed(mask, self.window), max(0, mask.shape[-1] - self.window)
        attended = mask[:, 0, :, :count] == 0
        places = (attended.cumsum(-1) - 1) * attended  # the same for all tokens that attend to a slot
        return Sight(near, attended & (near[:, 0, :, :count] != 0), places.amax(1))

    def joined(self, layer: int, rotary: Rotary, query: Tensor, key: Tensor, sight: Sight, positions: Tensor,
               units: Sequence[Units | None]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, Q, 2D), keys (B, G, F + S, 2D), those from behind the window first, and their mask."""
        count, lowest = sight.far.shape[2], torch.finfo(sight.near.dtype).min
        away = rotary.turned(layer, query, self.window - positions)
        plain = rotary.turned(layer, key[:, :, :count], -sight.places)
        found = [self.chosen(layer, each, known, count) for each, known in zip(away, units, strict=True)]
        far = torch.zeros_like(sight.far, dtype=sight.near.dtype).masked_fill(~(sight.far & torch.stack(found)), lowest)
        mask = torch.cat([far[:, None], sight.near], -1)
        key = torch.cat([pad(plain, (key.shape[-1], 0)), pad(key, (0, key.shape[-1]))], 2)
        return torch.cat([query, away], -1), key, mask

    def chosen(self, layer: int, query: Tensor, known: Units | None, count: int) -> Tensor:
        """Return which of the first `count` slots (Q, F) are in no unit, or in one that queries (H, Q, D) look up."""
        every = torch.ones(query.shape[1], count, dtype=torch.bool, device=query.device)
        if known is None or known.means.shape[2] <= self.top:
            return every
        scores = torch.einsum("hqd,hud->qu", query.float(), known.means[layer].float())
        wanted = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(self.top).indices, True)
        of_slots = wanted.repeat_interleave(self.unit, 1)[:, :max(0, count - self.sinks)]
        every[:, self.sinks:self.sinks + of_slots.shape[1]] = of_slots
        return every


def _by_head(keys: Tensor, query: Tensor) -> Tensor:
    return keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
