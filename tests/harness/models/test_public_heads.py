"""Heads in the layouts of others draft what a plain computation with the tensors of their files gives."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, Qwen3Config
from transformers.cache_utils import DFlashCache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRotaryEmbedding
from transformers.models.muse_glimmer_assistant.configuration_muse_glimmer_assistant import MuseGlimmerAssistantConfig
from transformers.models.muse_glimmer_assistant.modeling_muse_glimmer_assistant import MuseGlimmerAssistantModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from harness.engine.session import Session
from harness.errors import UserError
from harness.heads.expander import HeadExpander
from harness.models import public_heads, trained_head
from harness.models.loading import Model, fingerprint
from harness.models.trained_head import Head
from strategies.drafters.choices import best_choices
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


# Medusa

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


@pytest.mark.parametrize("case", MEDUSA)
def test_medusa(case: str, tmp_path: Path) -> None:
    tensors, block, output, config, file = MEDUSA[case]
    model = loaded()
    head = trained_head.load(written(tmp_path / "head", tensors, config, file), model)
    drafts = Drafts(head, model, [5, 6])
    wanted = []
    for number in range(3):
        x = drafts.states[0, -1]
        layer = 0
        while block.format(number, layer) + ".weight" in tensors:
            name = block.format(number, layer)
            x = x + functional.silu(functional.linear(x, tensors[name + ".weight"], tensors.get(name + ".bias")))
            layer += 1
        wanted.append((tensors[output.format(number)] if output else model.engine.parts.head.weight) @ x)
    compare(drafts.logits, wanted)
    assert head.card.kind == "medusa"


def test_an_output_layer_that_is_stored_once_is_that_of_all_heads(tmp_path: Path) -> None:
    model, all_heads = loaded(), MEDUSA["vllm"][0]
    tensors = {name: all_heads[name] for name in all_heads.keys() - {"lm_heads.1.weight", "lm_heads.2.weight"}}
    drafts = Drafts(trained_head.load(written(tmp_path / "a", tensors, {"original_lm_head": True}), model), model, [5])
    for own in ("lm_head.weight", "medusa_heads.lm_head.weight"):
        alike = {own if name.startswith("lm_heads") else name: tensor for name, tensor in tensors.items()}
        other = trained_head.load(written(tmp_path / own, alike, {"original_lm_head": True}), model)
        compare(Drafts(other, model, [5]).logits, drafts.logits)
    x = drafts.states[0, -1]
    x = x + functional.silu(tensors["blocks.1.layers.0.weight"] @ x)
    compare(drafts.logits[1:], [tensors["lm_heads.0.weight"] @ x])


# EAGLE: the layer of transformers, and one row a step

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


def llama(config: Mapping[str, Any], tensors: Tensors, prefix: str, **more: Any
          ) -> tuple[LlamaDecoderLayer, LlamaRotaryEmbedding]:
    """A layer of transformers with the tensors of a head, without its input norm."""
    sizes = LlamaConfig(**config, attn_implementation="eager", **more)
    layer = LlamaDecoderLayer(sizes, 0)
    layer.input_layernorm = nn.Identity()
    layer.load_state_dict(below(tensors, prefix))
    return layer.eval(), LlamaRotaryEmbedding(sizes)


def run(layer: nn.Module, rotary: nn.Module, x: Tensor) -> Tensor:
    """Causal attention over all rows (1, T, …)."""
    length = x.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    return layer(x, attention_mask=mask, position_embeddings=rotary(x, torch.arange(length)[None]))


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


# EAGLE-3

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


# DFlash: the model of transformers

def dflash(kinds: Sequence[str] = ("full_attention",) * 2) -> tuple[MuseGlimmerAssistantModel, dict[str, Any]]:
    sizes = SMALL | {"num_hidden_layers": 2, "block_size": 4, "mask_token_id": 9, "target_layer_ids": [1, 0],
                     "layer_types": list(kinds), "sliding_window": 3}
    config = MuseGlimmerAssistantConfig(**sizes | {"rope_parameters": {"rope_theta": 300.0, "rope_type": "default"}},
                                        attn_implementation="eager")
    theirs = MuseGlimmerAssistantModel(config).eval()
    theirs.load_state_dict(noise({name: tuple(weight.shape) for name, weight in theirs.state_dict().items()}))
    return theirs, sizes


def dflash_rows(theirs: MuseGlimmerAssistantModel, model: Model, states: Tensor, mask: Any = None) -> Tensor:
    """The normed outputs of the rows of the block."""
    words = embedded(model, [TEXT[-1], 9, 9, 9])
    return theirs(noise_embeds=words, context_hidden_states=states, attention_mask=mask, use_cache=False
                  ).last_hidden_state[0]


ZLAB = {"encoder.fc.": "fc.", "encoder.output_norm_enc.": "hidden_norm."}


def renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    for theirs, ours in names.items():
        tensors = {name.replace(theirs, ours): tensor for name, tensor in tensors.items()}
    return tensors


@torch.inference_mode()
@pytest.mark.parametrize("case", ["transformers", "z-lab", "speculators"])
def test_dflash(case: str, tmp_path: Path) -> None:
    """Tap i is the output of layer i, in speculators' files its input."""
    model = loaded()
    theirs, sizes = dflash()
    tensors, output = dict(theirs.state_dict()), model.engine.parts.head.weight
    listed = torch.arange(V)
    config: dict[str, Any] = {"model_type": "muse_glimmer_assistant", **sizes}
    if case != "transformers":
        tensors = renamed(tensors, ZLAB)
        config = {"model_type": "qwen3", **{name: value for name, value in sizes.items() if "id" not in name},
                  "hidden_size": D, "dflash_config": {"mask_token_id": 9, "target_layer_ids": [1, 0]}}
    if case == "speculators":
        listed, output = torch.arange(20) * 3 + 1, noise({"lm_head.weight": (20, D)})["lm_head.weight"]
        tensors |= {"lm_head.weight": output, "d2t": listed - torch.arange(20), "t2d": torch.ones(V, dtype=torch.bool),
                    "embed_tokens.weight": model.engine.parts.embedding.weight}
        config = {"speculators_model_type": "dflash", "transformer_layer_config": {"model_type": "qwen3", **sizes},
                  "aux_hidden_state_layer_ids": [2, 1], "block_size": 4, "draft_vocab_size": 20, "mask_token_id": 9,
                  "sample_from_anchor": False}
    head = trained_head.load(written(tmp_path / "head", tensors, config), model)
    assert (head.card.kind, head.network.depth, head.network.reads) == ("dflash", 3, ("hidden:2", "hidden:1"))
    drafts = Drafts(head, model, [5, 6])
    wanted = dflash_rows(theirs, model, drafts.states)[1:] @ output.T
    compare([logits[listed] for logits in drafts.logits], list(wanted))


