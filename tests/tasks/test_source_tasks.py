"""Translations, summaries and texts about facts: their files, prompts and scores, and the scores of a whole run."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics.bleu import BLEU

from harness.errors import UserError
from harness.measure.summary import summarise
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task
from harness.store.folder import Store
from tests.program import call

PAIRS = [("One cat.", "Eine Katze."), ("Two {} dogs.", "Zwei Hunde."), ("A red apple.", "Ein roter Apfel."),
         ("Tom has a hat.", "Tom hat einen Hut.")]
QUESTION = "Translate from English to German.\nEnglish: Two {} dogs.\nGerman:"
FACTS = ('\ufeffmr,ref\n"name[Blue Spice], food[French]",Blue Spice is French.\n'
         '"name[Mill], area[riverside]",The Mill.\n"name[Blue Spice], food[French]","Blue Spice, a French place."\n')


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def written(name: str, content: str) -> Path:
    path = Path("data") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def lines(name: str, *texts: str) -> Path:
    return written(name, "".join(f"{text}\n" for text in texts))


def rows(name: str, *many: dict[str, Any]) -> Path:
    return lines(name, *map(json.dumps, many))


def parallel(end: str = "") -> None:
    lines(f"wmt/test.src{end}", *(one for one, _ in PAIRS))
    lines(f"wmt/test.ref{end}", *(other for _, other in PAIRS))


def examples(spec: str) -> tuple[Task, list[Example]]:
    task = TASKS.build(spec)
    return task, task.examples(DataSource(Path("data")))


def refused(spec: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        examples(spec)
    assert reason in str(error.value)


def test_sentences_are_lines_or_rows() -> None:
    parallel()
    task, found = examples("translation")
    assert [task.prompt(found[1], []), found[1].gold["references"]] == [QUESTION, ["Zwei Hunde."]]
    assert len(found) == 4
    rows("wmt/test.jsonl", *({"translation": {"de": de, "en": en}} for en, de in PAIRS))
    assert examples("translation")[1] == found
    lines("my/dev.src.gz", PAIRS[1][0])
    lines("my/dev.ref.gz", PAIRS[1][1])
    assert examples("translation:file=my/dev.src")[1][0].turns == found[1].turns


@pytest.mark.parametrize(("knobs", "prompt", "stop"), [
    ("form=text", QUESTION, ("\n",)), ("form=source", "Two {} dogs.", ()),
    ("form=chat", [{"role": "user", "content": QUESTION}], ()),
    ("prefix=translate English to German:", "translate English to German: Two {} dogs.", ()),
    ("pair=English-Klingon", QUESTION.replace("German", "Klingon"), ("\n",))])
def test_a_source_is_asked_about_in_several_ways(knobs: str, prompt: Any, stop: tuple[str, ...]) -> None:
    parallel()
    task, found = examples(f"translation:{knobs}")
    assert task.prompt(found[1], []) == prompt
    assert task.stop == stop


def test_the_target_language_decides_how_words_are_counted() -> None:
    for pair, tokenizer in (("en-de", "13a"), ("en-zh", "zh"), ("de-ja", "char"), ("zh-en", "13a")):
        assert f"tok:{tokenizer}|" in TASKS.build(f"translation:pair={pair}").corpus["bleu"]
    assert "tok:intl|" in TASKS.build("translation:pair=en-zh,tokenizer=intl").corpus["bleu"]
    with pytest.raises(UserError, match="must be two languages"):
        TASKS.build("translation:pair=en")
    rows("wmt/test.jsonl", {"translation": {"en": "I like apples.", "zh": "我喜欢苹果。"}})
    task, (one,) = examples("translation:pair=en-zh")
    assert task.sums(one, ["我喜欢苹果。"])["bleu"][0] == 6, "each character is a word"
    assert task.score(one, [" 我喜欢苹果。\n"]) == pytest.approx({"chrf": 1, "sentence_bleu": 1})


def test_files_of_unequal_length_and_empty_lines_are_refused() -> None:
    Path("data").mkdir()
    refused("translation", "There is no file wmt/test.jsonl or wmt/test.src, neither in")
    lines("wmt/test.src", "a", "b")
    refused("translation", "data/wmt/test.ref cannot be read: No such file")
    lines("wmt/test.ref", "A")
    refused("translation", "data/wmt/test.src, line 2: data/wmt/test.ref has no line 2; give both")
    lines("wmt/test.ref", "A", "B", "C")
    refused("translation", "data/wmt/test.ref, line 3: data/wmt/test.src has no line 3; give both")
    lines("wmt/test.ref", "A", " ")
    refused("translation", "data/wmt/test.src, line 2: the field 'reference' is empty")
    rows("wmt/test.jsonl", {"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "a", "fr": "b"}})
    refused("translation", "line 2: the field 'translation' must be an object with texts as 'en' and 'de'.")


def test_articles_have_the_fields_of_their_data_set() -> None:
    rows("xsum/test.jsonl", {"document": "Tom ran.\nHe won.\n", "summary": "Tom won.", "id": "7"})
    rows("cnn_dailymail/test.jsonl", {"article": "Tom ran.", "highlights": "Tom ran .\nHe won .", "id": "8"})
    task, (one,) = examples("summarisation")
    assert (one.id, task.prompt(one, []), task.stop) == ("xsum/7", "Tom ran.\nHe won.\n\nSummary:", ("\n\n",))
    assert task.score(one, [" Tom won!"]) == {"rouge_1": 1, "rouge_2": 1, "rouge_lsum": 1}
    task, (other,) = examples("summarisation:part=cnn_dailymail,prefix=summarize:")
    assert task.prompt(other, []) == "summarize: Tom ran."
    assert task.score(other, ["He won.\nTom ran."])["rouge_lsum"] == 1
    refused("summarisation:part=cnn_dailymail,file=xsum/test.jsonl", "line 1: the field 'article' is missing")


def test_rows_of_equal_facts_are_references_of_one_problem() -> None:
    path = written("e2e/testset_w_refs.csv", FACTS)
    task, (one, other) = examples("e2e")
    assert one.gold["references"] == ["Blue Spice is French.", "Blue Spice, a French place."]
    assert one.gold["slots"] == [["name", "Blue Spice"], ["food", "French"]]
    assert task.expected(one) == "Blue Spice is French.\nBlue Spice, a French place."
    assert other.gold["references"] == ["The Mill."]
    assert str(task.prompt(one, [])).startswith("Facts: name[Blue Spice], food[French]\n")
    assert task.score(one, ["Blue Spice, a French place."]) == pytest.approx(
        {"faultless": 1, "missing": 0, "repeated": 0, "wrong": 0, "chrf": 1, "sentence_bleu": 1})
    assert task.score(other, ["The Mill is Italian."])["faultless"] == 0
    assert task.sums(other, ["The Mill is Italian."])["ser"] == [2, 2]
    path.write_text(FACTS + "name Mill,The Mill.\n")
    refused("e2e", "data/e2e/testset_w_refs.csv, line 5: the field 'mr' must be slots with their values")
    path.write_text(FACTS + '"food[French], food[Thai]",Food.\n')
    refused("e2e", "line 5: the field 'mr' has a slot twice")


def test_a_run_shows_the_scores_of_the_whole_corpus() -> None:
    parallel()
    written("e2e/testset_w_refs.csv", FACTS)
    done = call("run", "-m", "nano", "-t", "translation", "-t", "e2e", "-s", "greedy", "--data", "data",
                "--max-new-tokens", 8, "-o", "run")
    assert done.exit_code == 0, done.output
    store = Store.open(Path("run"))
    texts = {one.example: one.turns[0].text.strip() for one in store.records() if one.task.startswith("translation")}
    summary = summarise(store)
    row = summary.iloc[0]
    answers = [texts[f"translation/{number}"] for number in range(1, 5)]
    wanted = BLEU().corpus_score(answers, [[other for _, other in PAIRS]])
    assert row["corpus_bleu"] == pytest.approx(wanted.score)
    assert row["corpus_bleu_low"] <= row["corpus_bleu"] <= 100
    assert row["quality"] == pytest.approx(
        sum(one.scores["chrf"] for one in store.records() if one.example in texts) / 4)
    report = Path("run/report/summary.md").read_text()
    assert "| BLEU | chrF | SER |" in report
    assert "- translation: BLEU = sacrebleu, nrefs:1\\|case:mixed\\|" in report
    assert summary.iloc[1]["corpus_ser"] == pytest.approx(
        25 * sum(one.sums["ser"][0] for one in store.records() if one.sums.get("ser")))
    assert "corpus" not in store.manifest.identity()["tasks"][0], "another version of sacrebleu may go on with the run"
