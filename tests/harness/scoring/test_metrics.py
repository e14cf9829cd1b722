"""The metrics of the built-in tasks, one sample at a time and through `compute`."""

from typing import Any

import pytest

from harness.scoring.metrics import CodePasses, FollowsRules, GSM8KAnswer

STATED = r"The answer is (\-?[0-9\.\,]+)."


def score(metric: Any, answers: list[str], gold: dict[str, Any]) -> dict[str, float]:
    result: dict[str, float] = metric.compute(predictions=[answers], references=[gold])
    return result


@pytest.mark.parametrize(("answer", "gold", "flexible", "strict"), [
    ("3 + 15 = 18. The answer is 18.", "18", 1, 1),
    ("The answer is $18.", "18", 1, 0),
    ("The answer is 1,800.", "1800", 1, 1),
    ("The answer is 1800.", "1,800", 1, 1),
    ("The answer is -7.", "-7", 1, 1),
    ("The answer is 18", "18", 1, 0),  # the dot of the pattern takes the 8, as in lm-evaluation-harness
    ("The answer is 18. Then 5 more.", "18", 0, 1),
    ("The answer is 5. The answer is 18.", "18", 1, 0),  # the first phrase counts, the last number counts
    ("It costs $18.00", "18", 0, 0),
    ("the answer is 18.", "18", 1, 0),
    ("no number", "18", 0, 0),
    ("", "18", 0, 0),
])
def test_gsm8k_is_that_of_lm_evaluation_harness(answer: str, gold: str, flexible: int, strict: int) -> None:
    assert score(GSM8KAnswer(STATED), [answer], {"answer": gold}) == verdicts(flexible, strict)


@pytest.mark.parametrize(("answer", "gold", "flexible", "strict", "original"), [
    (" 3 * 14 = 42\n#### 42", "42", 1, 1, 1),
    ("#### 42 #### 7", "42", 0, 1, 1),
    ("#### 1,200", "1200", 1, 1, 1),
    ("#### 1200", "1,200", 1, 1, 1),
    ("#### 42.", "42", 1, 1, 0),  # the paper's scorer keeps the full stop
    ("#### $42", "42", 1, 0, 0),
    ("####42", "42", 1, 0, 0),
    ("42", "42", 1, 0, 0),
    ("", "42", 0, 0, 0),
])
def test_gsm8k_after_hashes(answer: str, gold: str, flexible: int, strict: int, original: int) -> None:
    expected = {**verdicts(flexible, strict), "original": original}
    assert score(GSM8KAnswer(), [answer], {"answer": gold}) == expected


@pytest.mark.parametrize(("answer", "strict"), [
    ("The final answer is 5\nThe final answer is 42", 1), ("The final answer is 42. The final answer is 5", 0),
    ("The final answer is $42.", 1), ("The final answer is 42", 1), ("The answer is 42", 0),
])
def test_gsm8k_may_take_the_last_phrase(answer: str, strict: int) -> None:
    metric = GSM8KAnswer(r"The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))", last=True)
    assert metric.sample([answer], {"answer": "42"})["strict"] == strict


def verdicts(flexible: int, strict: int) -> dict[str, int]:
    return {"flexible": flexible, "strict": strict, "only_flexible": int(flexible > strict),
            "only_strict": int(strict > flexible)}


def test_a_metric_is_the_mean_of_its_samples_and_can_be_used_again() -> None:
    metric = GSM8KAnswer(STATED)
    gold = [{"answer": "1"}, {"answer": "2"}]
    both = metric.compute(predictions=[["The answer is 1."], ["The answer is 1."]], references=gold)
    assert both == {"flexible": 0.5, "strict": 0.5, "only_flexible": 0.0, "only_strict": 0.0}
    assert metric.compute(predictions=[["2"]], references=gold[1:]) == verdicts(1, 0)
    assert metric.compute(predictions=[], references=[]) == {}


@pytest.mark.parametrize(("completion", "passes", "timeout"), [
    ("    return 2 * number\n", 1, 0),
    ("    return number\n", 0, 0),
    ("    return 2 *\n", 0, 0),
    ("    import os\n    os._exit(0)\n", 0, 0),
    ("    while True: pass\n", 0, 1),
])
def test_code(monkeypatch: pytest.MonkeyPatch, completion: str, passes: int, timeout: int) -> None:
    monkeypatch.setattr(CodePasses, "SECONDS", 1.0)
    gold = {
        "prompt": "def double(number):\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "double",
    }
    assert score(CodePasses(), [completion], gold) == {"pass": passes, "timeout": timeout}


def test_rules_see_the_models_own_first_answer() -> None:
    rules = [{"kind": "items", "count": 2}, {"kind": "previous", "change": "upper"}]
    gold = {"category": "writing", "turns": rules}
    right = {"follows": 1.0, "follows_turn_1": 1.0, "follows_turn_2": 1.0}
    half = {"follows": 0.5, "follows_turn_1": 0.0, "follows_turn_2": 1.0}
    assert score(FollowsRules(), ["ant, bee", "ANT, BEE"], gold) == right
    assert score(FollowsRules(), ["ant", "ANT"], gold) == half


def test_an_empty_answer_follows_no_rule() -> None:
    gold = {"turns": [{"kind": "items", "count": 2}, {"kind": "previous", "change": "upper"}]}
    assert score(FollowsRules(), ["", " "], gold)["follows"] == 0.0
