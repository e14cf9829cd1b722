"""The generated functions: their references hold, their prompts settle them, and few bodies come twice."""

import random
import re
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.nano import functions, weights
from harness.nano.function_branches import element_rule, pair_rule, score
from harness.nano.function_loops import cuts, digits, neighbors, running, tables
from harness.nano.function_parts import filled, ladder, part, renamed
from harness.nano.function_programs import program
from harness.nano.problem import Problem
from tests.scale import scaled

GENERATORS = (program, running, neighbors, digits, cuts, tables, pair_rule, element_rule, score)
LEAST_TOKENS, MEAN_TOKENS, MOST_TOKENS, MOST_PROMPT_TOKENS = 4, (35, 60), 130, 400


@pytest.fixture(scope="module")
def drawn() -> list[Problem]:
    rng = random.Random(3)
    return [functions.draw(rng) for _ in range(scaled(500, 2000))]


def _run(problem: Problem, body: str) -> None:
    scope: dict[str, Any] = {}
    exec(problem.turns[0] + body + "\n" + str(problem.check["test"]), scope)
    scope["check"](scope[problem.check["entry_point"]])


def _shape(body: str) -> str:
    """Return the body with its names numbered in order, so that two bodies differ in more than names."""
    numbers: dict[str, int] = {}
    return re.sub(r"[a-z_]\w*", lambda found: f"v{numbers.setdefault(found[0], len(numbers))}", body)


def test_references_pass_their_own_asserts(drawn):
    for problem in drawn[:200]:
        _run(problem, problem.answers[0])


def test_the_body_of_another_problem_fails_most_asserts(drawn):
    """A body that happens to fit elsewhere is rare; otherwise the asserts would tell nothing."""
    passed = 0
    for problem, other in zip(drawn[:200], drawn[200:400], strict=True):
        try:
            _run(problem, other.answers[0])
        except Exception:  # the other body may use any name or type
            continue
        passed += 1
    assert passed <= 4


@pytest.mark.parametrize("generator", GENERATORS)
def test_no_input_makes_a_reference_raise(generator):
    rng = random.Random(generator.__name__)
    for _ in range(100):
        family = generator(rng)
        functions._problem(family, rng)
        assert "$" not in re.sub(r"\$(a\b|b\b|\{[ab]\})", "", " ".join(family.phrases + family.bodies))
        assert not re.search(r"\b[A-Z]{2,}\b|\b[XYDT]\b", " ".join(family.phrases + family.bodies))


def test_lengths_in_tokens(drawn):
    tokenizer = AutoTokenizer.from_pretrained(weights("nano"))
    answers = [len(tokenizer(problem.answers[0]).input_ids) for problem in drawn]
    assert min(answers) >= LEAST_TOKENS
    assert MEAN_TOKENS[0] <= sum(answers) / len(answers) <= MEAN_TOKENS[1]
    assert max(answers) <= MOST_TOKENS
    assert max(len(tokenizer(problem.turns[0]).input_ids) for problem in drawn) <= MOST_PROMPT_TOKENS


def test_bodies_are_various(drawn):
    """Names aside, hardly any program or long body comes twice; short families repeat more."""
    rng = random.Random(5)
    programs = [program(rng).bodies[0] for _ in range(1000)]
    assert len({_shape(body) for body in programs}) >= 950
    long = [problem.answers[0] for problem in drawn if problem.answers[0].count("\n") >= 5]
    assert len(long) >= 0.4 * len(drawn)
    assert len({_shape(body) for body in long}) >= 0.95 * len(long)
    assert len({_shape(problem.answers[0]) for problem in drawn}) >= 0.8 * len(drawn)


def test_variables_never_hide_an_argument():
    pools = {name for pool in functions.ARGUMENTS.values() for name in pool}
    rng = random.Random(9)
    for _ in range(300):
        for generator in GENERATORS:
            names = re.findall(r"^ *(?:for )?(\w+)(?:, (\w+))?(?: = | in )", generator(rng).bodies[0], re.MULTILINE)
            assert not pools & {name for pair in names for name in pair}


def test_parts_and_ladders():
    assert renamed("n % 2 + len(n)", "x") == "x % 2 + len(x)"
    assert filled("ONE is in LIST", {"ONE": "x"}) == "x is in LIST"
    assert part(random.Random(0), (("even", "n % 2 == 0"),), "y") == ("even", "y % 2 == 0")
    assert ladder(["a", "b"], ["return 1", "return 2"]) == "if a:\n    return 1\nelif b:\n    return 2"
    assert ladder(["a"], ["x = 1"], "x = 2") == "if a:\n    x = 1\nelse:\n    x = 2"
