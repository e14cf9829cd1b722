"""Rotates queries and keys to other positions, for models with rotary position embeddings."""

import sys
from inspect import signature

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.engine.hooks import ModelParts
from harness.errors import Unsupported

CHANGING = ("dynamic", "longrope")  # their frequencies depend on the length of the sequence
PROBE = (3, 7)  # tokens of the test, and positions by which they are moved


class Rotary:
    """The rotation of a model's queries and keys (Su et al. 2021, arXiv 2104.09864), in which only differences count.

    Raises `Unsupported` for a model with other position embeddings, or in which a rotated key is not that of the same
    token at another position.
    """

    def __init__(self, parts: ModelParts, cache_argument: str) -> None:
        self.parts, decoder = parts, parts.model.get_decoder()
        self._module = getattr(decoder, "rotary_emb", None)
        self._rotate = getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)
        rules = getattr(parts.model.config.get_text_config(), "rope_parameters", None) or {}
        kinds = {rule.get("rope_type") for rule in [rules, *rules.values()] if isinstance(rule, dict)}
        if not self._module or not self._rotate or kinds & set(CHANGING) or not self._holds(cache_argument):
            raise Unsupported("needs a model with rotary position embeddings whose keys can be rotated")

    def turned(self, layer: int, states: Tensor, by: Tensor) -> Tensor:
        """Return queries or keys (B, H, N, D) of a layer at positions that are higher by `by` (B, N), of integers."""
        kind = (getattr(self.parts.model.config.get_text_config(), "layer_types", None) or [None])[layer:layer + 1]
        given = kind if "layer_type" in signature(self._module.forward).parameters else []  # type: ignore[union-attr]
        cos, sin = self._module(states, torch.cat([by, torch.zeros_like(by[:, :1])], 1), *given)  # type: ignore[misc]
        scale, count = cos[:, -1:, :1], cos.shape[-1]  # some rules scale both
        part = states[..., :count]
        found: Tensor = self._rotate(part, part, (cos / scale)[:, :-1], (sin / scale)[:, :-1])[1]  # type: ignore[misc]
        return torch.cat([found, states[..., count:]], -1)

    @torch.inference_mode()
    def _holds(self, cache_argument: str) -> bool:
        """Return whether rotated keys of a few tokens are those that the model computes at other positions."""
        model, (count, by) = self.parts.model, PROBE
        keys = list[Tensor]()
        for start in (0, by):
            tokens, cache = torch.arange(count, device=model.device)[None], DynamicCache()
            model(input_ids=tokens, position_ids=tokens + start, use_cache=True, **{cache_argument: cache})
            keys.append(cache.layers[0].keys)
        moved = self.turned(0, keys[0], torch.full((1, count), by, device=model.device))
        return torch.allclose(moved.float(), keys[1].float(), atol=0.02 * keys[1].float().abs().max().item())
