"""Untrained heads for nano in the layouts that vLLM reads: Medusa's, EAGLE's, EAGLE-3's. Their drafts are noise."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness import nano

NANO = nano.weights("nano")
CONFIG: dict[str, Any] = json.loads((NANO / "config.json").read_text())
HIDDEN, INNER, ATTENDING = (CONFIG["hidden_size"], CONFIG["intermediate_size"],
                            CONFIG["num_attention_heads"] * CONFIG["head_dim"])
DRAFTS = 3


def make(method: str, folder: Path) -> Path:
    """Write the heads of `method` into `folder`."""
    torch.manual_seed(0)
    weights, config = {"medusa": _medusa, "eagle": _eagle, "eagle3": _eagle3}[method]()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def _noise(*shape: int) -> Tensor:
    return 0.02 * torch.randn(*shape)


def _words() -> Tensor:
    words: Tensor = load_file(NANO / "model.safetensors")["model.embed_tokens.weight"]
    return words.float().clone()


def _layer(name: str, width: int) -> dict[str, Tensor]:
    """A layer of Llama that reads `width` numbers a token, without the norm of its input."""
    shapes = {"self_attn.q_proj": (ATTENDING, width), "self_attn.k_proj": (ATTENDING, width),
              "self_attn.v_proj": (ATTENDING, width), "self_attn.o_proj": (HIDDEN, ATTENDING),
              "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    return {f"{name}.{part}.weight": _noise(*shape) for part, shape in shapes.items()} | {
        f"{name}.post_attention_layernorm.weight": torch.ones(HIDDEN)}


def _medusa() -> tuple[dict[str, Tensor], dict[str, Any]]:
    heads = {f"blocks.{head}.layers.0.weight": _noise(HIDDEN, HIDDEN) for head in range(DRAFTS)}
    return {**heads, **{f"lm_heads.{head}.weight": _words() for head in range(DRAFTS)}}, {
        "model_type": "medusa", "architectures": ["MedusaModel"], "num_heads": DRAFTS, "num_hidden_layers": 1,
        "hidden_size": HIDDEN, "vocab_size": CONFIG["vocab_size"]}


def _eagle() -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {**_layer("layers.0", HIDDEN), "fc.weight": _noise(HIDDEN, 2 * HIDDEN), "embed_tokens.weight": _words()}, {
        **CONFIG, "num_hidden_layers": 1, "architectures": ["LlamaForCausalLM"]}


def _eagle3() -> tuple[dict[str, Tensor], dict[str, Any]]:
    norms = {f"midlayer.{norm}.weight": torch.ones(HIDDEN) for norm in ("hidden_norm", "input_layernorm")}
    return {**_layer("midlayer", 2 * HIDDEN), **norms, "norm.weight": torch.ones(HIDDEN), "lm_head.weight": _words(),
            "fc.weight": _noise(HIDDEN, 3 * HIDDEN)}, {
        **CONFIG, "num_hidden_layers": 1, "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": CONFIG["vocab_size"], "eagle_aux_hidden_state_layer_ids": [1, 4, 7]}
