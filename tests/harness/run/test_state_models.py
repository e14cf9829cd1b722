"""Models that carry a state are loaded and run as others are; what needs attention is a cell that says so."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from harness.engine.offers import MISSING
from harness.engine.state import StateEngine
from harness.errors import UserError
from harness.models.loading import load, outline
from harness.models.size import size_of
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.pair import saved, tokenizer
from tests.recurrent import LONGEST, tiny
from tests.watch import Quiet


@cache
def folder(name: str) -> str:
    """The folder of a saved tiny model with a tokenizer of bytes."""
    place = Path(mkdtemp(prefix="decodebench-state-"))
    tiny(name, vocab_size=len(tokenizer())).save_pretrained(place)
    tokenizer().save_pretrained(place)
    return str(place)


def decoded(place: Path, model: str, names: tuple[str, ...], **more: object) -> Store:
    config = RunConfig(model=model, tasks=("nano_edit",), strategies=names, limit=4, max_new_tokens=8, device="cpu",
                       threads=1, output=place, **more)  # type: ignore[arg-type]
    assert run(config, Quiet(), "decodebench run").failed == 0
    return Store.open(place)


@pytest.mark.parametrize("name", ["Mamba", "GraniteMoeHybrid"])
def test_a_model_is_known(name: str) -> None:
    model = load(folder(name))
    assert isinstance(model.engine, StateEngine)
    assert (model.engine.forwards, model.engine.open_rows) == (0, 0)
    assert model.engine.chunks == (name != "Mamba")
    assert size_of(outline(folder(name)).engine.model, LONGEST).token == 3 * 32 * 4  # bytes: a vector for each layer
    for option in ("device_map", "compiled"):
        with pytest.raises(UserError, match=r"carries a state from token to token .*; leave --.* out"):
            load(folder(name), device="cpu", **{option: "auto" if option == "device_map" else True})  # type: ignore[arg-type]


def test_the_batch_size_and_shared_prompts_change_no_token(tmp_path: Path) -> None:
    names = ("greedy", "prompt_lookup", "speculative:gamma=2", "beam:width=2", "top_p")
    found = list[dict[tuple[str, str], list[int]]]()
    for size in (1, 8):
        store = decoded(tmp_path / str(size), folder("GraniteMoeHybrid"), names, concurrency=size,
                        draft=folder("Mamba2"))
        found.append({(record.strategy, record.example): record.turns[0].tokens for record in store.records()})
    assert found[0] == found[1]
    assert len(found[0]) == 5 * 4


def test_what_needs_attention_is_a_cell(tmp_path: Path) -> None:
    store = decoded(tmp_path / "run", folder("Mamba2"), ("greedy", "greedy+window", "dola", "greedy+read_twice"),
                    draft=str(saved("llama")))
    refused = {entry.spec.partition(":")[0]: entry.unsupported for entry in store.manifest.strategies}
    assert refused.pop("greedy") is None
    assert {reason for spec, reason in refused.items() if "window" in spec} == {MISSING["attention"]}
    assert {reason for spec, reason in refused.items() if "dola" in spec} == {
        "watches or changes a model layer by layer, and layers of this one carry a state"}
    assert {reason for spec, reason in refused.items() if "read_twice" in spec} == {None}
