"""The sizes of a model's parts, from which figures of computation are made."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from harness.engine.hooks import decoder_layers
from harness.errors import Unsupported
from harness.models.encoder_decoder import has_encoder
from harness.store.computed import Sizes

OTHER = ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank")
"""Numbers in configurations of models whose tokens do not use all weights of a layer, or have other keys."""


def sizes_of(model: Any) -> Sizes | None:
    """Return the sizes of a model; None if its layers differ, are unknown, or are not all used by every token.

    None also for a model with an encoder, whose decoder attends to two sequences.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if has_encoder(model.config):
        return None
    try:
        layers = decoder_layers(model)
    except Unsupported:
        return None
    parts = {(_weights([layer.attention]), _weights(layer.mlp)) for layer in layers}
    heads = getattr(config, "num_attention_heads", None)
    if len(parts) > 1 or head is None or not heads or any(getattr(config, name, None) for name in OTHER):
        return None
    (attention, mlp), = parts
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    key = width * int(getattr(config, "num_key_value_heads", None) or heads)
    return Sizes(layers=len(layers), attention=attention, mlp=mlp, fill=2 * config.hidden_size * key,
                 head=_weights([head]), query=width * heads, key=key, number_bytes=model.dtype.itemsize)


def _weights(modules: Iterable[nn.Module]) -> int:
    """Return the number of weights that each token is multiplied with: all but biases and those of norms."""
    return sum(weight.numel() for module in modules for weight in module.parameters() if weight.dim() > 1)
