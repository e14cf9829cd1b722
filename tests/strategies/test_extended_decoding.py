"""A queue that is read from the front and written at the end: Lag systems on a model that is a table of their rules."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies.extended_decoding import ExtendedDecoding, parted
from strategies.greedy import Greedy
from tests.decode import decode, engine
from tests.markov import Markov
from tests.models import EOS, prompts, tiny_model

LETTERS = "01>\nR$"  # and the end of an answer
END = LETTERS.index("$")
RULES = {"00": "1", "01": "0", "10": "", "11": "01"}


class Table(Markov):
    """Answers the last two symbols of the queue that it reads by a rule: a table, without an attention."""

    def __init__(self, rules: dict[str, str], arrow: str = "") -> None:
        super().__init__(torch.eye(len(LETTERS)))
        self.rules, self.arrow, self.seen = rules, arrow, list[int]()
        self.reads = list[int]()

    def forward(self, input_ids: Tensor, position_ids: Tensor, logits_to_keep: int, **_: object) -> Any:
        self.decoder(input_ids)
        for token, place in zip(input_ids[0].tolist(), position_ids[0].tolist(), strict=True):
            self.seen = [*self.seen[:place], token]
        self.reads.append(input_ids.shape[1])
        logits = torch.full((1, input_ids.shape[1], len(LETTERS)), -9.0)
        logits[0, -1, self.best()] = 9.0
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])

    def best(self) -> int:
        """The next symbol of the answer: after the last line, its first two symbols and the arrow."""
        text = "".join(LETTERS[token] for token in self.seen).rpartition("\n")[2]
        known, written = text[:2], text[2 + len(self.arrow):]
        answer = self.rules.get(known, "") + "$"
        return LETTERS.index(answer[min(len(written), len(answer) - 1)])


def ids(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def asked(prompt: str, new: int = 500) -> Request:
    def text(tokens: Sequence[int]) -> str:
        return "".join(LETTERS[token] for token in tokens)
    return Request(tuple(ids(prompt)), new, PhiloxStream(0), frozenset({END}),
                   text=RequestText(prompt, ids, ids, text, lambda answer: answer))


def appended(method: Strategy, target: Engine, prompt: str, steps: int = 1000) -> list[str]:
    """What each step appends, at most `steps` of them."""
    session = Session(target)
    found = []
    try:
        for block in method.generate(session, asked(prompt)):
            found.append("".join(LETTERS[token] for token in block))
            if len(found) == steps:
                break
    finally:
        session.close()
    return found


def lag(queue: str, rules: dict[str, str], steps: int) -> tuple[list[str], list[str]]:
    """The states of a Lag system from the first one on, and what each step appends."""
    states, new = [queue], list[str]()
    while len(states[-1]) >= 2 and len(new) < steps:
        new.append(rules[states[-1][:2]])
        states.append((states[-1] + new[-1])[1:])
    return states, new


def states(queue: str, new: Sequence[str]) -> list[str]:
    found = [queue]
    for one in new:
        found.append((found[-1] + one)[1:])
    return found


@pytest.mark.parametrize("rest", ["", "RR\nR\n"])
def test_the_states_of_the_sheet(rest: str) -> None:
    new = appended(ExtendedDecoding(over=Greedy()), Engine(Table(RULES), 64), f"{rest}0110", 8)
    assert states("0110", new) == ["0110", "1100", "10001", "0001", "0011", "0111", "1110", "11001", "100101"]


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_steps_are_those_of_the_system(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rules = {a + b: "".join(rng.choice(list("01"), size=int(rng.integers(0, 3)))) for a in "01" for b in "01"}
    queue = "".join(rng.choice(list("01"), size=12))
    expected = lag(queue, rules, 200)[1]
    assert appended(ExtendedDecoding(over=Greedy()), Engine(Table(rules), 64), f"R\n{queue}", 200) == expected


def test_a_system_that_halts_ends_the_answer() -> None:
    rules = dict.fromkeys(RULES, "")
    assert appended(ExtendedDecoding(over=Greedy()), Engine(Table(rules), 64), "01101") == [""] * 4
    assert appended(ExtendedDecoding(over=Greedy()), Engine(Table(rules), 64), "1") == []
    assert appended(ExtendedDecoding(over=Greedy(), steps=3), Engine(Table(rules), 64), "01101") == [""] * 3


def test_an_arrow_separates_the_window_from_the_answer() -> None:
    new = appended(ExtendedDecoding(over=Greedy(), arrow=">"), Engine(Table(RULES, ">"), 64), "R\n0110", 50)
    assert new == lag("0110", RULES, 50)[1]


def test_more_tokens_can_be_dropped_and_appended_ones_are_limited() -> None:
    """A tag system, which drops two tokens; and productions cut after one token."""
    new, queue = appended(ExtendedDecoding(over=Greedy(), advance=2), Engine(Table(RULES), 64), "110100", 5), "110100"
    for one in new:
        assert one == RULES[queue[:2]]
        queue = (queue + one)[2:]
    assert "01" in new
    assert appended(ExtendedDecoding(over=Greedy(), longest=1), Engine(Table(RULES), 64), "1101", 2) == ["0", ""]


def test_the_lines_before_the_queue_are_prefilled_once() -> None:
    table = Table(RULES)
    appended(ExtendedDecoding(over=Greedy()), Engine(table, 64), "R" * 20 + "\n0110", 8)
    assert sum(read > 10 for read in table.reads) == 1


@cache
def target() -> Engine:
    return engine(tiny_model("llama"))


@pytest.mark.parametrize("over", ["greedy", "prompt_lookup"])
def test_with_the_whole_queue_and_no_advance_it_is_the_other_strategy(over: str) -> None:
    ends = 0
    for prompt in prompts(12, 97, 4):
        expected = decode(STRATEGIES.build(over), target(), prompt, new=40)
        method = STRATEGIES.build(f"{over}+extended_decoding:window=0,advance=0,longest=1")
        found = decode(method, target(), prompt, new=40)
        assert found == expected
        ends += EOS in found
    assert ends


def test_a_queue_that_is_not_the_end_of_the_prompt_is_refused() -> None:
    with pytest.raises(Unsupported, match="put it first"):
        parted(asked("R\n01").behind(ids("0")))
    with pytest.raises(Unsupported, match="whose last line is the queue"):
        parted(asked("R\n"))
    chat = asked("R\n01")
    assert chat.text is not None
    shown = replace(chat, text=replace(chat.text, render=lambda edit: f"R\n{edit('0')}1"))
    with pytest.raises(Unsupported, match="does not end in the user's message"):
        parted(shown)
    with pytest.raises(Unsupported, match="must come last"):
        decode(STRATEGIES.build("greedy+extended_decoding+no_repeat_ngram:n=2"), target(), [5, 6, 7])