@torch.inference_mode()
def test_windows_of_transformers_count_the_distance(tmp_path: Path) -> None:
    model = loaded()
    theirs, sizes = dflash(["sliding_attention", "full_attention"])
    config = {"model_type": "muse_glimmer_assistant", **sizes}
    head = trained_head.load(written(tmp_path / "head", theirs.state_dict(), config), model)
    drafts, cache = Drafts(head, model, [5, 6]), DFlashCache(config=theirs.config)
    cache.activate_past_recording()
    cache.set_previous_accepted_tokens(len(TEXT) - 1)
    rows = theirs(noise_embeds=embedded(model, [TEXT[-1], 9, 9, 9]), context_hidden_states=drafts.states, cache=cache,
                  position_ids=torch.arange(len(TEXT) + 3)[None]).last_hidden_state[0, 1:]
    compare(drafts.logits, list(rows @ model.engine.parts.head.weight.T))
    assert head.card.settings["windows"] == "4-0"


@torch.inference_mode()
@pytest.mark.parametrize(("fields", "causal"), [
    ({}, (True, False)), ({"sliding_window_non_causal": True}, (False, False)), ({"is_causal": False}, (False, False)),
    ({"dflash_config": {"causal": True}}, (True, True)),
    ({"layer_types": None, "dflash_config": {"use_swa": True, "swa_window_size": 3}}, (False, False))])
def test_windows_of_others(fields: dict[str, Any], causal: tuple[bool, bool], tmp_path: Path) -> None:
    """A row sees 3 positions, itself included, in layer 0, and also in layer 1 if all have windows."""
    model = loaded()
    theirs, sizes = dflash(["sliding_attention", "full_attention"])
    config = {"model_type": "qwen3", **sizes, **fields}
    head = trained_head.load(written(tmp_path / "head", renamed(theirs.state_dict(), ZLAB), config), model)
    drafts = Drafts(head, model, [5, 6])
    count, rows = len(TEXT) - 1 + 4, torch.arange(len(TEXT) - 1, len(TEXT) + 3)[:, None]
    near = (rows - torch.arange(count)).abs() < 3
    before = torch.arange(count) <= rows
    seen = [near & before if causal[0] else near, before | ~before]
    seen[1] = before if causal[1] else near if "layer_types" in fields else seen[1]
    masks = {name: torch.where(mask, 0.0, -torch.inf)[None, None]
             for name, mask in zip(sizes["layer_types"], seen, strict=True)}
    found = dflash_rows(theirs, model, drafts.states, masks)[1:] @ model.engine.parts.head.weight.T
    compare(drafts.logits, list(found))


@torch.inference_mode()
def test_jetspec(tmp_path: Path) -> None:
    """A row sees the target's states and the rows up to itself."""
    model = loaded()
    theirs, sizes = dflash()
    config = {**sizes, "dflash_config": {"causal_head": True}}
    head = trained_head.load(written(tmp_path / "head", renamed(theirs.state_dict(), ZLAB), config), model)
    drafts = Drafts(head, model, [5, 6])
    mask = torch.full((4, len(TEXT) - 1 + 4), -torch.inf).triu(len(TEXT))[None, None]
    rows = dflash_rows(theirs, model, drafts.states, {"full_attention": mask})
    assert head.card.kind == "jetspec"
    compare(drafts.logits, list(rows[1:] @ model.engine.parts.head.weight.T))


