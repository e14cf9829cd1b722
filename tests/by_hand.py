"""A model whose attention is computed by a test, token by token, from queries and keys without rotation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

from harness.engine.engine import Engine

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`(layer, query (H, 1, D), keys (H, S, D), values (H, S, D)) → (H, 1, D)`, for the last of S tokens."""


def rotated(states: Tensor, places: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate (…, N, D) by `places` (N,): numbers i and i + D/2 turn together, by a rate of base^(−2i/D)."""
    half = states.shape[-1] // 2
    angles = places[:, None].double() * base ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = states[..., :half], states[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def weighted(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The mean (H, 1, D) of values by the softmax of scores."""
    scores = query @ keys.transpose(1, 2) / query.shape[-1] ** 0.5
    return scores.softmax(-1) @ values


def causal(layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The usual attention to all tokens at their positions."""
    places = torch.arange(keys.shape[1])
    return weighted(rotated(query, places[-1:]), rotated(keys, places), values)


def by_hand(text: Sequence[int], attention: Attention, on: Engine) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The logits after each token of `text`, and its keys without rotation and values (H, S, D), by layer."""
    def repeated(states: Tensor, query: Tensor) -> Tensor:
        return states[0].repeat_interleave(query.shape[1] // states.shape[1], 0)

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
               ) -> tuple[Tensor, None]:
        found = attention(module.layer_idx, query[0], repeated(key, query), repeated(value, query))
        return found.transpose(0, 1)[None], None

    AttentionInterface.register("by_hand", attend)
    model, before, memory, found = on.model, on.model.config._attn_implementation, DynamicCache(), list[Tensor]()
    model.config._attn_implementation = "by_hand"
    try:
        for token in text:
            with torch.inference_mode():
                found.append(model(input_ids=torch.tensor([[token]]), position_ids=torch.zeros(1, 1, dtype=torch.long),
                                   **{on.cache_argument: memory}).logits[0, -1])
    finally:
        model.config._attn_implementation = before
    heads = int(model.config.num_attention_heads)
    return torch.stack(found), [(layer.keys[0].repeat_interleave(heads // layer.keys.shape[1], 0),
                                 layer.values[0].repeat_interleave(heads // layer.values.shape[1], 0))
                                for layer in memory.layers]
