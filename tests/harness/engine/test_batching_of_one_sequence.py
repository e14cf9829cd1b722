"""Jobs of one text that run side by side: alone, among other texts, within each other, failing, and without room."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.engine import Engine
from harness.engine.session import Session
from tests.decode import engine
from tests.models import prompts, tiny_model

MODEL, SMALL = tiny_model("llama"), tiny_model("llama", seed=1)


def further(session: Session, first: int, new: int = 6) -> list[int]:
    """`first`, then greedy's tokens, on a copy of the text."""
    copy = session.fork()
    try:
        text = [*copy.tokens, first]
        for _ in range(new):
            copy.follow(text)
            text += copy.read().best
        return text[-new:]
    finally:
        copy.close()


def branches(target: Engine, prompt: Sequence[int], firsts: Sequence[int], draft: Engine | None = None
             ) -> list[list[int]]:
    """What follows each of `firsts`, side by side."""
    session = Session(target, Session(draft) if draft else None)
    try:
        session.follow(prompt)
        session.read()
        return session.run_batched([partial(further, session, first) for first in firsts])
    finally:
        session.close()


def one_by_one(prompt: Sequence[int], firsts: Sequence[int]) -> list[list[int]]:
    return [branches(engine(MODEL), prompt, [first])[0] for first in firsts]


@torch.inference_mode()
def test_branches_share_their_forwards_and_the_prompt() -> None:
    target, prompt = engine(MODEL), prompts(1, 97, 1)[0]
    assert branches(target, prompt, [5, 9, 20, 33]) == one_by_one(prompt, [5, 9, 20, 33])
    assert (target.forwards, target.positions, target.open_rows) == (1 + 6, len(prompt) + 4 * 6, 0)


@torch.inference_mode()
def test_branches_of_many_texts_share_forwards_too() -> None:
    target, draft, texts = engine(MODEL), engine(SMALL), prompts(5, 97, 2)
    jobs = [partial(branches, target, prompt, [5, 9, 20], draft) for prompt in texts]
    assert run_batched([target, draft], jobs, 2) == [one_by_one(prompt, [5, 9, 20]) for prompt in texts]
    assert target.forwards < 5 * 7
    assert (target.open_rows, draft.open_rows, target.merging, draft.merging) == (0, 0, False, False)


@torch.inference_mode()
def test_branches_branch() -> None:
    target, prompt = engine(MODEL), prompts(1, 97, 3)[0]

    def twice() -> list[list[list[int]]]:
        def inner(first: int) -> list[list[int]]:
            copy = session.fork()
            copy.follow([*prompt, first])
            copy.read()
            return copy.run_batched([partial(further, copy, second) for second in (7, 8)])
        session = Session(target)
        session.follow(prompt)
        session.read()
        found = session.run_batched([partial(inner, first) for first in (5, 9)])
        session.close()
        return found
    expected = [one_by_one([*prompt, first], [7, 8]) for first in (5, 9)]
    assert twice() == expected
    assert run_batched([target], [twice, twice, twice]) == [expected] * 3
    assert target.open_rows == 0


def failing(target: Engine, prompt: Sequence[int], caught: list[str]) -> str:
    session = Session(target)

    def bad() -> list[int]:
        further(session, 5, 2)
        raise ValueError("no more")
    try:
        session.follow(prompt)
        session.read()
        session.run_batched([partial(further, session, 5), bad, partial(further, session, 9)])
        return "went on"
    except ValueError as error:
        caught.append(str(error))
        return "ended"
    finally:
        session.close()


@torch.inference_mode()
def test_what_one_branch_raises_ends_the_others_and_no_other_text() -> None:
    target, texts, caught = engine(MODEL), prompts(3, 97, 4), list[str]()
    bad: Callable[[], object] = partial(failing, target, texts[0], caught)
    good = [partial(branches, target, text, [5, 9]) for text in texts[1:]]
    assert run_batched([target], [good[0], bad, good[1]]) == [one_by_one(texts[1], [5, 9]), "ended",
                                                           one_by_one(texts[2], [5, 9])]
    assert (bad(), caught, target.open_rows) == ("ended", ["no more"] * 2, 0)


def with_room(slots: int) -> Engine:
    """An engine whose cache may hold so many tokens, once it knows what they take."""
    target = engine(MODEL)
    session = Session(target)
    session.follow([5])
    session.read()
    session.close()
    target.cache.budget = slots * target.cache.slot_bytes()
    return target


@pytest.mark.parametrize("slots", [256, 320, 600, 1200])
@torch.inference_mode()
def test_without_room_they_run_one_after_the_other(slots: int) -> None:
    target, texts = with_room(slots), prompts(4, 97, 5)
    jobs = [partial(branches, target, text, [5, 9, 20, 33]) for text in texts]
    expected = [one_by_one(text, [5, 9, 20, 33]) for text in texts]
    assert run_batched([target], jobs) == expected
    assert jobs[2]() == expected[2]
    assert target.open_rows == 0
    assert target.cache.rows * target.cache.slots * target.cache.slot_bytes() <= target.cache.budget


@torch.inference_mode()
def test_a_text_that_does_not_fit_at_all_says_so() -> None:
    target, prompt = with_room(256), prompts(1, 97, 6)[0] * 20
    with pytest.raises(CacheFull, match="raise --cache-gb"):
        branches(target, prompt, [5, 9])
    done = run_batched([target], [partial(branches, target, prompt, [5, 9])] * 2)
    assert all(isinstance(each, CacheFull) for each in done)
