"""Published heads that read the last hidden state only draft what a plain computation with their tensors gives."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaModel

from harness.models import trained_head
from harness.models.loading import Model
from tests.public_heads import MEDUSA, TEXT, D, Drafts, Tensors, V, compare, embedded, loaded, noise, written


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
