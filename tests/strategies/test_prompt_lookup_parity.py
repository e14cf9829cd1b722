"""Drafts of prompt lookup against transformers' generator and reimplemented rules, on sequences of few tokens."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from harness.decoding.loop import Step
from harness.engine.tree import TokenTree
from strategies.prompt_lookup import FILLER, PromptLookup
from tests.decode import engine
from tests.models import tiny_model

Ids = list[int]
STEP: Step = None  # type: ignore[assignment]  # lookup does not ask what the last step showed


def texts(seed: int, count: int = 1500) -> Iterator[tuple[random.Random, Ids]]:
    """Yield sequences of 1 to 40 tokens of 1 to 6 kinds, with many repeats, and random numbers for the knobs."""
    draw = random.Random(seed)
    for _ in range(count):
        kinds = draw.randint(1, 6)
        yield draw, [draw.randrange(kinds) for _ in range(draw.randint(1, 40))]


def drafted(text: Ids, limit: int = 1000, **knobs: Any) -> Ids:
    """Return the strategy's draft after `text`."""
    session: Any = type("Session", (), {"engine": TINY, "source": ()})
    request: Any = None
    tree = PromptLookup(**knobs).drafter(session, request).draft(text, STEP, limit)
    assert tree == TokenTree.chain(tree.tokens)
    return list(tree.tokens)


TINY = engine(tiny_model("llama"))


def transformers_drafts(text: Ids, length: int, ngram: int, room: int = 1000, eos: int | None = None) -> Ids:
    """Return the library's draft, for sequences of at most `room` tokens more than `text`."""
    maker = PromptLookupCandidateGenerator(
        eos_token_id=None if eos is None else torch.tensor([eos]), num_output_tokens=length,
        max_matching_ngram_size=ngram, max_length=len(text) + room)
    found: Ids = maker.get_candidates(torch.tensor([text]))[0][0].tolist()
    assert found[:len(text)] == text
    return found[len(text):]


def test_longest_is_transformers() -> None:
    sizes = set[int]()
    for draw, text in texts(1):
        length, ngram = draw.randint(1, 12), draw.randint(1, 6)
        found = drafted(text, length=length, max_ngram=ngram)
        assert found == transformers_drafts(text, length, ngram), (text, length, ngram)
        sizes.add(len(found))
    assert sizes == set(range(13))  # none, short ones and whole ones were all met


def test_its_defaults_are_two_and_ten() -> None:
    maker = PromptLookupCandidateGenerator()
    assert (maker.max_matching_ngram_size, maker.num_output_tokens) == (2, 10)
    for _, text in texts(2, 300):
        assert drafted(text, max_ngram=2) == transformers_drafts(text, 10, 2)


def test_where_transformers_stops_at_the_end() -> None:
    """It ends a draft before EOS, where ours goes on: the runner ends the text there, and nothing else differs."""
    cut = 0
    for draw, text in texts(3):
        length, ngram, eos = draw.randint(1, 12), draw.randint(1, 6), draw.randint(0, 5)
        found = drafted(text, length=length, max_ngram=ngram)
        before = found[:found.index(eos)] if eos in found else found
        assert transformers_drafts(text, length, ngram, eos=eos) == before
        cut += before != found
    assert cut > 100


def test_room_for_one_token_is_room_for_no_draft() -> None:
    """The loop does not ask for a draft then; with more room ours is cut to it, theirs only by `generate` later."""
    for draw, text in texts(4, 300):
        length, ngram, room = draw.randint(1, 12), draw.randint(1, 6), draw.randint(1, 6)
        theirs = transformers_drafts(text, length, ngram, room)
        assert theirs == [] if room == 1 else drafted(text, room - 1, length=length, max_ngram=ngram) == \
            theirs[:room - 1]


@pytest.mark.parametrize(("knobs", "other"), [({"latest": True}, {}), ({"variant": "original"}, {}),
                                              ({"min_ngram": 2}, {}), ({}, {"ngram": 2})])
def test_other_knobs_are_not_transformers(knobs: dict[str, Any], other: dict[str, int]) -> None:
    ngram = other.get("ngram", 3)
    assert any(drafted(text, length=4, max_ngram=3, **knobs) != transformers_drafts(text, 4, ngram)
               for _, text in texts(5, 300))


def vllm_drafts(text: Ids, length: int, low: int, high: int) -> Ids:
    """The rule of its n-gram proposer: of all earlier ends the one that agrees with the end of the text longest.

    Agreement counts up to `high` tokens and must reach `low`; the earliest of equals wins; up to `length` tokens.
    """
    agreed = [0] * len(text)
    for end in range(1, len(text)):
        while agreed[end] < min(high, end) and text[end - 1 - agreed[end]] == text[len(text) - 1 - agreed[end]]:
            agreed[end] += 1
    best = max(agreed)
    return text[agreed.index(best):][:length] if best >= low else []


def test_longest_is_vllm() -> None:
    sizes = set[int]()
    for draw, text in texts(6, 4000):
        high = draw.randint(1, 7)
        low, length = draw.randint(1, high), draw.randint(1, 12)
        found = drafted(text, length=length, max_ngram=high, min_ngram=low)
        assert found == vllm_drafts(text, length, low, high), (text, length, low, high)
        sizes.add(len(found))
    assert sizes == set(range(13))
    assert vllm_drafts([1, 2, 3, 4, 2, 3], 4, 2, 3) == [4, 2, 3]


def original_drafts(text: Ids, length: int, ngram: int) -> Ids:
    """Saxena's rule: a whole continuation that does not begin in the last n tokens, the longest n, the first place."""
    for n in range(min(ngram, len(text) - 1), 0, -1):
        for end in range(n, len(text) - n):
            if text[end - n:end] == text[-n:] and end + length <= len(text):
                return text[end:end + length]
    return []


def test_original_and_spec_bench() -> None:
    found = set[bool]()
    for draw, text in texts(7):
        length, ngram = draw.randint(1, 12), draw.randint(1, 6)
        expected = original_drafts(text, length, ngram)
        assert drafted(text, length=length, max_ngram=ngram, variant="original") == expected
        filler = [min(FILLER, 96)]
        assert drafted(text, length=length, max_ngram=ngram, variant="spec_bench") == (expected or filler)
        found.add(bool(expected))
    assert found == {False, True}