@torch.inference_mode()
@pytest.mark.parametrize("case", ["authors", "few tokens", "bonus anchor"])
def test_dspark(case: str, tmp_path: Path) -> None:
    model, path = loaded(), [5, 6]
    theirs, sizes = dflash()
    count, first = (20 if case == "few tokens" else V), int(case == "bonus anchor")
    own = noise({"markov_head.markov_w1.weight": (V, 6), "markov_head.markov_w2.weight": (count, 6),
                 "confidence_head.proj.weight": (1, D), "confidence_head.proj.bias": (1,)})
    output, listed = model.engine.parts.head.weight[:count], torch.arange(count)
    more = {"d2t": torch.zeros(20, dtype=torch.long)} if case == "few tokens" else {}
    tensors = renamed(theirs.state_dict(), ZLAB) | own | more | {"lm_head.weight": output}
    config = {**sizes, "markov_rank": 6} | ({"dspark_bonus_anchor": True} if first else {})
    head = trained_head.load(written(tmp_path / "head", tensors, config), model)
    assert (head.card.kind, head.network.depth) == ("dspark", 4 - first)
    drafts = Drafts(head, model, path)
    rows = dflash_rows(theirs, model, drafts.states)[first:first + 3]
    bias = own["markov_head.markov_w1.weight"][[TEXT[-1], *path]] @ own["markov_head.markov_w2.weight"].T
    compare([logits[listed] for logits in drafts.logits], list(rows @ output.T + bias))


@torch.inference_mode()
@pytest.mark.parametrize("prefix", ["", "domino_head."])
def test_domino(prefix: str, tmp_path: Path) -> None:
    model, path = loaded(), [5, 6]
    theirs, sizes = dflash()
    gru = nn.GRU(D, 10, bias=False, batch_first=True)
    gru.load_state_dict(noise({"weight_ih_l0": (30, D), "weight_hh_l0": (30, 10)}))
    own = {f"prefix_gru.{name}": weight for name, weight in gru.state_dict().items()} | noise(
        {"embed_proj.0.weight": (7, D + 10), "embed_proj.2.weight": (V, 7)})
    tensors = renamed(theirs.state_dict(), ZLAB) | {prefix + name: weight for name, weight in own.items()}
    config = {**sizes, "dflash_config": {"projector_type": "domino", "pure_draft_prefix_len": 2, "shift_label": True}}
    head = trained_head.load(written(tmp_path / "head", tensors, config), model)
    assert (head.card.kind, head.network.depth) == ("domino", 4)
    drafts = Drafts(head, model, path)
    rows = dflash_rows(theirs, model, drafts.states)[:3]
    both = torch.cat([rows, gru(embedded(model, [TEXT[-1], *path]))[0][0]], -1)
    change = functional.silu(both @ own["embed_proj.0.weight"].T) @ own["embed_proj.2.weight"].T
    change[:2] = 0
    compare(drafts.logits, list(rows @ model.engine.parts.head.weight.T + change))


