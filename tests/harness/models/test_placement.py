"""Layers are given to devices by their bytes, and a model that transformers places there loads as any other."""

import importlib.util
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM, modeling_utils

from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models import spread
from harness.models.loading import Model, find, load
from harness.models.size import meta_model
from harness.models.spread import placed
from harness.plugins.strategy import Request
from harness.store.config import RunConfig
from strategies.greedy import Greedy
from tests.models import tiny_model
from tests.pair import saved
from tests.program import call


def parts(arch: str = "llama", layers: int = 6) -> tuple[torch.nn.Module, int, int]:
    """Return a tiny model, the bytes of each of its layers, and of all else."""
    model = tiny_model(arch, layers=layers)
    whole = sum(weight.nbytes for weight in model.parameters())
    stack = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    layer = sum(weight.nbytes for weight in stack[0].parameters())
    return model, layer, whole - layers * layer


def counts(devices: dict[str, str]) -> Counter[str]:
    """Return the number of layers on each device."""
    return Counter(device for name, device in devices.items() if name.rpartition(".")[2].isdigit())


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_balanced_devices_hold_equally_much_and_sequential_ones_are_filled(arch: str) -> None:
    model, layer, rest = parts(arch)
    room = {"cuda:0": rest + 5 * layer, "cuda:1": 9 * layer, "cuda:2": 9 * layer}
    assert counts(placed(model, "sequential", room)) == {"cuda:0": 5, "cuda:1": 1}
    even = placed(model, "auto", room)
    assert even == placed(model, "balanced", room)
    held = Counter({device: layer * number for device, number in counts(even).items()})
    held["cuda:0"] += rest
    assert max(held.values()) < (rest + 6 * layer) / 3 + layer
    assert {even[name] for name in even if not name.rpartition(".")[2].isdigit()} == {"cuda:0"}
    covered = tuple(f"{name}." for name in even)
    assert all(name.startswith(covered) for name, _ in model.named_parameters())


def test_a_device_holds_no_more_than_its_room() -> None:
    model, layer, rest = parts()
    assert counts(placed(model, "auto", {"a": rest, "b": 6 * layer})) == {"b": 6}
    assert counts(placed(model, "auto", {"a": rest + layer, "b": layer, "c": 4 * layer})) == {"a": 1, "b": 1, "c": 4}
    for room in ({"a": rest - 1, "b": 9 * layer}, {"a": rest, "b": 6 * layer - 1}):
        with pytest.raises(UserError, match=r"^6 layers of .* do not fit into .* \+ .* GB; give --dtype bfloat16"):
            placed(model, "auto", room)


def test_transformers_places_each_layer_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's device without contents as the second one, on which accelerate would offload the first."""
    monkeypatch.setattr(modeling_utils, "accelerate_dispatch", lambda *_: None)
    folder = str(saved("llama"))
    model = meta_model(find(folder)[1])
    devices = placed(model, "auto", {"cpu": 1 << 30})
    name = next(name for name in devices if name.endswith("layers.0"))
    made = AutoModelForCausalLM.from_pretrained(folder, device_map=devices | {name: "meta"})
    assert {key for key, weight in made.named_parameters() if weight.is_meta} == {
        key for key, _ in model.named_parameters() if key.startswith(f"{name}.")}


def test_the_hooks_of_accelerate_give_way_to_the_harness_s_own() -> None:
    model, tokens = tiny_model("llama", layers=2), torch.tensor([[5, 6, 7]])
    wanted = model(tokens).logits
    dispatch_model(model, placed(model, "auto", {"cpu": 1 << 30}), force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in model.modules())
    spread.join(model)
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    assert torch.equal(model(tokens).logits, wanted)


def text(model: Model) -> list[int]:
    """Return a greedy continuation."""
    steps = Greedy().generate(Session(model.engine), Request((5, 6, 7), 12, PhiloxStream(0)))
    return [token for step in islice(steps, 12) for token in step]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_map_of_the_cpu_alone_changes_nothing(arch: str) -> None:
    plain, mapped = (load(str(saved(arch)), device_map=kind) for kind in ("", "auto"))
    assert text(mapped) == text(plain)
    assert mapped.fingerprint == plain.fingerprint
    assert mapped.engine.devices == {torch.device("cpu")}


def test_a_run_takes_a_device_map(tmp_path: Path) -> None:
    run = ("run", "-m", saved("llama"), "-s", "greedy", "-t", "nano_math", "--limit", 1, "--max-new-tokens", 4)
    done = call(*run, "--device-map", "auto", "-o", tmp_path / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert '"device_map": "auto"' in (tmp_path / "run" / "manifest.json").read_text()


def test_accelerate_is_asked_for_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"accelerate: pip install 'decodebench\[large\]'$"):
        load(str(saved("llama")), device_map="auto")


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"device_map": "automatic"}, r"There is no device map 'automatic'.*auto"),
    ({"device_map": "auto", "backend": "vllm"}, "--engine tensor_parallel_size=2"),
    ({"device_map": "auto", "device": "cuda:1"}, "leave --device out, and set CUDA_VISIBLE_DEVICES"),
    ({"device_map": "auto", "compile": True}, "leave it or --device-map out"),
])
def test_options_that_contradict_a_device_map_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        RunConfig(**settings)  # type: ignore[arg-type]
