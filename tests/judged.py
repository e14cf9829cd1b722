"""A finished artificial MT-Bench run with its own questions, prompts and references, for tests of judges."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.judge.endpoint import Endpoint
from harness.judge.judging import JudgePlan, examples_of, plan, request_verdicts
from harness.judge.prompts import BLANKS, Prompts
from harness.judge.verdicts import Mode, Verdict
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import NO_JUDGE, data_hash
from harness.store.folder import Store
from tests.runs import manifest, record, strategy, task, turn, write

CATEGORIES = ("writing", "math", "stem")
Answers = Mapping[str, Sequence[tuple[str, str]]]


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def data(folder: Path, count: int) -> Path:
    """Write a data folder with `count` questions, every third with a reference answer."""
    questions = [{"question_id": 81 + n, "category": CATEGORIES[n % 3], "turns": [f"First {n}?", f"Second {n}?"]}
                 for n in range(count)]
    lines(folder / "mt_bench" / "question.jsonl", questions)
    lines(folder / "mt_bench" / "judge_prompts.jsonl", [
        {"name": name, "system_prompt": f"Judge by {name}.",
         "prompt_template": "\n".join(f"{blank}: <{{{blank}}}>" for blank in sorted(blanks, key=_order))}
        for name, blanks in BLANKS.items()])
    lines(folder / "mt_bench" / "reference_answer_gpt-4.jsonl", [
        {"question_id": row["question_id"], "choices": [{"turns": [f"Truth {n}.1", f"Truth {n}.2"]}]}
        for n, row in enumerate(questions) if row["category"] == "math"])
    return folder


def _order(blank: str) -> tuple[bool, str]:
    return ("answer" in blank and "ref" not in blank, blank)


def run(folder: Path, source: Path, answers: Answers, name: str = "mt_bench") -> Store:
    """Write a run with these answers of each strategy to the questions of `source`; the first is the baseline."""
    examples = TASKS.build(name).examples(DataSource(source))
    entry = task(name, "score", NO_JUDGE, len(examples)).model_copy(update={"data_hash": data_hash(examples)})
    records = [record(name, example.id, spec, [turn([1, 1], [0.1, 0.1], text=text) for text in texts])
               .model_copy(update={"category": example.category})
               for spec, all_texts in answers.items() for example, texts in zip(examples, all_texts, strict=True)]
    return write(folder, manifest([strategy(spec) for spec in answers], [entry]), records)


def numbered(*rows: Sequence[int]) -> list[tuple[str, str]]:
    """Return answers that contain their rating."""
    return [(f"{{{first}}}", f"{{{second}}}") for first, second in rows]


def endpoint(url: str, key: str | None = None, **options: Any) -> Endpoint:
    """Create a judge without pauses between tries."""
    judge = Endpoint("judge-1", url, key, {"temperature": 0, "max_tokens": 64}, **options)
    judge.connection.pause = lambda seconds: None
    return judge


def planned(store: Store, source: Path, judge: Any, mode: Mode = "single", **options: Any) -> JudgePlan:
    data_source = DataSource(source)
    examples = examples_of(store, data_source)
    prompts = Prompts.load(data_source, mode, [one for by_id in examples.values() for one in by_id.values()])
    return plan(store, judge, mode, prompts, examples, **options)


def judge_all(store: Store, source: Path, judge: Any, mode: Mode = "single", **options: Any) -> list[Verdict]:
    """Judge a run and return the verdicts in the order of their requests."""
    on_verdict = list[Verdict]()
    request_verdicts(store, judge, planned(store, source, judge, mode, **options), on_verdict.append)
    return on_verdict
