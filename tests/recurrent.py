"""Tiny random models that carry a state, of all classes that can be used."""

from functools import cache
from typing import Any

import torch
import transformers

from harness.engine.state import StateEngine
from harness.models.encoder_decoder import make_engine

LONGEST = 256
SIZE: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "pad_token_id": 0,
                        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
ATTENTION: dict[str, Any] = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
                             "max_position_embeddings": LONGEST}
MAMBA: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2,
                         "mamba_chunk_size": 8}
TYPES = ["linear_attention", "full_attention", "linear_attention"]
DELTA: dict[str, Any] = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                         "linear_value_head_dim": 8, "layer_types": TYPES}
OPTIONS: dict[str, dict[str, Any]] = {
    "Mamba": {"state_size": 8},
    "FalconMamba": {"state_size": 8},
    "Mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "Rwkv": {"context_length": LONGEST, "attention_hidden_size": 32, "intermediate_size": 48, "rescale_every": 2},
    "GraniteMoeHybrid": ATTENTION | MAMBA | {
        "layer_types": TYPES, "num_local_experts": 0, "shared_intermediate_size": 48, "position_embedding_type": "rope",
        "attention_multiplier": 0.35},
    "Bamba": ATTENTION | MAMBA | {"attn_layer_indices": [1], "attn_rotary_emb": 4},
    "FalconH1": ATTENTION | MAMBA | {"mamba_d_ssm": 64, "head_dim": 8},
    "Zamba2": {"num_attention_heads": 4, "num_key_value_heads": 4, "n_mamba_heads": 4, "mamba_d_state": 8,
               "mamba_headdim": 16, "mamba_ngroups": 1, "chunk_size": 8, "intermediate_size": 48, "num_mem_blocks": 1,
               "layers_block_type": ["mamba", "hybrid", "mamba"], "use_mem_rope": True,
               "max_position_embeddings": LONGEST},
    "NemotronH": ATTENTION | {"layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "head_dim": 8,
                              "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8},
    "Jamba": ATTENTION | {"attn_layer_period": 3, "attn_layer_offset": 1, "num_experts": 2, "expert_layer_period": 3,
                          "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "Qwen3Next": ATTENTION | DELTA | {"head_dim": 8, "num_experts": 0, "mlp_only_layers": [0, 1, 2]},
    "OlmoHybrid": ATTENTION | DELTA,
    "Lfm2": ATTENTION | {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8},
}
ONE_BY_ONE = ("Mamba", "FalconMamba", "Jamba")  # their mixers forget the state before several tokens


def config(name: str, **options: Any) -> Any:
    """Return the configuration of a tiny model."""
    return getattr(transformers, f"{name}Config")(**SIZE | OPTIONS[name] | options)


def tiny(name: str, seed: int = 0, sharpness: float = 2.5, **options: Any) -> Any:
    """Return a model whose logits have a standard deviation of about `sharpness`."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config(name, **options)).eval()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in key and weight is not head and "A_log" not in key:
                weight *= 4.0  # else the blocks hardly change the states
        logits = model(torch.arange(3, model.config.vocab_size)[None], use_cache=False).logits
        head *= sharpness / float(logits.std())
    return model


@cache
def engine(name: str, seed: int = 0) -> StateEngine:
    """Return an engine over a tiny model."""
    made = make_engine(tiny(name, seed), LONGEST)
    assert isinstance(made, StateEngine)
    return made
