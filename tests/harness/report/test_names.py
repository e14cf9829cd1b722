"""Names in reports: a task file is called by its own name, and no line of a terminal ends inside a word."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from harness import report
from harness.measure.compare import compare
from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES
from harness.plugins.task_names import task_names
from harness.report import compare as compared
from harness.report import plots, tables, verify
from harness.report.names import narrowest, of_strategy, wrapped
from harness.store.folder import Store
from harness.store.schema import Stop
from harness.verify.results import Report, StrategyResult
from tests.pages import index_and_blocks
from tests.runs import manifest, record, strategy, task, turn, write

FILE = "task_file:file=deep/prompts.jsonl"


@pytest.mark.parametrize(("specs", "names", "short"), [
    ([FILE], ["prompts"], ["prompts"]),
    ([f"{FILE},checker=number"], ["prompts:checker=number"], ["prompts"]),
    ([FILE, f"{FILE},checker=number"], ["prompts", "prompts:checker=number"], ["prompts", "prompts:checker=number"]),
    ([FILE, "task_file:file=prompts.csv"], [FILE, "task_file:file=prompts.csv"], [FILE, "task_file:file=prompts.csv"]),
    (["gsm8k", "task_file:file=gsm8k.jsonl"], ["gsm8k", "task_file:file=gsm8k.jsonl"], ["gsm8k", "task_file"]),
    (["task_file:file=a: b.jsonl.gz", "gsm8k"], ["a: b", "gsm8k"], ["a: b", "gsm8k"]),
    (["continuation:file=a.txt,prefix=8"], ["continuation:file=a.txt,prefix=8"], ["continuation"]),
])
def test_a_task_file_is_called_by_its_own_name(specs: list[str], names: list[str], short: list[str]) -> None:
    assert list(task_names(specs).items()) == list(zip(specs, names, strict=True))
    assert list(tables.with_short_tasks(pd.DataFrame({"task": specs}))["task"]) == short


def run(folder: Path, stops: Sequence[Stop], spec: str = FILE) -> Store:
    """Write a run of two strategies, whose answers end for these reasons, on one task."""
    described = manifest([strategy("greedy"), strategy("top_p:p=0.9", "sampling")], [task(spec, unscored="no answers")])
    return write(folder, described, [
        record(spec, f"prompts/{number // 2}", ("greedy", "top_p:p=0.9")[number % 2], [turn([1], [0.1], stop=stop)])
        for number, stop in enumerate(stops)])


def printed(table: object, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_every_report_shows_the_name_and_keeps_the_spec_for_commands(tmp_path: Path) -> None:
    store = run(tmp_path / "run", ["eos"] * 4)
    index = report.write([store], tmp_path / "report").page
    page = index.read_text(encoding="utf-8")
    assert "<h2>prompts</h2>" in page
    assert f"-t {FILE}" in page
    assert all(f"-t {FILE}" in line or "command" in line for line in page.splitlines() if "task_file" in line)
    assert index_and_blocks([store])[0]["cells"][0]["task"] == "prompts"
    assert "### prompts\n" in (index.parent / "summary.md").read_text(encoding="utf-8")
    assert f"{FILE},greedy" in (index.parent / "summary.csv").read_text(encoding="utf-8")
    assert plots.speedups(summarise(store), FILE).axes[0].get_title("left") == "prompts: speed-up"
    change = compare(store, Store.open(store.folder))
    for text in (printed(tables.terminal(summarise(store), store.manifest)), printed(compared.terminal(change)),
                 compared.markdown(change)):
        assert "prompts" in text
        assert "task_file" not in text


@pytest.mark.parametrize(("stops", "whose"), [
    (["length"] * 4, "every strategy"), (["length", "eos", "context", "eos"], "greedy"),
    (["length", "eos", "eos", "length"], None)])
def test_a_note_says_that_every_answer_was_cut(stops: Sequence[Stop], whose: str | None, tmp_path: Path) -> None:
    words = f"prompts: every answer of {whose} ended at the token or context limit; raise --max-new-tokens to see " \
        "whole answers"
    notes = [note for note in tables.notes(summarise(run(tmp_path / "run", stops))) if "limit" in note]
    assert notes == ([words] if whose else [])


def test_texts_of_a_fixed_length_need_no_note(tmp_path: Path) -> None:
    notes = tables.notes(summarise(run(tmp_path / "run", ["length"] * 4, "nano_story")))
    assert notes == ["nano_story has no quality: no answers"]


@pytest.mark.parametrize(("text", "width", "lines"), [
    ("prompt_lookup", 13, ["prompt_lookup"]), ("prompt_lookup", 12, ["prompt_", "lookup"]),
    ("top_p p=0.9 max_tokens=4", 14, ["top_p p=0.9", "max_tokens=4"]),
    ("speculative:gamma=4+typical", 13, ["speculative:", "gamma=4+", "typical"]),
    ("a/long/path.jsonl", 10, ["a/long/", "path.jsonl"]), ("", 12, [""]),
    ("temperature+best_of_n n=4 score=mean", 14, ["temperature+", "best_of_n n=4", "score=mean"]),
    ("greedy\n2 of 3 failed", 6, ["greedy", "2 of 3", "failed"]),
])
def test_lines_end_after_a_sign_and_never_inside_a_word(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(Text(text), width).plain.split("\n") == lines


def test_the_names_of_all_strategies_fit_a_narrow_column() -> None:
    names = [of_strategy(STRATEGIES.build(name).spec()) for name in STRATEGIES.built_in()]
    assert max(cell_len(line) for name in names for line in wrapped(name, 13).plain.split("\n")) <= 13
    assert narrowest(names, longest=0) <= 13


@pytest.mark.parametrize(("text", "width"), [
    ("top_p p=0.95", 6), ("repetition_penalty", 18), ("speculative_contrastive", 12), ("x" * 50, 18), ("", 0)])
def test_a_column_has_room_for_whole_words_unless_they_are_long(text: str, width: int) -> None:
    assert narrowest([Text(text)]) == width


def test_lines_keep_their_styles_and_a_note_is_red() -> None:
    name = wrapped(of_strategy("a:k=1", "2 of 3 failed"), 6)
    assert name.plain == "a k=1\n2 of 3\nfailed"
    assert [(name.plain[span.start:span.end], span.style) for span in name.spans] == [
        ("2 of 3", "red"), ("failed", "red")]


@pytest.mark.parametrize(("width", "third"), [(80, ["speculative_contrastive"]), (60, ["speculative_", "contrastive"])])
def test_the_table_of_verify_shows_p_values(width: int, third: list[str]) -> None:
    findings = [StrategyResult(strategy=f"{name}:temperature=0,p=1", temperature=temperature, verdict=verdict, ok=True,
                               total=96, tau=1.5, p_value=p)
                for name in ("prompt_lookup", "suffix_decoding", "speculative_contrastive")
                for temperature, verdict, p in (("0", "same tokens", None), ("0.7, p=0.9", "distribution kept", 3e-7))]
    shown = printed(verify.terminal(Report(model="nano", draft=None, dtype="float32", concurrency=8, seed=0, tokens=96,
                                           findings=findings, skipped={})), width)
    assert max(map(len, shown.splitlines())) <= width
    assert ("prefix" in shown, "margin" in shown) == (False, False), "columns without any value"
    for part in ("p-value", "3e-07", "96 samples", "Holm's p is below 0.001"):
        assert part in " ".join(shown.split())
    firsts = [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert [word for word in firsts if "_" in word or word in ("lookup", "contrastive", "decoding")] == [
        "prompt_lookup", "suffix_decoding", *third]
