"""Spec-Bench: its rows, its six sub-tasks, and that the report shows each by itself."""

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from harness import report
from harness.errors import UserError
from harness.measure.parts import part_table
from harness.measure.raw import Raw, read
from harness.models.loading import Model
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.report import detail, texts
from harness.run.selection import ChosenTask, first_examples
from harness.store.folder import Store
from harness.store.schema import Record
from tests import realdata, runs

SUB_TASKS = ["mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"]
NO_MODEL = cast(Model, SimpleNamespace(tokenizer=None))
GREEDY, DRAFT = "greedy", "prompt_lookup"


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


def row(number: int, category: str, **more: Any) -> dict[str, Any]:
    return {"question_id": number, "category": category, "turns": ["Hello."], **more}


def examples(folder: Path, rows: list[dict[str, Any]], spec: str = "spec_bench") -> list[Example]:
    (folder / "spec_bench").mkdir(exist_ok=True)
    content = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "spec_bench" / "question.jsonl").write_text(content, encoding="utf-8")
    return TASKS.build(spec).examples(DataSource(folder))


ROWS = [row(81, "writing", turns=["Hello.", "Again."]), row(111, "math", reference=["3", "5pi"]),
        row(161, "translation", reference=["The sky."]), row(481, "rag", reference=[["a", "b"]])]


def test_rows_keep_their_category_and_their_references(tmp_path: Path) -> None:
    found = examples(tmp_path, ROWS)
    assert [one.category for one in found] == ["writing", "math", "translation", "rag"]
    assert found[0] == Example("spec_bench/81", ("Hello.", "Again."), {"reference": []}, "writing")
    assert [one.gold["reference"] for one in found[1:]] == [["3", "5pi"], ["The sky."], [["a", "b"]]]


def test_a_part_is_one_sub_task(tmp_path: Path) -> None:
    for part, numbers in (("mt_bench", [81, 111]), ("rag", [481]), ("all", [81, 111, 161, 481])):
        found = examples(tmp_path, ROWS, f"spec_bench:part={part}")
        assert [one.id for one in found] == [f"spec_bench/{number}" for number in numbers]
    with pytest.raises(UserError, match="knob 'part' must be one of all, mt_bench, translation"):
        TASKS.build("spec_bench:part=writing")


@pytest.mark.parametrize(("bad", "reason"), [
    (row(5, "cooking"), "the category 'cooking' is none of writing, roleplay"),
    (row(5, "qa", turns=[]), "the field 'turns' is empty"),
    (row(5, "qa", reference="a"), "the field 'reference' must be a list of texts, or of lists of texts"),
    (row(81, "qa"), "the question_id 81 was used before, in line 1"),
])
def test_bad_rows(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"question.jsonl, line 5: {reason}"):
        examples(tmp_path, [*ROWS, bad])


def test_a_limit_takes_the_sub_tasks_in_turn() -> None:
    task, rows = TASKS.build("spec_bench"), (("a", "writing"), ("b", "math"), ("c", "qa"), ("d", "rag"), ("e", "qa"))
    found = ChosenTask(task, tuple(Example(name, ("?",), category=kind) for name, kind in rows), DataSource(None))
    for limit, kept in ((None, "abcde"), (1, "a"), (3, "acd"), (4, "acdb"), (9, "acdbe")):
        assert "".join(one.id for one in first_examples(found, NO_MODEL, limit).examples) == kept


@realdata.needs_real_data
def test_a_limit_of_real_rows_takes_all_sub_tasks() -> None:
    for name, count, share in (("spec_bench", 12, 2), ("mt_bench", 40, 5), ("spec_bench:part=rag", 12, 12)):
        task = TASKS.build(name)
        rows = ChosenTask(task, tuple(task.examples(DataSource(realdata.folder()))), DataSource(realdata.folder()))
        found = Counter((task.sub_tasks or {}).get(one.category, one.category)
                        for one in first_examples(rows, NO_MODEL, count).examples)
        assert (found.total(), set(found.values())) == (count, {share}), name


@realdata.needs_real_data
def test_real_rows_are_the_published_ones() -> None:
    source, task = DataSource(realdata.folder()), TASKS.build("spec_bench")
    found = task.examples(source)
    assert source.warnings == []
    parts = [(task.sub_tasks or {}).get(one.category, one.category) for one in found]
    assert Counter(parts) == dict.fromkeys(SUB_TASKS, 80)
    assert list(dict.fromkeys(parts)) == SUB_TASKS
    assert [one.id for one in found] == [f"spec_bench/{number}" for number in range(81, 561)]
    assert [len(one.turns) for one in found] == [2] * 80 + [1] * 400
    assert Counter(part for part, one in zip(parts, found, strict=True) if one.gold["reference"]) == {
        "mt_bench": 39, "translation": 80, "summarization": 80, "math_reasoning": 80, "rag": 80}


