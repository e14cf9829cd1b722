"""Open-ended continuation: documents, where they are cut, which are skipped, and how a run identifies its file."""

import gzip
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from harness.errors import UserError
from harness.measure.compare import compare
from harness.measure.texts import answers_of, text_table
from harness.models.loading import load
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.run.runner import Outcome, run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.pair import saved, tokenizer
from tests.watch import Quiet

BYTES = tokenizer()  # one token a byte
STORY = "The sky was clear and the wind came from the sea. A boat lay on the sand, and nobody was there to see it."


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def found(content: str, file: str = "texts.txt", **knobs: object) -> list[str]:
    raw = content.encode()
    Path(file).write_bytes(gzip.compress(raw) if file.endswith(".gz") else raw)
    spec = ",".join([f"continuation:file={file}", *(f"{key}={value}" for key, value in knobs.items())])
    return [one.turns[0] for one in TASKS.build(spec).examples(DataSource())]


def cut(text: str, prefix: int, target: int, words: PreTrainedTokenizerFast = BYTES) -> Example | None:
    task = TASKS.build(f"continuation:file=x,prefix={prefix},target={target}")
    return task.cut(Example("continuation/0", (text,)), words)


def test_a_document_is_a_line_or_a_block_or_a_row() -> None:
    text = "\n one \ntwo\r\n\n \nthree\u2028four\n"
    assert found(text) == ["one", "two", "three\u2028four"]
    assert found(text, documents="blocks") == ["one \ntwo", "three\u2028four"]
    assert found(text, "texts.txt.gz") == ["one", "two", "three\u2028four"]
    rows = "".join(json.dumps({"text": one, "more": 1}) + "\n" for one in ("one\n\ntwo", " three "))
    for file in ("rows.jsonl", "rows.jsonl.gz"):
        assert found(rows, file) == ["one\n\ntwo", "three"]
        assert found(rows, file, documents="blocks") == ["one\n\ntwo", "three"]


@pytest.mark.parametrize(("text", "prompt", "reference"), [
    ("abcdefghij", "abcd", "efg"), ("ab c d efg", "ab c", " d "), ("abcdefg", "abcd", "efg"),
    ("abcé fgh", "abcé", " f"),  # é is two bytes: the fourth token ends inside it; the seventh is the f
])
def test_where_a_document_is_cut(text: str, prompt: str, reference: str) -> None:
    example = cut(text, 4, 3)
    assert example is not None
    assert (example.turns, example.reference) == ((prompt,), reference)
    assert text.startswith(prompt + reference)


def test_a_document_without_enough_tokens_is_left_out() -> None:
    assert cut("abcdef", 4, 3) is None
    assert cut("abcdefg", 4, 3) is not None


def test_tokens_are_those_of_the_model_under_test() -> None:
    nano = load("nano").tokenizer
    example = cut(STORY, 6, 9, nano)
    assert example is not None
    ids = nano(STORY, add_special_tokens=False)["input_ids"]
    assert nano(example.turns[0], add_special_tokens=False)["input_ids"] == ids[:6]
    assert nano.decode(ids[6:15]) == example.reference
    assert len(example.turns[0]) > 6


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False
    with pytest.raises(UserError, match="needs a model with a fast tokenizer"):
        TASKS.build("continuation:file=x").cut(Example("0", ("a",)), Slow())


def test_the_target_is_the_length_of_an_answer() -> None:
    task = TASKS.build("continuation:file=x,target=77")
    assert task.max_new_tokens == 77
    assert task.spec() == "continuation:file=x,prefix=32,target=77,documents=lines"
    assert TASKS.get("continuation").max_new_tokens == TASKS.build("continuation").max_new_tokens == 128


def start(output: str, spec: str = "continuation:file=texts.txt,prefix=20,target=12", **more: object) -> Outcome:
    config = RunConfig(model=str(saved("llama")), tasks=(spec,), strategies=("top_p",), device="cpu", threads=1,
                       output=Path(output), **more)  # type: ignore[arg-type]
    return run(config, Quiet(), "decodebench run")


def test_a_run_has_references_and_counts_what_is_left_out() -> None:
    Path("texts.txt").write_text("\n".join([STORY, "Short.", STORY[4:], STORY[8:], "Too short as well."]))
    store = Store.open(start("run", limit=3).folder)
    (task,) = store.manifest.tasks
    assert (task.data, task.examples, task.max_new_tokens, task.unscored) == ("texts.txt", 3, 12, "open-ended")
    assert store.manifest.warnings == ["continuation: 1 of 4 examples are too short and left out."]
    records = list(store.records())
    assert {record.example for record in records} == {"continuation/0", "continuation/2", "continuation/3"}
    assert {record.turns[0].prompt_tokens for record in records} == {20}
    assert {record.turns[0].prompt for record in records} == {STORY[i:i + 20] for i in (0, 4, 8)}
    table = text_table(store, answers_of(store)).set_index("strategy")
    assert list(table["texts"]) == [3, 3, 3]
    assert table.loc["reference", "tokens"] == 12
    assert table["mauve"].notna().sum() == 2
    assert table[["rep_4", "coherence", "perplexity", "cosine"]].loc["reference"].notna().sum() >= 3


@pytest.mark.parametrize("changed", [STORY.replace("sky", "sea"), STORY[:20] + STORY[20:].replace("wind", "rain")],
                         ids=["prompt", "reference"])
def test_another_text_under_the_same_name_is_another_run(changed: str) -> None:
    Path("texts.txt").write_text(STORY)
    before = start("run")
    assert start("run").samples == before.samples == 2
    Path("texts.txt").write_text(changed)
    with pytest.raises(UserError, match="run holds another run"):
        start("run")
    start("other")
    with pytest.raises(UserError, match="cannot be compared, because they differ in"):
        compare(Store.open(Path("run")), Store.open(Path("other")))


def test_what_stands_behind_the_reference_is_no_part_of_the_run() -> None:
    Path("texts.txt").write_text(STORY)
    start("run")
    Path("texts.txt").write_text(STORY + " More.")
    start("run")


@pytest.mark.parametrize(("spec", "words"), [
    ("continuation", "continuation needs a text file"),
    ("continuation:file=absent.txt", "There is no file absent.txt"),
    ("continuation:file=texts.txt,prefix=200", "No example of continuation:file=texts.txt,prefix=200,target=128"),
    ("continuation:file=texts.txt,prefix=0", "continuation: knob 'prefix' must be at least 1, not 0."),
])
def test_what_is_refused(spec: str, words: str) -> None:
    Path("texts.txt").write_text(STORY)
    with pytest.raises(UserError) as caught:
        start("run", spec)
    assert str(caught.value).startswith(words)
    assert not Path("run").exists()


def test_a_file_below_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "wiki").mkdir(parents=True)
    (tmp_path / "data" / "wiki" / "test.txt").write_text(STORY)
    spec = "continuation:file=wiki/test.txt,prefix=20,target=12"
    store = Store.open(start("run", spec, data=tmp_path / "data").folder)
    assert store.manifest.tasks[0].data == str(tmp_path / "data" / "wiki" / "test.txt")
