"""Where each token of an answer ends in its text."""

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from harness.models.stop_rule import StopRule
from harness.models.token_ends import token_ends
from tests.harness.models.test_stop_rule import llama_tokenizer, nano_tokenizer

TEXTS = ["the end of it", " the end", "🦜🦜 and ᚠ, ок", "a\n\nb  c", ""]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", [nano_tokenizer, llama_tokenizer])
def test_pieces_are_the_tokens(kind: Callable[[], Any], text: str) -> None:
    words = kind()
    prompt, tokens = words("one of")["input_ids"], [*words(text, add_special_tokens=False)["input_ids"],
                                                    words.eos_token_id]
    raw = StopRule(words, prompt, frozenset(), ()).text(tokens)
    ends = token_ends(words, tokens, raw)
    assert len(ends) == len(tokens)
    assert ends[-1] == len(raw)
    for token, (start, end) in zip(tokens, pairwise([0, *ends]), strict=True):
        piece = words.decode([token], skip_special_tokens=True)
        if "\ufffd" not in piece and end > start:
            assert raw[start:end].strip().endswith(piece.strip())


def test_a_character_of_several_tokens_ends_with_the_last_one() -> None:
    words = nano_tokenizer()
    tokens = words("a🦜b", add_special_tokens=False)["input_ids"]
    ends = token_ends(words, tokens, "a🦜b")
    assert len(tokens) == 6  # the parrot has four bytes
    assert ends == [1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("kind", [nano_tokenizer, llama_tokenizer])
def test_random_tokens_have_their_ends_or_none(kind: Callable[[], Any]) -> None:
    words, random = kind(), Random(2)
    for _ in range(200):
        tokens = [random.randrange(3, len(words)) for _ in range(30)]
        raw = StopRule(words, [], frozenset(), ()).text(tokens)
        if ends := token_ends(words, tokens, raw):
            assert ends == sorted(ends)
            assert (len(ends), ends[-1]) == (len(tokens), len(raw))


def test_the_ends_of_another_text_are_unknown() -> None:
    words = nano_tokenizer()
    assert token_ends(words, words("a bird and a cat")["input_ids"], "a fish and a dog") == []