@realdata.needs_real_data
def test_its_mt_bench_is_mt_bench() -> None:
    ours = TASKS.build("spec_bench:part=mt_bench").examples(DataSource(realdata.folder()))
    theirs = TASKS.build("mt_bench").examples(DataSource(realdata.folder()))
    assert [one.category for one in ours] == [one.category for one in theirs]
    same = sum(one.turns == other.turns for one, other in zip(ours, theirs, strict=True))
    assert same == 80


def sample(number: int, part: str, spec: str, seconds: float, per_step: int) -> Record:
    """Twelve tokens, the first in a step of its own; `accepted` is one less than what a step kept."""
    steps = [1, *[per_step] * (11 // per_step), *([11 % per_step] if 11 % per_step else [])]
    one = runs.turn(steps, [seconds / len(steps)] * len(steps), drafted=[0] + [4] * (len(steps) - 1),
                    accepted=[max(0, n - 1) for n in steps])
    return runs.record("spec_bench:part=all", str(number), spec, [one]).model_copy(update={"category": part})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Drafting is 4 times as fast on rag and half as fast on qa; greedy takes 12 s for 12 tokens."""
    entry = runs.task("spec_bench:part=all", unscored="not scored").model_copy(update={"sub_tasks": {"writing": "qa"}})
    other = runs.task("nano_chat")
    entries = [runs.strategy(GREEDY), runs.strategy(DRAFT, "speculative")]
    records = [sample(i, part, spec, seconds, per_step) for i, part in enumerate(["rag", "rag", "writing"])
               for spec, seconds, per_step in ((GREEDY, 12.0, 1), (DRAFT, 3.0 if part == "rag" else 24.0,
                                                                   4 if part == "rag" else 2))]
    records.append(runs.record("nano_chat", "x", GREEDY, [runs.turn([1], [1.0])]).model_copy(
        update={"category": "writing"}))
    return runs.write(tmp_path / "run", runs.manifest(entries, [entry, other]), records)


def test_figures_of_each_sub_task(store: Store) -> None:
    table = part_table(store, read(store)).set_index(["part", "strategy"])
    assert list(dict.fromkeys(table.index.get_level_values("part"))) == ["rag", "qa", "overall"]
    assert set(table["task"]) == {"spec_bench:part=all"}

    def figures(part: str) -> list[float]:
        return [float(table.loc[part, DRAFT][name]) for name in
                ("samples", "tokens_per_second", "speedup", "tau_pooled", "accept_rate")]
    assert figures("rag") == pytest.approx([2, 4.0, 4.0, 11 / 3, 8 / 12])
    assert figures("qa") == pytest.approx([1, 0.5, 0.5, 11 / 6, 5 / 24])
    assert figures("overall") == pytest.approx([3, 36 / 30, 2.0, 33 / 12, 21 / 48])  # (4 x 4 / 2) ** (1 / 3) = 2


def test_tasks_without_sub_tasks_have_no_such_table(store: Store) -> None:
    plain = store.manifest.model_copy(update={"tasks": [store.manifest.tasks[1]]})
    assert part_table(Store(store.folder, plain), read(store)).empty


def test_one_sub_task_alone_has_no_such_table(store: Store) -> None:
    raw = read(store)
    assert part_table(store, Raw(raw.samples[raw.samples["category"] == "rag"], {})).empty


def test_every_report_shows_the_sub_tasks(store: Store, tmp_path: Path) -> None:
    page = report.write([store], tmp_path / "report").page
    found = detail.collect([store]).sections
    assert found[0].kind is detail.PARTS
    console = Console(file=io.StringIO(), width=80)
    console.print(texts.terminal(found[0]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    html, markdown = page.read_text(), (tmp_path / "report" / "summary.md").read_text()
    for part in ("rag", "qa", "overall"):
        assert f"spec_bench: {part}" in shown
        assert f"### spec_bench:part=all: {part}: Sub-tasks" in markdown
        assert f"<summary>Sub-tasks: {part}</summary>" in html
    lines = (tmp_path / "report" / "parts.csv").read_text().splitlines()
    assert lines[0].endswith(",part")
    assert [line.rpartition(",")[2] for line in lines[1:]] == ["rag", "rag", "qa", "qa", "overall", "overall"]
