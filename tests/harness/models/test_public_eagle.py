"""Published heads of EAGLE and its kin draft what layers of transformers with their tensors give."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from harness.models import trained_head
from harness.models.loading import Model
from tests.public_heads import (
    EAGLE3,
    SMALL,
    TEXT,
    D,
    Drafts,
    Tensors,
    V,
    attention,
    below,
    compare,
    eagle3,
    embedded,
    loaded,
    noise,
    run,
    written,
)


def llama(config: Mapping[str, Any], tensors: Tensors, prefix: str, **more: Any
          ) -> tuple[LlamaDecoderLayer, LlamaRotaryEmbedding]:
    """A layer of transformers with the tensors of a head, without its input norm."""
    sizes = LlamaConfig(**config, attn_implementation="eager", **more)
    layer = LlamaDecoderLayer(sizes, 0)
    layer.input_layernorm = nn.Identity()
    layer.load_state_dict(below(tensors, prefix))
    return layer.eval(), LlamaRotaryEmbedding(sizes)


EAGLE = {
    "authors": ("", "layers.0.", "fc", True, {}, "pytorch_model.bin"),
    "without bias": ("", "layers.0.", "fc", False, {"bias": False}, "model.safetensors"),
    "vllm": ("model.", "model.layers.0.", "model.fc", False, {}, "model.safetensors"),
    "speculators": ("", "transformer.", "fusion_fc", True, {}, "model.safetensors"),
}


def eagle(case: str, model: Model, biases: bool = False) -> tuple[Tensors, dict[str, Any], str]:
    top, layer, joins, bias, more, file = EAGLE[case]
    shapes = attention(layer) | {f"{joins}.weight": (D, 2 * D)} | ({f"{joins}.bias": (D,)} if bias else {})
    if biases:
        shapes |= {f"{layer}self_attn.{name}_proj.bias": (size,) for name, size in (("q", 96), ("k", 24), ("v", 24))}
    tensors = noise(shapes) | {f"{top}embed_tokens.weight": model.engine.parts.embedding.weight.half()}
    inner = {"transformer_layer_config": {"model_type": "llama", **SMALL}, "speculators_model_type": "eagle"}
    return tensors, (inner if case == "speculators" else {"model_type": "llama", **SMALL}) | more, file


def eagle_logits(tensors: Tensors, model: Model, drafts: Drafts, case: str, path: list[int], head: Tensor,
                 config: Mapping[str, Any] = SMALL, **more: Any) -> list[Tensor]:
    """Each step reads all that came before anew, without a cache."""
    prefix, joins = EAGLE[case][1], EAGLE[case][2]
    layer, rotary = llama(config, tensors, prefix, **more)
    states, tokens, found = drafts.states, TEXT[1:], list[Tensor]()
    for token in [*path, 0]:
        both = torch.cat([embedded(model, tokens), states], -1)
        out = run(layer, rotary, functional.linear(both, tensors[f"{joins}.weight"], tensors.get(f"{joins}.bias")))
        found.append(out[0, -1] @ head.T)
        states, tokens = torch.cat([states, out[:, -1:]], 1), [*tokens, token]
    return found


@torch.inference_mode()
@pytest.mark.parametrize("case", EAGLE)
def test_eagle(case: str, tmp_path: Path) -> None:
    model = loaded()
    tensors, config, file = eagle(case, model)
    head = trained_head.load(written(tmp_path / "head", tensors, config, file), model)
    drafts = Drafts(head, model, [5, 6])
    compare(drafts.logits, eagle_logits(tensors, model, drafts, case, [5, 6], model.engine.parts.head.weight))
    assert (head.card.kind, head.network.target.embedding) == ("eagle", model.engine.parts.embedding)


@torch.inference_mode()
def test_eagle_with_biases_and_an_output_layer_of_its_own(tmp_path: Path) -> None:
    """As for Qwen2, and in old files for vLLM."""
    model = loaded()
    tensors, config, file = eagle("authors", model, biases=True)
    output = noise({"lm_head.weight": (V, D)})
    head = trained_head.load(written(tmp_path / "head", tensors | output, config, file), model)
    drafts = Drafts(head, model, [5])
    compare(drafts.logits, eagle_logits(tensors | {"layers.0.self_attn.o_proj.bias": torch.zeros(D)}, model, drafts,
                                        "authors", [5], output["lm_head.weight"], attention_bias=True))


@torch.inference_mode()
@pytest.mark.parametrize("rope", [
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 16}, {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}])
def test_positions_may_be_scaled(rope: dict[str, Any], tmp_path: Path) -> None:
    model = loaded()
    tensors, config, file = eagle("authors", model)
    head = trained_head.load(written(tmp_path / "head", tensors, config | {"rope_scaling": rope}, file), model)
    drafts = Drafts(head, model, [5])
    compare(drafts.logits, eagle_logits(tensors, model, drafts, "authors", [5], model.engine.parts.head.weight,
                                        SMALL | {"rope_scaling": rope}))


@torch.inference_mode()
def test_an_embedding_that_differs_from_the_models_is_used(tmp_path: Path) -> None:
    model = loaded()
    tensors, config, file = eagle("authors", model)
    own = tensors | noise({"embed_tokens.weight": (V, D)}, seed=3)
    head = trained_head.load(written(tmp_path / "head", own, config, file), model)
    torch.testing.assert_close(head.network.target.embedding.weight, own["embed_tokens.weight"])
    first = Drafts(head, model, []).logits[0]
    usual = trained_head.load(written(tmp_path / "usual", tensors, config, file), model)
    assert not torch.allclose(first, Drafts(usual, model, []).logits[0], atol=1e-2)
    assert head.fingerprint != usual.fingerprint


def eagle3_logits(tensors: Tensors, config: Mapping[str, Any], case: str, model: Model, drafts: Drafts, path: list[int]
                  ) -> list[Tensor]:
    top, prefix, parts, more = EAGLE3[case]

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], tensors[name], SMALL["rms_norm_eps"])

    kind = (Qwen3Config, Qwen3DecoderLayer) if "q_norm" in parts else (LlamaConfig, LlamaDecoderLayer)
    layer = kind[1](sizes := kind[0](**SMALL, attn_implementation="eager"), 0).eval().self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(layer, name, nn.Linear(2 * D, getattr(layer, name).out_features, bias=False))
    layer.load_state_dict(below(tensors, f"{prefix}self_attn."))
    rotary = LlamaRotaryEmbedding(LlamaConfig(**SMALL))
    states = drafts.states
    if "fc_norm" in parts:
        states = torch.cat([normed(states[..., tap * D:(tap + 1) * D], f"fc_norm.{tap}.weight")
                            for tap in range(states.shape[-1] // D)], -1)
    states = functional.linear(normed(states, "input_norm.weight") if "input_norm" in parts else states,
                               tensors[f"{top}fc.weight"])
    tokens, found = TEXT[1:], list[Tensor]()
    for token in [*path, 0]:
        before = normed(states, f"{prefix}hidden_norm.weight")
        read = torch.cat([normed(embedded(model, tokens), f"{prefix}input_layernorm.weight"), before], -1)
        mask = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)[None, None]
        x = layer(read, rotary(read, torch.arange(len(tokens))[None]), mask)[0]
        x = x + (before if more.get("norm_before_residual") else states)
        inside = normed(x, f"{prefix}post_attention_layernorm.weight")
        gate, up, down = (tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + (functional.silu(inside @ gate.T) * (inside @ up.T)) @ down.T
        features = normed(x, f"{top}norm.weight")
        output = model.engine.parts.head.weight if "no head" in parts else tensors["lm_head.weight"]
        found.append(features[0, -1] @ output.T)
        states, tokens = torch.cat([states, (features if more.get("norm_output") else x)[:, -1:]], 1), [*tokens, token]
    assert sizes.head_dim == 12
    return found


@torch.inference_mode()
@pytest.mark.parametrize("case", EAGLE3)
def test_eagle3(case: str, tmp_path: Path) -> None:
    model, (tensors, config) = loaded(), eagle3(case)
    head = trained_head.load(written(tmp_path / "head", tensors, config), model)
    drafts = Drafts(head, model, [5, 6])
    taps = EAGLE3[case][3].get("eagle_aux_hidden_state_layer_ids", [1, 2])
    assert (head.card.kind, head.network.reads) == ("eagle3", tuple(f"hidden:{tap}" for tap in taps))
    wanted = eagle3_logits(tensors, config, case, model, drafts, [5, 6])
    listed = tensors["d2t"] + torch.arange(len(tensors["d2t"])) if "d2t" in tensors else torch.arange(V)
    compare([logits[listed] for logits in drafts.logits], wanted)
    assert all((logits > -1e30).sum() == len(listed) for logits in drafts.logits)


@torch.inference_mode()
@pytest.mark.parametrize("first", ["midlayer.", "layers.0."])
@pytest.mark.parametrize("count", [V, 20, 0])
def test_p_eagle(first: str, count: int, tmp_path: Path) -> None:
    """One causal pass over the sequence and masks, of an EAGLE-3 layer and an ordinary one."""
    model, masks = loaded(), 7
    tensors = noise(attention(first, inputs=2 * D) | attention("layers.1.") | {
        f"{first}hidden_norm.weight": (D,), f"{first}input_layernorm.weight": (D,),
        "layers.1.input_layernorm.weight": (D,), "fc.weight": (D, 3 * D), "norm.weight": (D,),
        "mask_hidden": (1, 1, 3 * D)} | ({"lm_head.weight": (count, D)} if count else {}))
    listed = torch.arange(count) * 2 + 1 if count == 20 else torch.arange(V)
    more = {"d2t": listed - torch.arange(20)} if count == 20 else {}
    config = {**SMALL, "eagle_aux_hidden_state_layer_ids": [0, 1, 2], "mask_token_id": 9, "draft_vocab_size": count}
    head = trained_head.load(written(tmp_path / "head", tensors | more, config), model)
    assert (head.card.kind, head.network.depth) == ("p_eagle", 8)
    drafts = Drafts(head, model, [5] * masks)

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (D,), tensors[f"{name}.weight"], SMALL["rms_norm_eps"])

    sizes = LlamaConfig(**SMALL, attn_implementation="eager")
    wide, second = LlamaDecoderLayer(sizes, 0).eval(), LlamaDecoderLayer(sizes, 0).eval()
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(wide.self_attn, name, nn.Linear(2 * D, getattr(wide.self_attn, name).out_features, bias=False))
    wide.self_attn.load_state_dict(below(tensors, f"{first}self_attn."))
    wide.mlp.load_state_dict(below(tensors, f"{first}mlp."))
    second.load_state_dict(below(tensors, "layers.1."))
    words = embedded(model, [*TEXT[1:], *[9] * masks])
    joined = torch.cat([drafts.states, tensors["mask_hidden"].expand(1, masks, -1)], 1) @ tensors["fc.weight"].T
    read = torch.cat([normed(words, f"{first}input_layernorm"), normed(joined, f"{first}hidden_norm")], -1)
    mask = torch.full((words.shape[1], words.shape[1]), -torch.inf).triu(1)[None, None]
    turned = LlamaRotaryEmbedding(sizes)(read, torch.arange(words.shape[1])[None])
    x = joined + wide.self_attn(read, turned, mask)[0]
    x = x + wide.mlp(normed(x, f"{first}post_attention_layernorm"))
    x = normed(run(second, LlamaRotaryEmbedding(sizes), x), "norm")[0, -masks - 1:]
    output = tensors["lm_head.weight"] if count else model.engine.parts.head.weight
    compare([logits[listed] for logits in drafts.logits], list(x @ output.T))
