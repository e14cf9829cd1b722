"""Where answers end, and what a trace writes down, with a scripted clock."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from harness.backends.trace import Trace, trace
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Guarantee, Request, Strategy
from tests.decode import engine
from tests.models import EOS, tiny_model
from tests.pair import tokenizer

WORDS = tokenizer()
PROMPT = WORDS("What is it?")["input_ids"]
BLOCKS: list[str] = []


def ids(text: str) -> list[int]:
    found: list[int] = WORDS(text)["input_ids"]
    return found


@dataclass(frozen=True)
class Scripted(Strategy):
    """Yields BLOCKS, whatever the model says; `$` stands for EOS."""

    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        for block in BLOCKS:
            yield [token for letter in block for token in ([EOS] if letter == "$" else ids(letter))]


def run(blocks: list[str], stops: Sequence[str] = (), most: int = 50) -> tuple[Trace, StopRule]:
    BLOCKS[:] = blocks
    ticks = iter(range(1000))
    rule = StopRule(WORDS, PROMPT, frozenset({EOS}), stops)
    session = Session(engine(tiny_model("llama")))
    request = Request(tuple(PROMPT), most, PhiloxStream(0), frozenset({EOS}))
    return trace(Scripted(), session, request, rule, lambda: float(next(ticks))), rule


def test_eos_in_a_block_drops_what_follows() -> None:
    done, rule = run(["ab", "cd$ef", "gh"])
    assert (rule.text(done.tokens), done.stop, done.steps.tokens) == ("abcd", "eos", [2, 3])
    assert done.steps.seconds == [1.0, 1.0]


def test_a_stop_string_across_two_blocks() -> None:
    done, rule = run(["one t", "wo three", "four"], stops=("two",))
    raw = rule.text(done.tokens)
    assert (raw, rule.before_stop(raw), done.stop, done.steps.tokens) == ("one two", "one ", "stop", [5, 2])


def test_the_first_of_eos_and_stop_string_counts() -> None:
    assert run(["ab$xx"], stops=("xx",))[0].stop == "eos"
    assert run(["abxx$"], stops=("xx",))[0].stop == "stop"


@pytest.mark.parametrize(("most", "stop", "kept"), [(3, "length", 3), (4, "eos", 4), (5, "eos", 4)])
def test_the_token_limit(most: int, stop: str, kept: int) -> None:
    done, _ = run(["abc$"], most=most)
    assert (done.stop, len(done.tokens), done.steps.tokens) == (stop, kept, [kept])


def test_a_strategy_that_ends_by_itself() -> None:
    done, _ = run(["abc"])
    assert (done.stop, done.steps.tokens) == ("ended", [3])
    assert run([])[0].tokens == []


def test_text_keeps_the_space_after_the_prompt() -> None:
    _, rule = run([])
    assert rule.text(ids(" yes")) == " yes"
    assert rule.text(ids("né ☃")) == "né ☃"


def test_stopped_looks_at_the_end_only() -> None:
    _, rule = run([], stops=("Q:",))
    assert rule.stopped(ids("A long answer.\nQ:"))
    assert not rule.stopped(ids("A long answer."))
    assert not StopRule(WORDS, PROMPT, frozenset(), ()).stopped(ids("Q:"))
