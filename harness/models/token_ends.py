"""Finds where each token of an answer ends in its text."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from harness.models.stop_rule import BROKEN


def token_ends(tokenizer: Any, tokens: Sequence[int], text: str) -> list[int]:
    """Return the number of characters of `text`, which these tokens are, after each of them; empty if unknown.

    Of a character of several tokens, the last one has all. A token is decoded after those of the last whole text,
    because decoders leave out the space before a first word.
    """
    def decoded(some: Sequence[int]) -> str:
        whole: str = tokenizer.decode(list(some), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return whole

    pieces, before, start = list[str](), 0, 0  # the last whole text begins with token `before` and ends before `start`
    for end in range(1, len(tokens) + 1):
        old, new = decoded(tokens[before:start]), decoded(tokens[before:end])
        if new.endswith(BROKEN) and end < len(tokens):
            pieces.append("")
            continue
        pieces.append(new[len(old):])
        before, start = start, end
    first = next((place for place, piece in enumerate(pieces) if piece), 0)
    if pieces and "".join(pieces[first + 1:]) == text[len(text) - sum(map(len, pieces[first + 1:])):]:
        pieces[first] = text[:len(text) - sum(map(len, pieces[first + 1:]))]
        return list(accumulate(map(len, pieces)))
    return []
