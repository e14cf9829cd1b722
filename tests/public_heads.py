"""Heads in the layouts of others, with random weights, and what the heads that are loaded from them draft."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.engine.session import Session
from harness.heads.expander import HeadExpander
from harness.models.loading import Model, fingerprint
from harness.models.trained_head import Head
from tests.decode import engine
from tests.models import HIDDEN, prompts, tiny_model

D, V, TEXT = HIDDEN, 97, [*prompts(1)[0][:6], 7, 11, 13, 17]
Tensors = dict[str, Tensor]
SMALL = {"hidden_size": D, "vocab_size": V, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 12,
         "intermediate_size": 40, "rms_norm_eps": 1e-3, "rope_theta": 300.0}  # unlike those of the model


def loaded(layers: int = 2) -> Model:
    own = engine(tiny_model("llama", layers=layers))
    return Model("tiny", own, None, frozenset(), fingerprint(own.model))


def written(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: str = "model.safetensors"
            ) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".safetensors"):
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / file)
    else:
        torch.save(dict(tensors), folder / file)
    return str(folder)


def noise(shapes: Mapping[str, tuple[int, ...]], seed: int = 1) -> Tensors:
    """Random tensors: matrices keep the size of vectors, and norms are around one."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
            + (len(shape) == 1 and name.endswith("norm.weight")) for name, shape in shapes.items()}


class Drafts:
    """The logits of a loaded head along a path below a text, and what it read."""

    @torch.inference_mode()
    def __init__(self, head: Head, model: Model, path: list[int]) -> None:
        model.engine.heads[head.card.kind] = head
        session = Session(model.engine, remember=model.engine.remembered([head.card.kind]))
        session.follow(TEXT[:-1])
        session.read()
        self.states = session.states(head.network.reads)[None].clone()
        expander = HeadExpander(session, head.network)
        logits, state = expander.start(TEXT)
        self.logits, seen = [logits[0]], torch.ones(1, 0, dtype=torch.bool)
        for depth, token in enumerate(path, 1):
            seen = torch.cat([seen, torch.ones(1, 1, dtype=torch.bool)], 1)
            logits, state = expander.grow(state, [token], depth, seen)
            self.logits.append(logits[0])
        session.close()


