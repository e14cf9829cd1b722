"""What a judge reads and what is read off its verdicts: the published prompts, references and patterns."""

import json
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.judge.prompts import Prompts
from harness.judge.verdicts import MODES, Mode, rating, winner
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from tests import realdata
from tests.judged import data, lines

REAL = realdata.folder()


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


@pytest.mark.parametrize(("text", "value"), [
    ("Rating: [[5]]", 5), ("[[7.5]].", 7.5), ("[[10.]]", 10), ("first [[3]], then [[9]]", 3), ("Rating: [8]", 8),
    ("point [2] of the list. Rating: [[6]]", 6), ("[2] and [4]", 2), ("[[05]]", 5), ("[[0]]", 0), ("[[11]]", 11),
    ("[[-1]]", None), ("[[N/A]]", None), ("[[1,2]]", None), ("[[ 5 ]]", None), ("5/10", None), ("", None),
    ("[[4.5.6]]", None), (f"[[{'9' * 400}]]", None), ("[[rating]] [[8]]", 8), ("[[[6]]]", 6),
    ("Rating: [[8/10]]", None),
])
def test_ratings_are_read_as_published(text: str, value: float | None) -> None:
    assert rating(text) == value


@pytest.mark.parametrize(("text", "first"), [
    ("so: [[A]]", True), ("[[B]]", False), ("[[B]] rather than [[A]]", True), ("[[A]] [[C]]", True),
    ("[[C]] or [[B]]", False),
])
def test_winners_are_read_as_published(text: str, first: bool) -> None:
    assert winner(text, swapped=False) == ("strategy" if first else "baseline")
    assert winner(text, swapped=True) == ("baseline" if first else "strategy")


@pytest.mark.parametrize("swapped", [True, False])
def test_ties_and_what_is_no_verdict(swapped: bool) -> None:
    assert winner("both the same: [[C]]", swapped) == "tie"
    assert winner("[A]", swapped) is None
    assert winner("[[D]]", swapped) is None


def loaded(source: Path, mode: Mode) -> tuple[Prompts, list[Example]]:
    found = DataSource(source)
    examples = TASKS.build("mt_bench").examples(found)
    return Prompts.load(found, mode, examples), examples


@realdata.needs_real_data
@pytest.mark.parametrize("mode", MODES)
def test_the_published_prompts_are_filled_as_published(mode: Mode) -> None:
    assert REAL is not None
    prompts, examples = loaded(REAL, mode)
    rows, answered = ([json.loads(line) for line in (REAL / "mt_bench" / name).read_text().splitlines()]
                      for name in ("judge_prompts.jsonl", "reference_answer_gpt-4.jsonl"))
    published = {row["name"]: row for row in rows}
    references = {row["question_id"]: row["choices"][0]["turns"] for row in answered}
    single, guided = mode == "single", 0
    for example in examples:
        number = int(example.id.removeprefix("mt_bench/"))
        needs = example.category in ("math", "reasoning", "coding")
        assert needs == (number in references)
        guided += needs
        name = {(True, False): "single-v1", (True, True): "single-math-v1", (False, False): "pair-v2",
                (False, True): "pair-math-v1"}[single, needs]
        answers = [("a1 {x}", "a2")] if single else [("a1 {x}", "a2"), ("b1", "b2 {answer}")]
        blanks = {"question": example.turns[0], "question_1": example.turns[0], "question_2": example.turns[1],
                  "answer": "a1 {x}", "answer_1": "a1 {x}", "answer_2": "a2", "answer_a": "a1 {x}", "answer_b": "b1",
                  "answer_a_1": "a1 {x}", "answer_a_2": "a2", "answer_b_1": "b1", "answer_b_2": "b2 {answer}"}
        if needs:
            blanks |= {"ref_answer_1": references[number][0], "ref_answer_2": references[number][1]}
        for turn, row in ((1, published[name]), (2, published[f"{name}-multi-turn"])):
            wanted = row["prompt_template"]
            for blank in sorted(blanks, key=len):
                wanted = wanted.replace(f"{{{blank}}}", f"\0{blank}\0")
            for blank, text in blanks.items():
                wanted = wanted.replace(f"\0{blank}\0", text)
            assert prompts.messages(mode, example, turn, *answers) == [
                {"role": "system", "content": row["system_prompt"]}, {"role": "user", "content": wanted}]
    assert (len(examples), guided) == (80, 30)


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    source = data(tmp_path, 3)
    path = source / "mt_bench" / "judge_prompts.jsonl"
    kept = path.read_text()
    path.unlink()
    with pytest.raises(UserError, match=r"download https://.*/fastchat/llm_judge/data/judge_prompts.jsonl as "
                                        r"DIR/mt_bench/judge_prompts.jsonl, and give --data DIR"):
        loaded(source, "single")
    path.write_text(kept)
    (source / "mt_bench" / "reference_answer_gpt-4.jsonl").unlink()
    with pytest.raises(UserError, match=r"download .*/reference_answer/gpt-4.jsonl as DIR/mt_bench/reference_answer_"):
        loaded(source, "single")


def test_no_reference_is_wanted_for_questions_that_need_none(tmp_path: Path) -> None:
    source = data(tmp_path, 1)
    (source / "mt_bench" / "reference_answer_gpt-4.jsonl").unlink()
    prompts, (example,) = loaded(source, "single")
    assert prompts.messages("single", example, 1, ("x", "y"))[1]["content"] == "question: <First 0?>\nanswer: <x>"


def test_bad_rows_are_named_by_file_and_line(tmp_path: Path) -> None:
    source = data(tmp_path, 3)
    path, references = (source / "mt_bench" / name for name in ("judge_prompts.jsonl", "reference_answer_gpt-4.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for template, words in {"{question} {answer} {answer_c}": "line 1: .*must have the blanks answer, question",
                            "{question": "line 1: the prompt_template cannot be", 7: "line 1: .*must be text"}.items():
        lines(path, [rows[0] | {"prompt_template": template}, *rows[1:]])
        with pytest.raises(UserError, match=rf"judge_prompts\.jsonl, {words}"):
            loaded(source, "single")
    lines(path, rows[1:])
    with pytest.raises(UserError, match=rf"judge_prompts\.jsonl has no prompt '{rows[0]['name']}'"):
        loaded(source, "single")
    lines(path, rows)
    for choices in (["x"], [{"turns": []}], [{"turns": [1, 2]}], [{}]):
        lines(references, [{"question_id": 82, "choices": choices}])
        with pytest.raises(UserError, match=r"gpt-4\.jsonl, line 1: the first of its choices must have 'turns'"):
            loaded(source, "single")
    for number, texts in ((83, ["a", "b"]), (82, ["a"])):
        lines(references, [{"question_id": number, "choices": [{"turns": texts}]}])
        with pytest.raises(UserError, match="has no reference answer for mt_bench/82, which is needed"):
            loaded(source, "single")
