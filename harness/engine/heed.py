"""Attention weights of tokens that were read, and the keys that received most of them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.engine.cached_sequence import CachedSequence


def weights(sequence: CachedSequence, queries: Tensor, hidden: Tensor | None = None) -> Iterator[Tensor]:
    """Yield the attention weights (G, H/G, N, S) in float32 of each layer, given queries (N, layers, H, D).

    They belong to the last N committed tokens, each of which attends to all S slots up to its own but the `hidden` ones
    (layers, G, S') among the first S'. KV head g serves the H/G query heads of its group.
    """
    count, slots = len(queries), sequence.start
    later = torch.ones(count, slots, dtype=torch.bool, device=queries.device).triu(slots - count + 1)
    for layer, keys in enumerate(sequence.engine.cache.keys(sequence.row.index, slots)):
        shape = count, len(keys), queries.shape[2] // len(keys), keys.shape[-1]
        asked = queries[:, layer].float().view(shape).permute(1, 2, 0, 3)
        scores = asked @ keys.float()[:, None].transpose(-1, -2)
        unseen = later if hidden is None else later | pad(hidden[layer], (0, slots - hidden.shape[-1]))[:, None, None]
        yield scores.masked_fill(unseen, -torch.inf).softmax(-1)


def highest(scores: Tensor, count: int, last: int = 0) -> Tensor:
    """Return, in order, the slots of the `count` highest of scores (…, S), and the `last` slots whatever theirs are.

    Of equal scores the first wins.
    """
    before = scores.shape[-1] - last
    best = scores[..., :before].sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(-1).values
    ends = torch.arange(before, before + last, device=scores.device).expand(*scores.shape[:-1], last)
    return torch.cat([best, ends], -1)