class Convolved(nn.Module):
    """A sublayer between two convolutions over the rows before it, written as a sum."""

    def __init__(self, inside: nn.Module, base: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.inside, self.base, self.projection = inside, base, projection

    def mixed(self, x: Tensor, factors: Tensor, side: int) -> Tensor:
        found = torch.zeros_like(x)
        for row in range(x.shape[1]):
            for tap in range(min(row + 1, 3)):
                own = self.base[side, tap] + factors[0, row, side, tap].repeat_interleave(16)
                found[0, row] += own * x[0, row - tap]
        return found

    def forward(self, hidden_states: Tensor, **more: Any) -> Any:
        factors = (hidden_states @ self.projection.T).view(1, -1, 2, 3, 4)
        found = self.inside(self.mixed(hidden_states, factors, 0), **more)
        return (self.mixed(found[0], factors, 1), None) if more else self.mixed(found, factors, 1)


@torch.inference_mode()
@pytest.mark.parametrize("end", ["", ".weight"])
def test_dflash2(end: str, tmp_path: Path) -> None:
    model, path = loaded(), [5, 6]
    theirs, sizes = dflash()
    selector = noise({"predecessor_codebook": (V, 6), "successor_codebook": (V, 6), "hidden_projection.weight": (6, D)})
    tensors = renamed(theirs.state_dict(), ZLAB) | {
        f"candidate_selector.{name}{end if 'codebook' in name else ''}": tensor for name, tensor in selector.items()}
    for place, layer in enumerate(theirs.layers):
        for part, name in (("attention", "self_attn"), ("mlp", "mlp")):
            own = noise({"base_kernel": (2, 3, D), "kernel_projection.weight": (2 * 3 * 4, D)}, seed=place)
            tensors |= {f"layers.{place}.{part}_conv.{key}": tensor for key, tensor in own.items()}
            setattr(layer, name, Convolved(getattr(layer, name), *own.values()))
    config = {**sizes, "dflash_config": {"conv_kernel_size": 3, "conv_group_size": 16, "selector_rank": 6,
                                         "selector_top_k": 5}}
    head = trained_head.load(written(tmp_path / "head", tensors, config), model)
    assert (head.card.kind, head.network.depth) == ("dflash2", 3)
    drafts = Drafts(head, model, path)
    wanted = list[Tensor]()
    rows = dflash_rows(theirs, model, drafts.states)[1:]
    for row, before in zip(rows, [TEXT[-1], *path], strict=True):
        logits = model.engine.parts.head.weight @ row
        for token in logits.topk(5).indices.tolist():
            follows = selector["predecessor_codebook"][before] * (selector["hidden_projection.weight"] @ row)
            logits[token] += follows @ selector["successor_codebook"][token]
        wanted.append(logits)
    compare(drafts.logits, wanted)


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


@torch.inference_mode()
def test_clover2(tmp_path: Path) -> None:
    model, path = loaded(), [5, 6]
    shapes = {name: size for layer in range(2) for name, size in attention(f"layers.{layer}.").items()} | {
        "layers.0.input_layernorm.weight": (D,), "layers.1.input_layernorm.weight": (D,), "clover_norm.weight": (D,),
        "clover_head_norm.weight": (D,), "clover_head_mlp.weight": (D, D), "clover_head_mlp.bias": (D,),
        "clover_head_mlp2.weight": (D, 2 * D), "clover_head_mlp2.bias": (D,)}
    for gate in ("clover_head_mlp_rnn", "clover_head_mlp_rnn2"):
        shapes |= {f"{gate}.input_layernorm.weight": (D,)}
        shapes |= {f"{gate}.{part}.weight": (D, D) for part in "qkv"} | {f"{gate}.{part}.bias": (D,) for part in "qkv"}
    tensors, output = noise(shapes), model.engine.parts.head.weight
    more = {"clover_embed_tokens.weight": output, "lm_head.weight": output}
    config = {**SMALL, "clover": {"num_heads": 5, "num_layers": 2}}
    head = trained_head.load(written(tmp_path / "head", tensors | more, config, "pytorch_model.bin"), model)
    drafts = Drafts(head, model, path)

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (D,), tensors[f"{name}.weight"], SMALL["rms_norm_eps"])

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def gated(x: Tensor, y: Tensor, name: str) -> Tensor:
        parts = zip(linear(normed(x, f"{name}.input_layernorm"), f"{name}.q").chunk(8, -1),
                    linear(y, f"{name}.k").chunk(8, -1), linear(y, f"{name}.v").chunk(8, -1), strict=True)
        return x + torch.cat([functional.cosine_similarity(q, k, dim=-1)[..., None] * v for q, k, v in parts], -1)

    sizes = LlamaConfig(**SMALL, attn_implementation="eager")
    x = gated(drafts.states, output[TEXT[1:]][None], "clover_head_mlp_rnn")
    for number in range(2):
        layer = LlamaDecoderLayer(sizes, 0).eval()
        layer.load_state_dict(below(tensors, f"layers.{number}."))
        x = run(layer, LlamaRotaryEmbedding(sizes), x)
    state = normed(x[0, -1], "clover_norm")
    wanted = [output @ normed(linear(state, "clover_head_mlp"), "clover_head_norm")]
    for token in path:
        state = gated(state, output[token], "clover_head_mlp_rnn2")
        both = torch.cat([state, output[token]])
        wanted.append(output @ normed(linear(both, "clover_head_mlp2"), "clover_head_norm"))
    compare(drafts.logits, wanted)
    assert (head.card.kind, head.network.depth, head.network.reads) == ("clover2", 5, ("hidden:2",))


# Hydra, ReDrafter, MLP speculators, FSPAD and MTP

@torch.inference_mode()
@pytest.mark.parametrize("layers", [1, 3])
def test_hydra(layers: int, tmp_path: Path) -> None:
    shapes = dict[str, tuple[int, ...]]()
    for head in range(2):
        for part in ("linear", "res_connection"):
            name = f"hydra_mlp.{head}.0.{part}"
            shapes |= {f"{name}.weight": (D, (head + 2) * D), f"{name}.bias": (D,)}
        for layer in range(1, layers):
            shapes |= {f"hydra_mlp.{head}.{layer}.linear.weight": (D, D), f"hydra_mlp.{head}.{layer}.linear.bias": (D,)}
        shapes |= {f"hydra_lm_head.{head}.weight": (V, D), f"hydra_lm_head.{head}.bias": (V,)}
    model, tensors = loaded(), noise(shapes)
    config = {"hydra_num_heads": 2, "hydra_num_layers": layers, "hydra_head_arch": "mlp", "grounded_heads": True}
    more = {"input_embed_fn.weight": model.engine.parts.embedding.weight}
    loaded_head = trained_head.load(written(tmp_path / "head", tensors | more, config, "hydra_lm_head.pt"), model)
    drafts = Drafts(loaded_head, model, [5])
    assert loaded_head.card.kind == "hydra"
    compare(drafts.logits, hydra_logits(tensors, model, drafts.states[0, -1], [5], range(layers), ""))


