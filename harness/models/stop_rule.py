"""The stop rule: an answer ends at EOS, a stop string or the token limit, under every strategy."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.store.schema import Stop

CONTEXT = 5      # tokens that come before a window, because a first token may lose its space
BROKEN = "\ufffd"  # in place of bytes that are no character; some decoders put it in place of all bytes in a row


class Cut(NamedTuple):
    """The number of tokens kept, and the reason for the end of the answer."""

    kept: int
    reason: Stop


class StopRule:
    """The EOS ids and stop strings of one answer; the tokenizer decodes it with the end of `prompt` as context.

    A stop string may contain special tokens, as in `generate(stop_strings=…)` of transformers: it ends the answer with
    the token that completes it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], eos: frozenset[int], stops: Sequence[str]) -> None:
        self.tokenizer, self.eos, self.stops = tokenizer, eos, tuple(stops)
        self._left = [token for token in prompt[-CONTEXT:] if token not in eos]
        self._left_texts = self._decode(self._left), self._decode(self._left, special=True)
        longest = max((len(stop.encode()) for stop in self.stops), default=0)  # no token has less than a byte of text
        self._window = longest + CONTEXT

    def text(self, tokens: Sequence[int], special: bool = False) -> str:
        """Return the text of an answer's tokens, with or without special tokens."""
        return self._decode([*self._left, *tokens], special)[len(self._left_texts[special]):]

    def answer(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens up to the first stop string, without special tokens."""
        whole = self.text(tokens, special=True)
        before = self.before_stop(whole)
        if before == whole:
            return self.text(tokens)
        return re.sub("|".join(map(re.escape, self._special(tokens))) or "(?!)", "", before)

    def cut(self, tokens: Sequence[int], new: int) -> Cut | None:
        """Return the end of the answer if one of its last `new` tokens ends it, else None."""
        start = len(tokens) - new
        eos = next((i for i in range(start, len(tokens)) if tokens[i] in self.eos), len(tokens))
        if self.stops and self._may_stop(tokens[:eos], eos - start + self._window):
            for kept in range(start + 1, eos + 1):
                if self.stopped(tokens[:kept]):
                    return Cut(kept, "stop")
        return Cut(eos + 1, "eos") if eos < len(tokens) else None

    def stopped(self, tokens: Sequence[int]) -> bool:
        """Return whether the last of `tokens` completes a stop string."""
        if not self.stops or not self._may_stop(tokens, self._window):
            return False
        text = self.text(tokens, special=True)
        return any(stop in text for stop in self.stops)

    def before_stop(self, text: str) -> str:
        """Return `text` up to the first stop string."""
        starts = [text.index(stop) for stop in self.stops if stop in text]
        return text[:min(starts)] if starts else text

    def _may_stop(self, tokens: Sequence[int], last: int) -> bool:
        """Return whether the `last` tokens have a stop string or an incomplete character, whose rest may tell."""
        text = self._decode(tokens[-last:], True) if last < len(tokens) else self.text(tokens, special=True)
        return BROKEN in text or any(stop in text for stop in self.stops)

    def _special(self, tokens: Sequence[int]) -> list[str]:
        """Return the special tokens among `tokens` as text."""
        known = self.tokenizer.added_tokens_decoder
        return sorted({known[token].content for token in tokens if token in known and known[token].special})

    def _decode(self, tokens: Sequence[int], special: bool = False) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=not special,
                                          clean_up_tokenization_spaces=False)
        return text
