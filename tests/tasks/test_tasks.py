"""The built-in tasks: their prompts, their gold, and that right answers score and wrong ones do not."""

import dataclasses
import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.nano.corpus import KINDS, problems
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task
from tests import realdata
from tests.scale import scaled

REAL = realdata.folder()  # before the variable goes
NANO = {f"nano_{kind}": kind for kind in sorted(KINDS)}
GSM8K = ["gsm8k", "gsm8k_5shot", "gsm8k_chat", "gsm8k_zeroshot"]
NAMES = [*GSM8K, "humaneval", "humaneval_instruct", "humaneval_plus", "mbpp", "mt_bench", "mt_bench_official", *NANO]
HEAVY = {"evaluate", "datasets", "torch", "transformers", "pandas", "numpy"}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


def examples(tmp_path: Path, name: str, file: str, rows: list[dict[str, Any]]) -> tuple[Task, list[Example]]:
    path = tmp_path / name / file
    path.parent.mkdir()
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    task = TASKS.build(name)
    return task, task.examples(DataSource(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    task = TASKS.build(name)
    assert task.spec() == name
    assert TASKS.idea(name).endswith(".")
    assert len(TASKS.idea(name)) < 110
    assert task.version == 1
    assert task.source
    assert task.max_new_tokens > 0
    assert (task.metric() is None) == (task.unscored is not None)


def test_tasks_import_nothing_heavy() -> None:
    code = f"import sys, {', '.join(f'tasks.{name}' for name in TASKS.built_in())}; print({HEAVY!r} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert shown.stdout.strip() == "set()", shown.stderr


def test_gsm8k(tmp_path: Path) -> None:
    row = {"question": "How  many?", "answer": "2 * 600 = <<2*600=1200>>1,200\n#### 1,200"}
    task, (example,) = examples(tmp_path, "gsm8k", "test.jsonl", [row])
    assert example == Example("gsm8k/0", ("How  many?",), {"answer": "1,200"})
    prompt = task.prompt(example, [])
    assert isinstance(prompt, str)
    shots, question = prompt.removesuffix("Q: How  many?\nA:"), "Q: There are 15 trees in the grove."
    assert shots != prompt
    assert shots.startswith(question)
    assert shots.endswith("23 - 15 is 8. The answer is 8.\n\n")
    assert shots.count("\n\n") == shots.count("\nA: ") == 8
    assert hashlib.sha256(shots.encode()).hexdigest() == (
        "3d55795c084e26f6ebb6925833999a44f75c4280eb7ab4d66f9bb940244e4847")
    right = {"flexible": 1, "strict": 1, "only_flexible": 0, "only_strict": 0}
    assert task.score(example, [" So the answer is 5. The answer is 1200."]) == right
    assert task.score(example, [" The answer is 1201."]) == dict.fromkeys(right, 0)


@pytest.mark.parametrize("answer", ["42", "#### ", ""])
def test_gsm8k_without_a_final_answer(tmp_path: Path, answer: str) -> None:
    rows = [{"question": "?", "answer": "#### 1"}, {"question": "?", "answer": answer}]
    with pytest.raises(UserError, match=r"test\.jsonl, line 2: the (answer does not end|field 'answer' is empty)"):
        examples(tmp_path, "gsm8k", "test.jsonl", rows)


def test_humaneval(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/7", "entry_point": "double", "canonical_solution": "    return 2 * number\n",
        "prompt": "def double(number):\n", "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    task, (example,) = examples(tmp_path, "humaneval", "HumanEval.jsonl.gz", [row])
    assert example.id == "HumanEval/7"
    assert task.prompt(example, []) == row["prompt"]
    assert task.score(example, [row["canonical_solution"]]) == {"pass": 1, "timeout": 0}
    assert task.score(example, ["    pass\n"]) == {"pass": 0, "timeout": 0}


def test_mt_bench(tmp_path: Path) -> None:
    row = {"question_id": 99, "category": "roleplay", "turns": ["Hello.", "Again."], "reference": []}
    task, (example,) = examples(tmp_path, "mt_bench", "question.jsonl", [row])
    assert example == Example("mt_bench/99", ("Hello.", "Again."), {}, "roleplay")
    assert task.prompt(example, ["Hi."]) == [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Again."},
    ]
    assert task.score(example, ["Hi.", "Hi again."]) == {}


def test_mt_bench_of_the_hub_is_that_of_the_file() -> None:
    from tasks.mt_bench import HUB

    assert HUB.adapt is not None
    row = {"prompt": ["Hello.", "Again."], "prompt_id": 7, "category": "writing", "reference": []}
    assert HUB.adapt(2, row) == {"question_id": 83, "category": "writing", "turns": ["Hello.", "Again."]}


# A story's reference says some sentences again, so its scores are not all 1: tests/harness/nano/test_stories.py.
@pytest.mark.parametrize("name", [name for name in NANO if name != "nano_story"])
def test_nano_references_score_and_empty_answers_do_not(name: str) -> None:
    task = TASKS.build(name)
    found = task.examples(DataSource())
    references = [problem.answers for problem in problems(NANO[name], "test", 200)]
    assert len({example.id for example in found}) == len(found) == 200
    for example, answers in list(zip(found, references, strict=True))[:scaled(10, 40)]:
        scores = task.score(example, answers)
        assert not any(scores.pop(name, 0.0) for name in ("timeout", "only_flexible", "only_strict"))
        assert set(scores.values()) == {1.0}
        assert task.score(example, [""] * len(answers))[task.headline] == 0.0


@pytest.mark.parametrize("name", NANO)
def test_nano_stops_do_not_cut_references(name: str) -> None:
    answers = [one for problem in problems(NANO[name], "test", 200) for one in problem.answers]
    assert not any(stop in answer for stop in TASKS.build(name).stop for answer in answers)


@realdata.needs_real_data
@pytest.mark.parametrize(("name", "count"), [*((name, 1319) for name in GSM8K), ("humaneval", 164), ("mt_bench", 80),
                                             ("mt_bench_official", 80)])
def test_real_rows_are_the_published_ones(name: str, count: int) -> None:
    source = DataSource(REAL)
    found = TASKS.build(name).examples(source)
    assert len({example.id for example in found}) == len(found) == count
    assert source.warnings == []


def test_mt_bench_official_sets_the_temperature_of_each_category(tmp_path: Path) -> None:
    published = {"writing": 0.7, "roleplay": 0.7, "reasoning": 0.0, "math": 0.0, "coding": 0.0, "extraction": 0.0,
                 "stem": 0.1, "humanities": 0.1, "cooking": 0.7}
    rows = [{"question_id": n, "category": one, "turns": ["Hello.", "Again."]} for n, one in enumerate(published)]
    (tmp_path / "mt_bench").mkdir()
    (tmp_path / "mt_bench" / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, official = (TASKS.build(name).examples(DataSource(tmp_path)) for name in ("mt_bench", "mt_bench_official"))
    assert {one.category: one.temperature for one in official} == published
    assert [dataclasses.replace(one, temperature=None) for one in official] == plain
