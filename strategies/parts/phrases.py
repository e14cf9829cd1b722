"""Lists of strings in a knob or in a file, and where they end a repeat."""

import re
from collections.abc import Callable, Sequence

from harness.errors import UserError
from harness.plugins.data import read_text

ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.?)", re.DOTALL)
NAMED = {"n": "\n", "t": "\t", "s": " ", "\\": "\\", ";": ";"}


def inline(text: str | None) -> list[str]:
    r"""Return the strings of a knob, separated by `;`; None and the empty text have none.

    `\n`, `\t`, `\s` (space), `\;`, `\\`, `\x2c` and `\u002c` stand for what a spec cannot have.
    """
    return [_plain(part) for part in re.findall(r"(?:\\.|[^\\;]|\\$)+", text or "", re.DOTALL)]


def from_file(path: str) -> list[str]:
    """Return the strings of a file, one a line, with the same escapes; empty lines do not count.

    Raises `UserError` if it cannot be read or has none.
    """
    strings = [_plain(line) for line in read_text(path).splitlines() if line.strip()]
    if not strings:
        raise UserError(f"{path} has no strings: write one a line.")
    return strings


def _plain(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1]
        if code in NAMED:
            return NAMED[code]
        if len(code) < 2:
            raise UserError(rf"In '{text}', '\{code}' is unknown: write \n, \t, \s, \;, \\, \x2c or \u002c.")
        return chr(int(code[1:], 16))
    return ESCAPE.sub(character, text)


class Breakers:
    """Strings that end a repeat, found in the text of the tokens; `spell` gives that of a token.

    A string may begin inside a token and end inside a later one. One with a character of several tokens is not found.
    """

    def __init__(self, strings: Sequence[str], spell: Callable[[Sequence[int]], str]) -> None:
        self.strings, self.spell, self._pieces = strings, spell, dict[int, str]()
        self._reach = max(map(len, strings), default=0)

    def spares(self, token: int) -> bool:
        """Return whether the token's text has a whole breaker in it."""
        return any(string in self._piece(token) for string in self.strings)

    def after(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens after the last breaker; all of them if there is none."""
        ahead = ""  # the text after the token, as far as a breaker reaches
        for count, token in enumerate(reversed(tokens)):
            piece = self._piece(token)
            ahead = piece + ahead
            ends = [at + len(string) for string in self.strings
                    if (at := ahead.rfind(string, 0, len(piece) + len(string) - 1)) >= 0]
            if ends:
                return count - self._reached(tokens, len(tokens) - count, max(ends) - len(piece))
            ahead = ahead[:self._reach]
        return len(tokens)

    def _reached(self, tokens: Sequence[int], start: int, characters: int) -> int:
        """Return how many tokens from `start` on the next `characters` reach into."""
        count = 0
        while characters > 0:
            characters -= len(self._piece(tokens[start + count]))
            count += 1
        return count

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.spell([token])
        return self._pieces[token]
