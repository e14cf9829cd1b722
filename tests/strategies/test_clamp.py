"""Steering vectors and neurons: what changes at their site and nowhere else, and answers by plain hooks of torch."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import Watch, changed
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Request
from strategies.clamp import Clamp
from strategies.greedy import Greedy
from strategies.parts.steering import Contrast, Vector, changes, direction, read
from strategies.top_p import TopP
from tests.decode import decode, engine, words
from tests.models import HIDDEN, prompts, tiny_model

ARCHS = ("llama", "gpt2", "opt")
VECTOR = [0.1 * (-1) ** i * (1 + i % 7) for i in range(HIDDEN)]
TEXT = prompts(1, 97, 8)[0] * 2


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=3))


def written(tmp_path: Path, content: object, name: str = "edits.json") -> str:
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return str(path)


def blocks(model: Any) -> nn.ModuleList:
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


@torch.inference_mode()
def states(arch: str, made: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, Tensor]:
    """The states between the layers of one read of TEXT, and the logits, without a cache."""
    names = tuple(f"hidden:{i}" for i in range(4))
    parts = target(arch).parts
    with changed(parts, made), Watch(names).applied_to(parts) as seen:
        logits = parts.model(torch.tensor([TEXT])).logits
    return {**seen, "logits": logits}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_vector_is_added_at_its_site_and_nothing_changes_before_it(arch: str) -> None:
    edits = (Vector(site="hidden:2", vector=tuple(VECTOR)),)
    plain, steered = states(arch, {}), states(arch, changes(edits, 0.5, "add", target(arch)))
    for name in ("hidden:0", "hidden:1"):
        assert torch.equal(steered[name], plain[name])
    assert torch.equal(steered["hidden:2"], plain["hidden:2"] + 0.5 * torch.tensor(VECTOR))
    assert not torch.allclose(steered["logits"], plain["logits"])


def test_a_projection_sets_the_part_along_the_vector_and_leaves_the_rest() -> None:
    unit = torch.tensor(VECTOR) / torch.tensor(VECTOR).norm()
    edits = (Vector(site="hidden:2", vector=tuple(VECTOR)),)
    plain = states("llama", {})["hidden:2"]
    for alpha in (0.0, 1.5):
        found = states("llama", changes(edits, alpha, "project", target()))["hidden:2"]
        length = alpha * float(torch.tensor(VECTOR).norm())
        assert torch.allclose(found @ unit, torch.full(found.shape[:-1], length), atol=1e-4)
        across = plain - (plain @ unit)[..., None] * unit
        assert torch.allclose(found - length * unit, across, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_neuron_is_set_where_its_mlp_ends(arch: str, tmp_path: Path) -> None:
    """With the neuron at 0 the layer is that of a model whose product has zeros for it."""
    given = read(Path(written(tmp_path, [{"site": "neurons:1", "index": 5, "value": 0.0}])))
    assert not isinstance(given, Contrast)
    found = states(arch, changes(given, 1.0, "add", target(arch)))["logits"]
    without = tiny_model(arch, layers=3)
    block: Any = blocks(without)[1]
    last = block.fc2 if arch == "opt" else block.mlp.c_proj if arch == "gpt2" else block.mlp.down_proj
    with torch.inference_mode():
        (last.weight[5] if arch == "gpt2" else last.weight[:, 5]).zero_()
        assert torch.allclose(found, without(torch.tensor([TEXT])).logits, atol=1e-4)
        assert not torch.allclose(found, target(arch).model(torch.tensor([TEXT])).logits, atol=1e-3)


@contextmanager
def added(model: Any, layer: int, shift: Tensor, first: int) -> Iterator[None]:
    """Add a vector after a layer (from 1) to the states from place `first` on, by a hook of torch."""
    def edit(module: object, args: object, output: Any) -> Any:
        whole = (output[0] if isinstance(output, tuple) else output).clone()
        whole[:, first:] += shift
        return (whole, *output[1:]) if isinstance(output, tuple) else whole
    handle = blocks(model)[layer - 1].register_forward_hook(edit)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("since", ["prompt", "answer"])
@pytest.mark.parametrize("arch", ARCHS)
@torch.inference_mode()
def test_answers_are_those_of_plain_hooks_without_a_cache(arch: str, since: str, tmp_path: Path) -> None:
    file = written(tmp_path, [{"site": "hidden:2", "vector": VECTOR}])
    model, differ = tiny_model(arch, layers=3), 0
    for prompt in prompts(4, 97, 5):
        text = list(prompt)
        with added(model, 2, 4 * torch.tensor(VECTOR), 0 if since == "prompt" else len(prompt) - 1):
            for _ in range(12):
                text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        found = decode(Clamp(file=file, alpha=4.0, since=since), target(arch), prompt, new=12, eos=None)
        assert found == text[len(prompt):]
        differ += found != decode(Greedy(), target(arch), prompt, new=12, eos=None)
    assert differ


@pytest.mark.parametrize("since", ["prompt", "answer"])
@torch.inference_mode()
def test_keys_up_to_the_layer_of_the_edit_are_those_of_the_model(since: str, tmp_path: Path) -> None:
    """And those of the session that the strategy was given stay so in all layers."""
    method = Clamp(file=written(tmp_path, [{"site": "hidden:2", "vector": VECTOR}]), since=since)
    session = Session(target())
    session.follow(TEXT)
    session.read()
    size = len(TEXT)
    before = [layer.keys[session.row.index, :, :size].clone() for layer in target().cache.layers]
    request = _request(TEXT)
    steered = method.opened(session, request)
    steered.follow(TEXT)
    steered.read(hook=method.hook(session, request))
    after = [layer.keys[steered.row.index, :, :size] for layer in target().cache.layers]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(after, before, strict=True)]
    assert same == [True, True, False]
    own = [layer.keys[session.row.index, :, :session._sequence.cached] for layer in target().cache.layers]
    assert all(torch.allclose(a, b[:, :a.shape[1]], atol=1e-5) for a, b in zip(own, before, strict=True))
    session.close()


def _request(prompt: list[int]) -> Request:
    return Request(tuple(prompt), 8, PhiloxStream(0), text=words(prompt, 97))


@pytest.mark.parametrize(("content", "knobs"), [
    ([{"site": "hidden:2", "vector": VECTOR}], {"alpha": 0.0}), ([], {}),
    ({"toward": ["t5 t6"], "away": ["t7"]}, {"alpha": 0.0, "since": "prompt"})])
def test_nothing_to_change_is_top_p(content: object, knobs: dict[str, Any], tmp_path: Path) -> None:
    file = written(tmp_path, content)
    for prompt in prompts(3, 97, 6):
        assert decode(Clamp(file=file, **knobs), target(), prompt) == decode(Greedy(), target(), prompt)
        found = decode(Clamp(file=file, temperature=1.0, p=0.8, **knobs), target(), prompt)
        assert found == decode(TopP(p=0.8), target(), prompt)


@torch.inference_mode()
def test_the_vector_of_two_sets_is_the_difference_of_their_means(tmp_path: Path) -> None:
    texts = {"toward": ["t5 t6", "t9 t8 t7"], "away": ["t11", "t12 t13", "t14"]}
    given, encode = read(Path(written(tmp_path, texts))), words([5], 97).encode
    assert isinstance(given, Contrast)

    def after(text: str) -> Tensor:
        found: Tensor = target().model(torch.tensor([encode(text)]), output_hidden_states=True).hidden_states[2][0, -1]
        return found
    toward, away = ([after(text) for text in texts[name]] for name in ("toward", "away"))
    apart = torch.stack(toward).mean(0) - torch.stack(away).mean(0)
    length = sum(float(state.norm()) for state in [*toward, *away]) / 5
    found = torch.tensor(direction(given, 2, encode, target()).vector)
    assert torch.allclose(found, apart / apart.norm() * length, atol=1e-4)
    file = written(tmp_path, [{"site": "hidden:2", "vector": found.tolist()}], "same.json")
    by_texts = Clamp(file=written(tmp_path, texts), layer=2, alpha=2.0)
    for prompt in prompts(3, 97, 5):
        expected = decode(Clamp(file=file, alpha=2.0), target(), prompt)
        assert decode(by_texts, target(), prompt) == expected != decode(Greedy(), target(), prompt)


@torch.inference_mode()
def test_several_answers_at_once_are_those_alone(tmp_path: Path) -> None:
    method = Clamp(file=written(tmp_path, {"toward": ["t5 t6"], "away": ["t7"]}), alpha=1.0, since="prompt")
    jobs = [partial(decode, method, engine_of_its_own(), prompt, new=12) for prompt in prompts(5, 97, 4)]
    together = run_batched([engine_of_its_own()], jobs, 5)
    assert together == [job() for job in jobs]
    assert engine_of_its_own().open_rows == 0


@cache
def engine_of_its_own() -> Engine:
    return engine(tiny_model("llama", layers=2))


@pytest.mark.parametrize("content", [
    {"toward": [], "away": ["x"]}, [{"site": "hidden:0", "vector": [1.0]}], [{"site": "hidden:1", "vector": []}], "x",
    [{"site": "neurons:1", "vector": [1.0]}], [{"site": "hidden:1", "vector": [1.0], "alpha": 3}], {"toward": ["x"]}])
def test_a_file_of_anything_else_is_refused_in_one_sentence(content: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither a list of edits"):
        Clamp(file=written(tmp_path, content))


@pytest.mark.parametrize(("content", "error"), [
    ([{"site": "hidden:1", "vector": [1.0, 2.0]}], "have 2 numbers"),
    ([{"site": "hidden:4", "vector": VECTOR}], "no hidden:4 in a model of 3 layers"),
    ([{"site": "neurons:3", "index": 0, "value": 1}], "no neurons:3 in a model of 3 layers"),
    ([{"site": "neurons:2", "index": 128, "value": 1}], "no neuron 128 in an MLP of 128")])
def test_edits_of_another_model_are_refused(content: object, error: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=error):
        decode(Clamp(file=written(tmp_path, content)), target(), TEXT)


def test_texts_without_a_difference_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give texts that differ"):
        decode(Clamp(file=written(tmp_path, {"toward": ["t5"], "away": ["t5"]})), target(), TEXT)
    with pytest.raises(UserError, match="give file="):
        decode(Clamp(), target(), TEXT)
    with pytest.raises(Unsupported, match="no layer 9"):
        decode(Clamp(file=written(tmp_path, {"toward": ["t5"], "away": ["t6"]}), layer=9), target(), TEXT)