def compare(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def embedded(model: Model, tokens: list[int]) -> Tensor:
    return model.engine.parts.embedding.weight[tokens][None]


def medusa(layers: int, own: bool, block: str, output: str, bias: bool = True) -> Tensors:
    shapes = dict[str, tuple[int, ...]]()
    for head in range(3):
        for layer in range(layers):
            shapes[block.format(head, layer) + ".weight"] = D, D
            shapes |= {block.format(head, layer) + ".bias": (D,)} if bias else {}
        shapes |= {output.format(head): (V, D)} if own else {}
    return noise(shapes)


MEDUSA = {
    "own": (medusa(2, True, "{}.{}.linear", "{}.2.weight"), "{}.{}.linear", "{}.2.weight",
            {"medusa_num_heads": 2, "medusa_num_layers": 2}, "medusa_lm_head.pt"),
    "shared": (medusa(1, False, "{}.{}.linear", ""), "{}.{}.linear", "", {"version": "2"},
               "medusa_lm_head.safetensors"),
    "whole": (medusa(1, True, "medusa_head.{}.{}.linear", "medusa_head.{}.1.weight") | noise(
        {"model.embed_tokens.weight": (V, D), "model.layers.0.mlp.up_proj.weight": (128, D), "lm_head.weight": (V, D)}),
              "medusa_head.{}.{}.linear", "medusa_head.{}.1.weight", SMALL, "model.safetensors"),
    "vllm": (medusa(1, True, "blocks.{}.layers.{}", "lm_heads.{}.weight", bias=False), "blocks.{}.layers.{}",
             "lm_heads.{}.weight", {"model_type": "medusa", "hidden_size": D, "vocab_size": V, "num_heads": 3,
                                    "truncated_vocab_size": V}, "model.safetensors"),
    "vllm prefix": (medusa(1, True, "medusa_heads.blocks.{}.layers.{}", "medusa_heads.lm_heads.{}.weight"),
                    "medusa_heads.blocks.{}.layers.{}", "medusa_heads.lm_heads.{}.weight",
                    {"model_type": "medusa", "medusa_fc_bias": True}, "pytorch_model.bin"),
}


def attention(theirs: str, heads: int = 8, shared: int = 2, size: int = 12, inputs: int = D, mlp: int = 40
              ) -> dict[str, tuple[int, ...]]:
    """Shapes of a decoder layer without its first norm."""
    return {f"{theirs}self_attn.q_proj.weight": (heads * size, inputs),
            f"{theirs}self_attn.k_proj.weight": (shared * size, inputs),
            f"{theirs}self_attn.v_proj.weight": (shared * size, inputs),
            f"{theirs}self_attn.o_proj.weight": (D, heads * size),
            f"{theirs}mlp.gate_proj.weight": (mlp, D), f"{theirs}mlp.up_proj.weight": (mlp, D),
            f"{theirs}mlp.down_proj.weight": (D, mlp), f"{theirs}post_attention_layernorm.weight": (D,)}


def below(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def run(layer: nn.Module, rotary: nn.Module, x: Tensor) -> Tensor:
    """Causal attention over all rows (1, T, …)."""
    length = x.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    return layer(x, attention_mask=mask, position_embeddings=rotary(x, torch.arange(length)[None]))


EAGLE3: dict[str, tuple[str, str, list[str], dict[str, Any]]] = {
    "authors": ("", "midlayer.", [], {"draft_vocab_size": V}),
    "few tokens": ("", "midlayer.", ["d2t"], {"draft_vocab_size": 20}),
    "3.1": ("", "midlayer.", ["fc_norm", "q_norm"], {"fc_norm": True, "norm_output": True}),
    "speculators": ("", "layers.0.", ["input_norm", "d2t"], {
        "norm_before_residual": True, "eagle_aux_hidden_state_layer_ids": [0, 2, 1], "draft_vocab_size": 20}),
    "without an output layer": ("model.", "model.layers.0.", ["no head"], {}),
}


def eagle3(case: str) -> tuple[Tensors, dict[str, Any]]:
    top, layer, parts, more = EAGLE3[case]
    taps = len(more.get("eagle_aux_hidden_state_layer_ids", [0, 0]))
    rows = more.get("draft_vocab_size", V)
    shapes = attention(layer, inputs=2 * D) | {
        f"{top}fc.weight": (D, taps * D), f"{layer}hidden_norm.weight": (D,), f"{layer}input_layernorm.weight": (D,),
        f"{top}norm.weight": (D,)}
    shapes |= {} if "no head" in parts else {"lm_head.weight": (rows, D)}
    shapes |= {f"fc_norm.{tap}.weight": (D,) for tap in range(taps if "fc_norm" in parts else 0)}
    shapes |= {"input_norm.weight": (taps * D,)} if "input_norm" in parts else {}
    shapes |= {f"{layer}self_attn.{name}_norm.weight": (12,) for name in "qk" if "q_norm" in parts}
    tensors = noise(shapes)
    if "d2t" in parts:
        places = torch.arange(rows) * 4 + 3
        tensors |= {"d2t": places - torch.arange(rows), "t2d": torch.isin(torch.arange(V), places)}
    inner = {"model_type": "qwen3" if "q_norm" in parts else "llama", **SMALL}
    return tensors, {"transformer_layer_config": inner, **more} if case == "speculators" else inner | more


ZLAB = {"encoder.fc.": "fc.", "encoder.output_norm_enc.": "hidden_norm."}


def dflash(kinds: Sequence[str] = ("full_attention",) * 2) -> tuple[Any, dict[str, Any]]:
    """The drafter of transformers with random weights, which older versions do not have, and its sizes."""
    library = pytest.importorskip("transformers.models.muse_glimmer_assistant")
    sizes = SMALL | {"num_hidden_layers": 2, "block_size": 4, "mask_token_id": 9, "target_layer_ids": [1, 0],
                     "layer_types": list(kinds), "sliding_window": 3}
    config = library.MuseGlimmerAssistantConfig(
        **sizes | {"rope_parameters": {"rope_theta": 300.0, "rope_type": "default"}}, attn_implementation="eager")
    theirs = library.MuseGlimmerAssistantModel(config).eval()
    theirs.load_state_dict(noise({name: tuple(weight.shape) for name, weight in theirs.state_dict().items()}))
    return theirs, sizes


def dflash_rows(theirs: Any, model: Model, states: Tensor, mask: Any = None) -> Tensor:
    """The normed outputs of the rows of the block."""
    words = embedded(model, [TEXT[-1], 9, 9, 9])
    return theirs(noise_embeds=words, context_hidden_states=states, attention_mask=mask, use_cache=False
                  ).last_hidden_state[0]


def renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    for theirs, ours in names.items():
        tensors = {name.replace(theirs, ours): tensor for name, tensor in tensors.items()}
    return tensors
