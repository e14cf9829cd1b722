"""Published heads with a layer of their own draft what layers of transformers with their tensors give."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from harness.models import trained_head
from tests.public_heads import (
    SMALL,
    TEXT,
    D,
    Drafts,
    V,
    attention,
    below,
    compare,
    embedded,
    loaded,
    noise,
    run,
    written,
)


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
