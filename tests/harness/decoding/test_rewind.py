"""Rewinds: a strategy that starts anew behind the tokens kept writes what it writes in one go, and bans hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from harness.decoding.rewind import Verdict, Watched
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText
from strategies.greedy import Greedy
from tests.decode import decode, engine
from tests.letters import Letters
from tests.models import prompts, tiny_model
from tests.scale import scaled

INNER = ("greedy", "speculative:gamma=3", "prompt_lookup", "lookahead", "momentum", "fsd", "fsd_vec",
         "contrastive_search", "contrastive_decoding:width=1", "guidance", "instructive", "swift",
         "greedy+frequency_penalty", "greedy+repetition_penalty:penalty=1.5,prompt=false",
         "prompt_lookup+no_repeat_ngram:n=2,prompt=false", "dola", "suffix_decoding:warm=true",
         "greedy+grammar:regex=([a-z][0-9])*", "forced+grammar:regex=([a-z]abc[0-9])*")


@dataclass(frozen=True)
class Restless(Watched):
    """Goes back two tokens after every third one, once each, and bans nothing."""

    paper: ClassVar[str] = "-"
    family: ClassVar[str] = "-"

    def watcher(self, request: Request) -> "Restless.Watcher":
        """Return the watcher of one answer."""
        return Restless.Watcher()

    class Watcher:
        """Goes back once from each multiple of three."""

        def __init__(self) -> None:
            self.seen = set[int]()

        def read(self, answer: Sequence[int]) -> list[int]:
            """Return the place of the last token before a multiple of three."""
            return [len(answer) - 1] if not (len(answer) + 1) % 3 and len(answer) + 1 not in self.seen else []

        def verdict(self, answer: Sequence[int]) -> Verdict | None:
            """Go back at each multiple of three."""
            if len(answer) % 3 or len(answer) in self.seen:
                return None
            self.seen.add(len(answer))
            return Verdict(len(answer) - 2, {})

        def cut(self, count: int) -> None:
            """Nothing to do."""


@pytest.mark.parametrize("inner", INNER)
def test_a_strategy_that_starts_anew_writes_the_same(inner: str) -> None:
    strategy = STRATEGIES.build(inner)
    target, other = engine(tiny_model("llama", layers=4)), engine(tiny_model("llama", seed=1))
    for prompt in prompts(scaled(1, 3), 97, 4):
        draft = other if "draft" in strategy.needs else None
        expected = decode(strategy, target, prompt * 2, draft=draft, new=20)
        for outer in (Restless(over=strategy), Restless(over=Restless(over=strategy))):
            assert decode(outer, target, prompt * 2, draft=draft, new=20) == expected


@torch.inference_mode()
def test_steps_free_what_is_not_held_and_count_when_they_free_nothing() -> None:
    model = Letters("^ab", {"^": "a", "a": "b", "b": "a"})
    session = Session(model.engine)
    steps = list(Restless(over=Greedy()).generate(session, Request((0,), 7, PhiloxStream(0))))
    session.close()
    assert [len(step) for step in steps] == [1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1]
    assert model.text([token for step in steps for token in step]) == "abababa"
    assert session.work.forwards == len(steps)


def test_a_request_that_goes_on_knows_its_answer() -> None:
    text = RequestText("p", lambda text: [], lambda text: [], lambda tokens: "".join(map(str, tokens)), str)
    whole = Request((7, 8), 10, PhiloxStream(0), frozenset({9}), stopped=lambda new: list(new) == [1, 2, 3], text=text)
    one = whole.behind([1])
    two = one.behind([2])
    assert two.behind([]) is two
    for request, kept in ((one, 1), (two, 2)):
        assert (request.start, request.kept, request.max_new_tokens) == (2, kept, 10 - kept)
        assert request.prompt == (7, 8, 1, 2)[:2 + kept]
        assert request.as_text.decode([5]) == "12"[:kept] + "5"
        assert request.as_text.spell([5]) == "5"
        assert request.ends([2, 3][kept - 1:])
        assert not request.ends([1, 2, 3])
        assert request.ends([9])


@pytest.mark.parametrize("inner", ["greedy", "speculative:gamma=4", "beam:width=2", "prompt_lookup"])
def test_a_ban_holds_at_its_place_only(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Letters("^abc", {"^": "a", "a": "bc", "b": "a", "c": "a"})

    class Once(Restless.Watcher):
        def read(self, answer: Sequence[int]) -> list[int]:
            return [len(answer) - 1] if len(answer) == 4 else []

        def verdict(self, answer: Sequence[int]) -> Verdict | None:
            return Verdict(3, {3: 2, 5: 2}) if len(answer) == 4 and answer[-1] == 2 else None

    monkeypatch.setattr(Restless, "watcher", lambda self, request: Once())

    assert decode(Restless(over=STRATEGIES.build(inner)), model.engine, [0], new=8, eos=None,
                  draft=model.engine if "speculative" in inner else None) == model.ids("abacacab")
