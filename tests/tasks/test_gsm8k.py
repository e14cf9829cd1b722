"""The other variants of GSM8K: their prompts, refused rows, and scores in a report."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.measure.summary import summarise
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task
from harness.report import page, tables
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.pair import saved
from tests.runs import manifest, record, strategy, task, turn, write
from tests.watch import Quiet

TRAIN = [{"question": f"Why {i}?", "answer": f"Because.\n#### {i}"} for i in range(30)]
TEST = [{"question": "How {many}?", "answer": "600 * 2 = <<600*2=1200>>1,200\n#### 1,200"},
        {"question": " And how \n many? ", "answer": "#### 7"}]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


def folder(tmp_path: Path, **files: list[dict[str, Any]]) -> Path:
    (tmp_path / "gsm8k").mkdir()
    for name, rows in files.items():
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def loaded(name: str, data: Path) -> tuple[Task, list[Example]]:
    built = TASKS.build(name)
    return built, built.examples(DataSource(data))


def test_zero_shot_asks_for_steps(tmp_path: Path) -> None:
    built, found = loaded("gsm8k_zeroshot", folder(tmp_path, test=TEST))
    assert [built.prompt(example, []) for example in found] == [
        "Q: How {many}?\nA: Let's think step by step.", "Q:  And how \n many? \nA: Let's think step by step."]


def test_five_shots_are_drawn_by_one_generator(tmp_path: Path) -> None:
    built, found = loaded("gsm8k_5shot", folder(tmp_path, test=TEST, train=TRAIN))
    generator = random.Random(1234)
    for example, row in zip(found, TEST, strict=True):
        shots = [TRAIN[i] for i in generator.sample(range(30), 5)]
        assert built.prompt(example, []) == "\n\n".join(
            [f"Question: {shot['question']}\nAnswer: {shot['answer']}" for shot in shots]
            + [f"Question: {row['question']}\nAnswer:"])
    assert [(example.id, example.gold) for example in found] == [("gsm8k/0", {"answer": "1,200"}),
                                                                 ("gsm8k/1", {"answer": "7"})]


def test_a_chat_holds_eight_solved_problems(tmp_path: Path) -> None:
    built, found = loaded("gsm8k_chat", folder(tmp_path, test=TEST))
    prompt = built.prompt(found[0], [])
    assert isinstance(prompt, list)
    assert [message["role"] for message in prompt] == ["user", "assistant"] * 8 + ["user"]
    assert prompt[-2]["content"] == (
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars "
        "left. 23 - 15 is 8. The final answer is 8")
    assert prompt[-1]["content"] == (
        "Given the following problem, reason and give a final answer to the problem.\nProblem: How {many}?\nYour "
        'response should end with "The final answer is [answer]" where [answer] is the response to the problem.\n')


@pytest.mark.parametrize(("train", "reason"), [
    (TRAIN[:4], r"train\.jsonl has fewer than 5 rows"),
    ([*TRAIN, {"question": "?", "answer": "42"}], r"train\.jsonl, line 31: the answer does not end"),
    ([*TRAIN, {"question": 1, "answer": "#### 2"}], r"train\.jsonl, line 31: the field 'question' must be text"),
])
def test_bad_training_rows_are_refused(tmp_path: Path, train: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        loaded("gsm8k_5shot", folder(tmp_path, test=TEST, train=train))


def test_a_run_says_where_its_rows_lie_and_scores_them(tmp_path: Path) -> None:
    data, names = folder(tmp_path, test=TEST, train=TRAIN), ("gsm8k_zeroshot", "gsm8k_5shot")
    outcome = run(RunConfig(model=str(saved("llama")), tasks=names, strategies=("greedy",), device="cpu", threads=1,
                            data=data, max_new_tokens=8, output=tmp_path / "run"), Quiet(), "decodebench run")
    store = Store.open(outcome.folder)
    assert outcome.failed == 0
    assert {entry.data for entry in store.manifest.tasks} == {str(data / "gsm8k" / "test.jsonl")}
    assert len([warning for warning in store.manifest.warnings if "test.jsonl differ" in warning]) == 1
    summary = summarise(store).set_index("task")
    assert summary["truncated"].notna().all()
    assert summary["score_strict"].notna().all()
    assert summary["score_original"].notna().to_dict() == {"gsm8k_zeroshot": False, "gsm8k_5shot": True}


def test_other_scores_stand_beside_the_headline(tmp_path: Path) -> None:
    described = manifest([strategy("greedy")], [task("math", "flexible"), task("code", "pass")])
    scores = {"a": {"flexible": 1.0, "strict": 0.0, "only_flexible": 1.0}, "b": {"flexible": 0.0, "strict": 1.0}}
    records = [record("math", name, "greedy", [turn([1], [0.1])]).model_copy(update={"scores": given})
               for name, given in scores.items()]
    records.append(record("math", "c", "greedy", error="failed"))
    records.append(record("code", "d", "greedy", [turn([1], [0.1])]).model_copy(update={"scores": {"pass": 1.0}}))
    store = write(tmp_path / "run", described, records)
    math, code = (row for _, row in summarise(store).iterrows())
    assert (math["score_strict"], math["score_only_flexible"]) == (0.5, 1.0)
    assert "score_flexible" not in math
    assert code[["score_strict", "score_only_flexible"]].isna().all()
    heads = [line for line in tables.markdown(summarise(store)).splitlines() if line.startswith("| strategy")]
    assert [head.split(" | ")[2:6] for head in heads] == [["quality", "strict", "only_flexible", "truncated"],
                                                          ["quality", "truncated", "tok/s", "speed-up"]]
    assert "Mean of only_flexible" in page.render([store])