def hydra_logits(tensors: Tensors, model: Model, state: Tensor, path: list[int], places: Iterable[int], end: str
                 ) -> list[Tensor]:
    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    found = list[Tensor]()
    for head in range(2):
        x = torch.cat([state, *embedded(model, [TEXT[-1], *path][:head + 1])[0]])
        for place in places:
            name = f"hydra_mlp.{head}.{place}"
            around = linear(f"{name}.res_connection", x) if f"{name}.res_connection.bias" in tensors else x
            x = around + functional.silu(linear(f"{name}.linear", x))
        found.append(linear(f"hydra_lm_head.{head}{end}", x))
    return found


@torch.inference_mode()
def test_hydra_with_a_layer_before_the_heads(tmp_path: Path) -> None:
    """Layers of dropout without tensors are counted in the names."""
    model = loaded()
    own = LlamaModel(LlamaConfig(**{**model.engine.model.config.to_dict(), "num_hidden_layers": 1},
                                 attn_implementation="eager")).eval()
    own.load_state_dict(noise({name: tuple(weight.shape) for name, weight in own.state_dict().items()}))
    shapes = dict[str, tuple[int, ...]]()
    for head in range(2):
        for part in ("1.linear", "1.res_connection", "3.linear"):
            inputs = D if part[0] == "3" else (head + 2) * D
            shapes |= {f"hydra_mlp.{head}.{part}.weight": (D, inputs), f"hydra_mlp.{head}.{part}.bias": (D,)}
        shapes |= {f"hydra_lm_head.{head}.1.weight": (V, D), f"hydra_lm_head.{head}.1.bias": (V,)}
    tensors = noise(shapes)
    prefix = {f"prefix_embeding_layer.{name}": weight for name, weight in own.state_dict().items()}
    config = {"hydra_head_arch": "prefix-mlp", "hydra_num_layers": 2}
    head = trained_head.load(written(tmp_path / "head", tensors | prefix, config, "hydra_lm_head.pt"), model)
    drafts = Drafts(head, model, [5])
    state = own(inputs_embeds=drafts.states).last_hidden_state[0, -1]
    compare(drafts.logits, hydra_logits(tensors, model, state, [5], (1, 3), ".1"))


@torch.inference_mode()
@pytest.mark.parametrize("case", ["untied", "tied", "tied copies"])
def test_mlp_speculator(case: str, tmp_path: Path) -> None:
    """As in vLLM: the parts are weighted, and the norm divides by the root mean square."""
    model, tied, inner, path = loaded(), case != "untied", 20, [5, 6]
    stages, steps = (1, 2) if tied else (3, 3)
    shapes = {f"speculator.proj.{stage}.weight": (inner, D if not stage else inner) for stage in range(steps)}
    for stage in range(stages):
        shapes |= {f"speculator.emb.{stage}.weight": (V, inner), f"speculator.head.{stage}.weight": (V, inner),
                   f"speculator.ln.{stage}.weight": (inner,), f"speculator.ln.{stage}.bias": (inner,)}
    tensors = noise(shapes)
    copies = {name.replace(".0.", f".{stage}."): tensor for name, tensor in tensors.items() if ".proj." not in name
              for stage in (1, 2)} | {"speculator.proj.2.weight": tensors["speculator.proj.1.weight"]}
    config = {"model_type": "mlp_speculator", "vocab_size": V, "emb_dim": D, "inner_dim": inner, "n_predict": 3,
              "tie_weights": tied, "scale_input": tied}
    all_tensors = tensors | (copies if case == "tied copies" else {})
    head = trained_head.load(written(tmp_path / "head", all_tensors, config), model)
    drafts = Drafts(head, model, path)
    state = drafts.states[0, -1]
    if tied:
        state = functional.rms_norm(state, (D,), eps=1e-6) / 2 ** 0.5
    of_state = 0.5 ** (1 / 6)
    of_token, wanted = ((1 - of_state ** 2) * inner / 2) ** 0.5, list[Tensor]()
    for stage, token in enumerate([TEXT[-1], *path]):
        at, step = (0, min(stage, 1)) if tied else (stage, stage)
        mixed = of_state * tensors[f"speculator.proj.{step}.weight"] @ state
        mixed = mixed + of_token * tensors[f"speculator.emb.{at}.weight"][token]
        mixed = mixed / mixed.pow(2).mean().sqrt()
        state = functional.gelu(mixed * tensors[f"speculator.ln.{at}.weight"] + tensors[f"speculator.ln.{at}.bias"])
        wanted.append(tensors[f"speculator.head.{at}.weight"] @ state)
    compare(drafts.logits, wanted)
    assert (head.card.kind, head.network.depth) == ("mlp_speculator", 3)


