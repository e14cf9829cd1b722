"""The stop rule: an answer ends at EOS, a stop string or the token limit, under every strategy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.store.schema import Stop


class Cut(NamedTuple):
    """The number of tokens kept, and the reason for the end of the answer."""

    kept: int
    reason: Stop


class StopRule:
    """The EOS ids and stop strings of one answer; the tokenizer decodes it with the end of `prompt` as context."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], eos: frozenset[int], stops: Sequence[str]) -> None:
        self.tokenizer, self.eos, self.stops = tokenizer, eos, tuple(stops)
        self._left = [token for token in prompt[-4:] if token not in eos]
        self._left_text = self._decode(self._left)
        self._longest = max(map(len, self.stops), default=0) + 4

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens, without special tokens."""
        return self._decode([*self._left, *tokens])[len(self._left_text):]

    def cut(self, tokens: Sequence[int], new: int) -> Cut | None:
        """Return the end of the answer if one of its last `new` tokens ends it, else None."""
        start = len(tokens) - new
        eos = next((i for i in range(start, len(tokens)) if tokens[i] in self.eos), len(tokens))
        if self.stops and self._stop_in(tokens[max(0, start - self._longest):eos]):
            for kept in range(start + 1, eos + 1):
                if self._stop_in(tokens[max(0, start - self._longest):kept]):
                    return Cut(kept, "stop")
        return Cut(eos + 1, "eos") if eos < len(tokens) else None

    def stopped(self, tokens: Sequence[int]) -> bool:
        """Return whether the last of `tokens` completes a stop string."""
        return bool(self.stops) and self._stop_in(tokens[-self._longest:])

    def before_stop(self, text: str) -> str:
        """Return `text` up to the first stop string."""
        starts = [text.index(stop) for stop in self.stops if stop in text]
        return text[:min(starts)] if starts else text

    def _stop_in(self, tokens: Sequence[int]) -> bool:
        text = self._decode(tokens)
        return any(stop in text for stop in self.stops)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
