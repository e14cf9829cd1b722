"""Published block drafters draft what the model of transformers with their tensors gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import cache_utils

from harness.models import trained_head
from tests.public_heads import (
    TEXT,
    ZLAB,
    D,
    Drafts,
    V,
    compare,
    dflash,
    dflash_rows,
    embedded,
    loaded,
    noise,
    renamed,
    written,
)


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
    drafts, cache = Drafts(head, model, [5, 6]), cache_utils.DFlashCache(config=theirs.config)
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
