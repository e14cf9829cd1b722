"""The text of an answer while it grows, and the token that each character came from."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from harness.models.stop_rule import BROKEN

BYTES = 4  # of the longest character in UTF-8, and so the most tokens that can be one


class Written:
    """The text of tokens; `spell` gives that of some tokens, `fold` changes it character by character.

    The tokens of a character that has several belong together. Until it is complete they have no text.
    """

    def __init__(self, spell: Callable[[Sequence[int]], str], fold: Callable[[str], str]) -> None:
        self.spell, self.fold, self.tokens, self.text = spell, fold, list[int](), ""
        self.begins, self.heads = list[int](), list[int]()  # of each token its text's start, and the first of its group

    @property
    def whole(self) -> int:
        """The number of tokens that have text."""
        return len(self.begins)

    def append(self, token: int) -> int:
        """Add a token and return the number of characters that the text grew by."""
        self.tokens.append(token)
        before = len(self.text)
        while size := len(self.tokens) - self.whole:
            piece = self._piece(size)
            if piece.endswith(BROKEN):
                if size < BYTES:
                    break
                size, piece = 1, self._piece(1)  # its first byte begins no character
            self.heads += [self.whole] * size
            self.begins += [len(self.text)] * size
            self.text += self.fold(piece)
        return len(self.text) - before

    def _piece(self, size: int) -> str:
        """Return the text of the next tokens without text, decoded behind the last that has some."""
        start = self.heads[-1] if self.heads else 0
        return self.spell(self.tokens[start:self.whole + size])[len(self.spell(self.tokens[start:self.whole])):]

    def cut(self, count: int) -> None:
        """Keep the first `count` tokens."""
        if count < self.whole:
            head = self.heads[count]
            self.text = self.text[:self.begins[count]]
            del self.begins[head:], self.heads[head:]
        del self.tokens[count:]

    def token_of(self, place: int) -> int:
        """Return the first token of those that the character at `place` came from."""
        return self.heads[bisect_right(self.begins, place) - 1]


def lower(text: str) -> str:
    """Return `text` in lower case, character by character, so that its length stays."""
    return "".join(small if len(small := character.lower()) == 1 else character for character in text)