@torch.inference_mode()
@pytest.mark.parametrize(("rnn", "size"), [(True, 2 * D), (False, 2 * D), (True, 24)])
def test_redrafter(rnn: bool, size: int, tmp_path: Path) -> None:
    model, path = loaded(), [5, 6]
    shapes: dict[str, tuple[int, ...]] = {"lm_head.2.weight": (V, size)}
    for layer in range(2):
        shapes |= {f"lm_head.{layer}.linear.weight": (size, size), f"lm_head.{layer}.linear.bias": (size,)}
    shapes |= {"rnn_u.weight": (D, D), "rnn_u.bias": (D,), "rnn_w.weight": (D, D)} if rnn else {}
    shapes |= {"input_proj.weight": (size, 2 * D), "input_proj.bias": (size,)} if size != 2 * D else {}
    tensors = noise(shapes)
    config = {"model_type": "recurrent_drafting_drafter", "vocab_size": V, "hidden_size": D, "exit_dim": size,
              "num_draft_layers": 2, "rnn": rnn}
    head = trained_head.load(written(tmp_path / "head", tensors, config), model)
    drafts = Drafts(head, model, path)
    state, wanted = torch.zeros(D), list[Tensor]()
    for token in [TEXT[-1], *path]:
        word = embedded(model, [token])[0, 0]
        state = functional.silu(tensors["rnn_u.weight"] @ state + tensors["rnn_u.bias"]
                                + tensors["rnn_w.weight"] @ word) if rnn else state + word
        x = torch.cat([drafts.states[0, -1], state])
        x = tensors["input_proj.weight"] @ x + tensors["input_proj.bias"] if size != 2 * D else x
        for layer in range(2):
            name = f"lm_head.{layer}.linear"
            x = x + functional.silu(tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"])
        wanted.append(tensors["lm_head.2.weight"] @ x)
    compare(drafts.logits, wanted)
    assert head.card.kind == "redrafter"


@torch.inference_mode()
def test_fspad(tmp_path: Path) -> None:
    model, path = loaded(), [5, 6]
    tensors = noise(attention("layers.0.") | {
        "layers.0.mlp.down_proj.weight": (2 * D, 40), "fc.fc.weight": (D, 2 * D), "fc.fc.bias": (D,),
        "fc.mlp.gate_proj.weight": (40, D), "fc.mlp.up_proj.weight": (40, D), "fc.mlp.down_proj.weight": (D, 40),
        "fc.post_attention_layernorm.weight": (D,)})
    head = trained_head.load(written(tmp_path / "head", tensors, SMALL, "pytorch_model.bin"), model)
    drafts = Drafts(head, model, path)
    layer = LlamaDecoderLayer(LlamaConfig(**SMALL, attn_implementation="eager"), 0).eval().self_attn
    layer.load_state_dict(below(tensors, "layers.0.self_attn."))
    rotary = LlamaRotaryEmbedding(LlamaConfig(**SMALL))

    def gated(name: str, gate: Tensor, x: Tensor) -> Tensor:
        gates, up, down = (tensors[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return (functional.silu(gate @ gates.T) * (x @ up.T)) @ down.T

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (D,), tensors[f"{name}.weight"], SMALL["rms_norm_eps"])

    states, tokens, wanted = drafts.states, TEXT[1:], list[Tensor]()
    for token in [*path, 0]:
        word = embedded(model, tokens)
        x = functional.linear(torch.cat([word, states], -1), tensors["fc.fc.weight"], tensors["fc.fc.bias"])
        x = x + gated("fc.mlp", word, normed(x, "fc.post_attention_layernorm"))
        mask = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)[None, None]
        x = x + layer(x, rotary(x, torch.arange(len(tokens))[None]), mask)[0]
        inside = normed(x, "layers.0.post_attention_layernorm")
        both = torch.cat([x, x], -1) + gated("layers.0.mlp", inside, inside)
        wanted.append(both[0, -1, :D] @ model.engine.parts.head.weight.T)
        states, tokens = torch.cat([states, both[:, -1:, D:]], 1), [*tokens, token]
    compare(drafts.logits, wanted)
    assert head.card.kind == "fspad"


@torch.inference_mode()
def test_chimera(tmp_path: Path) -> None:
    """Its tensors are in three files; the layer reads states, then codes, each of which sees those at its place."""
    model, path = loaded(), [5, 6]
    sizes = model.engine.model.config
    layer = LlamaDecoderLayer(sizes, 0).eval()
    layer.load_state_dict(noise({name: tuple(weight.shape) for name, weight in layer.state_dict().items()}))
    code = noise({"0.linear.weight": (3 * D, 3 * D), "0.linear.bias": (3 * D,), "1.weight": (D, 3 * D)})
    outputs = noise({f"{head}.0.weight": (V, 2 * D) for head in range(3)})
    written(tmp_path / "head", code, {"chimera_num_heads": 3}, "trimlp.pt")
    inside = {f"0.{name}": weight for name, weight in layer.state_dict().items()}
    written(tmp_path / "head", inside, {}, "fast_layer1.pt")
    head = trained_head.load(written(tmp_path / "head", outputs, {}, "chimera_head.pt"), model)
    drafts = Drafts(head, model, path)
    count, tokens, wanted = drafts.states.shape[1], TEXT[1:], list[Tensor]()
    for depth, token in enumerate([*path, 0]):
        places = torch.arange(len(tokens))
        three = embedded(model, [tokens[0]] * 2 + tokens)[0]
        three = torch.cat([three[:-2], three[1:-1], three[2:]], -1)
        three = three + functional.silu(functional.linear(three, code["0.linear.weight"], code["0.linear.bias"]))
        x = torch.cat([drafts.states, (three @ code["1.weight"].T)[None]], 1)
        rows, columns = torch.cat([places[:count], places]), torch.cat([places[:count], places])
        mask = torch.where(columns <= rows[:, None], 0.0, -torch.inf)
        mask[:count, count:] = -torch.inf  # no state sees a code
        turned = LlamaRotaryEmbedding(sizes)(x, torch.cat([places[:count], places + 1])[None])
        out = layer(x, attention_mask=mask[None, None], position_embeddings=turned)[0, -1]
        wanted.append(outputs[f"{depth}.0.weight"] @ torch.cat([drafts.states[0, -1], out]))
        tokens = [*tokens, token]
    compare(drafts.logits, wanted)
    assert head.card.kind == "chimera"


@torch.inference_mode()
def test_mtp_in_the_files_of_the_model(tmp_path: Path) -> None:
    """The module is the layer after the last one; further ones are not used."""
    model, path = loaded(), [5, 6]
    sizes = model.engine.model.config
    layer = LlamaDecoderLayer(sizes, 0).eval()
    own = {name: tuple(weight.shape) for name, weight in layer.state_dict().items()}
    own |= {"eh_proj.weight": (D, 2 * D), "enorm.weight": (D,), "hnorm.weight": (D,), "shared_head.norm.weight": (D,)}
    tensors, other = noise(own), noise(own, seed=2)
    layer.load_state_dict({name: tensors[name] for name in layer.state_dict()})
    files = model.engine.model.state_dict() | {f"model.layers.2.{name}": tensor for name, tensor in tensors.items()} | {
        f"model.layers.3.{name}": tensor for name, tensor in other.items()} | {
        "model.layers.2.embed_tokens.weight": model.engine.parts.embedding.weight,
        "model.layers.2.shared_head.head.weight": model.engine.parts.head.weight}
    config = {**sizes.to_diff_dict(), "num_hidden_layers": 2, "num_nextn_predict_layers": 2}
    head = trained_head.load(written(tmp_path / "head", files, config), model)
    drafts = Drafts(head, model, path)

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (D,), tensors[f"{name}.weight"], sizes.rms_norm_eps)

    states, tokens, wanted = drafts.states, TEXT[1:], list[Tensor]()
    for token in [*path, 0]:
        both = torch.cat([normed(embedded(model, tokens), "enorm"), normed(states, "hnorm")], -1)
        out = run(layer, LlamaRotaryEmbedding(sizes), both @ tensors["eh_proj.weight"].T)
        wanted.append(normed(out[0, -1], "shared_head.norm") @ model.engine.parts.head.weight.T)
        states, tokens = torch.cat([states, out[:, -1:]], 1), [*tokens, token]
    compare(drafts.logits, wanted)
    assert head.card.kind == "mtp"


# What cannot be read is said

def refused(folder: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        trained_head.load(str(folder), loaded())
    assert str(error.value).count(". ") == 0
    assert str(error.value).endswith(".")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    folder, (tensors, *_, config, file) = tmp_path / "head", MEDUSA["own"]
    for name in ("medusa_lm_head.pt", "pytorch_model.bin", "model.safetensors"):
        written(folder, tensors, config, name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:len(whole) // 2])
        refused(folder, f"{name} cannot be read as weights: it was cut off")
        (folder / name).write_bytes(b"nothing of the kind")
        refused(folder, f"{name} cannot be read as weights")
        (folder / name).unlink()
    torch.save({"model": tensors}, folder / file)
    refused(folder, "holds other things")
    (folder / file).unlink()
    torch.save({}, folder / "training_args.bin")
    refused(folder, r"has no weights in files \*.safetensors, \*.bin, \*.pt")
    for text in (None, "{", "[]"):
        (folder / "config.json").write_text(text) if text else (folder / "config.json").unlink()
        written(tmp_path / "other", tensors, {})
        refused(folder, "has no weights" if text == "[]" else "neither head.json nor config.json can be read")


def test_files_of_the_old_format_are_read(tmp_path: Path) -> None:
    tensors, *_, config, file = MEDUSA["own"]
    folder = tmp_path / "head"
    written(folder, tensors, config, file)
    torch.save(tensors, folder / file, _use_new_zipfile_serialization=False)
    head = trained_head.load(str(folder), loaded())
    torch.testing.assert_close(head.network.state_dict()["outputs.2.weight"], tensors["2.2.weight"])


WRONG: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "no head": (noise({"model.layers.0.mlp.up_proj.weight": (D, D)}), {}, "of a known layout: .* is model.layers.0"),
    "unknown tensor": (MEDUSA["own"][0] | noise({"0.0.gate.weight": (D, D)}), {},
                       "'medusa', but that has no tensor 0.0.gate.weight"),
    "wide states": (noise({"0.0.linear.weight": (32, 32), "0.1.weight": (V, 32)}), {},
                    r"do not fit 'tiny': .* has the shape \(32, 32\), not \(64, 64\)"),
    "more tokens": (noise({"0.0.linear.weight": (D, D), "0.1.weight": (98, D)}), {}, r"\(98, 64\), not \(97, 64\)"),
    "other states": (eagle3("authors")[0], {**SMALL, "hidden_size": 32, "head_dim": 8},
                     "hidden states of 32 numbers, but 'tiny' has 64"),
    "other tokens": (eagle3("authors")[0], SMALL | {"vocab_size": 98}, "for 98 logits, but 'tiny' has 97"),
    "other embedding": (eagle3("authors")[0] | noise({"embed_tokens.weight": (98, D)}), SMALL,
                        r"embedding has the shape \(98, 64\), and the model's \(97, 64\)"),
    "missing tensor": ({name: tensor for name, tensor in eagle3("authors")[0].items() if name != "fc.weight"}, SMALL,
                       "fc.weight has the shape None, not"),
    "other sizes": (eagle3("authors")[0], SMALL | {"intermediate_size": 48}, "do not fit 'tiny': mlp"),
    "bad sizes": (eagle3("authors")[0], SMALL | {"num_attention_heads": "many"}, "sizes of the head cannot be read"),
    "token out of range": (eagle3("few tokens")[0] | {"d2t": torch.full((20,), 78)}, SMALL, "drafts token 97, but the"),
    "layers that the model lacks": (eagle3("authors")[0], SMALL | {"eagle_aux_hidden_state_layer_ids": [1, 3]},
                                    "'1-3', but the model has 2 layers"),
    "some of the tokens": (MEDUSA["vllm"][0] | {"token_map": torch.arange(9)}, {}, "a part of the vocabulary"),
    "fewer tokens": (MEDUSA["vllm"][0], {"truncated_vocab_size": 9, "vocab_size": V}, "a part of the vocabulary"),
}


@pytest.mark.parametrize("case", WRONG)
def test_heads_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    tensors, config, words = WRONG[case]
    refused(Path(written(tmp_path / "head", tensors, config)), words)


@pytest.mark.parametrize(("fields", "words"), [
    ({"mask_token_id": 97}, "mask is token 97, which"), ({"mask_token_id": None}, "mask is token None, which"),
    ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": None}, "window of None positions"),
    ({"layer_types": ["sliding_attention"]}, "'windows' of the head is '3', but it has 2 layers")])
def test_blocks_that_do_not_fit_are_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs, sizes = dflash()
    refused(Path(written(tmp_path / "head", theirs.state_dict(), sizes | fields)), words)


def test_variants_that_are_not_known_are_refused(tmp_path: Path) -> None:
    theirs, sizes = dflash()
    own = noise({"prefix_gru.weight_ih_l0": (30, D), "prefix_gru.weight_hh_l0": (30, 10),
                 "embed_proj.0.weight": (7, D + 10), "embed_proj.2.weight": (V, 7)})
    block = renamed(theirs.state_dict(), ZLAB)
    refused(Path(written(tmp_path / "a", block | own, {**sizes, "shift_label": False})), "predict their own places")
    gated = noise({"markov_head.markov_w1.weight": (V, 6), "markov_head.gate_proj.weight": (6, D + 6)})
    refused(Path(written(tmp_path / "b", block | gated, sizes)), "no tensor markov_head.gate_proj.weight")
    early = noise({"hydra_mlp.0.0.linear.weight": (D, 2 * D)})
    refused(Path(written(tmp_path / "c", early, {"hidden_state_offset": 1})), "reads an earlier layer")


def test_only_the_files_of_a_head_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First those that tell what it is, then weights of the first kind that there are."""
    asked = list[list[str]]()
    tensors, *_, config, _ = MEDUSA["own"]

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return written(tmp_path, tensors, config, "pytorch_model.bin") if "*.pt" in allow_patterns else str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    head = trained_head.load("someone/head", loaded())
    assert (head.name, head.card.kind) == ("someone/head", "medusa")
    assert asked == [["head.json", "head.safetensors", "config.json"], ["*_lm_head.safetensors", "*_lm_head.pt"],
                     ["*.safetensors"], ["*.bin", "*.pt"]]


def test_a_file_of_a_head_beside_those_of_a_model_is_read_alone(tmp_path: Path) -> None:
    tensors, *_, config, file = MEDUSA["own"]
    written(tmp_path / "head", {"model.embed_tokens.weight": torch.zeros(V, D)}, config)
    assert trained_head.load(written(tmp_path / "head", tensors, config, file), loaded()).card.kind == "medusa"


def test_the_rest_of_a_whole_model_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, *_, config, file = MEDUSA["whole"]
    read = list[str]()
    one = public_heads._one
    monkeypatch.setattr(public_heads, "_one", lambda file, name: (read.append(name), one(file, name))[1])
    trained_head.load(written(tmp_path / "head", tensors, config, file), loaded())
    assert sorted(read) == sorted(name for name in tensors if name.startswith("medusa_head."))


def test_assumed_ranks_make_a_tree_of_all_depths(tmp_path: Path) -> None:
    tensors, *_, config, file = MEDUSA["own"]
    head = trained_head.load(written(tmp_path / "head", tensors, config, file), loaded())
    assert len(head.card.ranks) == 3
    assert {depth for depth, _ in best_choices(head.card.ranks, 63).nodes} == {0, 1, 2}
