r"""Banned strings: when the text contains one, go back, ban a token there, and write on, in any strategy.

koboldcpp 1.76 ("antislop"), ik_llama and antislop do so. `strings` are separated by `;`, those of `file` are one a
line; in both `\n`, `\s` (space), `\;` and `\x2c` (comma) stand for what a spec cannot have. A string counts wherever it
occurs in the text, also inside a word and across tokens. `cut` says which tokens are banned, each at its place only:
first goes back to the token in which the string begins and bans it there; all goes back as far and bans each token of
the string at its own place; last bans only the token that completes the string. After `tries` rewinds to one place, or
where nothing else is possible, the string stays.

The text is not distributed as the model's without these strings: first and all ban what a token might have led to.
last leaves the rest of the distribution of each token as it is. Each rewind costs the forwards of what is dropped.
The end of the text is held back as long as a string may begin in it. koboldcpp has other limits on tries, and antislop
lowers probabilities instead. Written `top_p+banned_strings:strings=tapestry;testament to`; alone it is over greedy. A
grammar comes after it, `banned_strings:…+grammar:…`: the other way round, it may be left without a token.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.rewind import Verdict, Watched
from harness.plugins.strategy import Request, knob
from strategies.parts.phrases import from_file, inline
from strategies.parts.written import Written, lower


@dataclass(frozen=True)
class BannedStrings(Watched):
    """Identity: without strings, with strings that never occur, or with `tries=0` it is the other strategy."""

    strings: str = knob("", "banned strings with ; between them")
    file: str = knob("", "file of banned strings, one a line", file=True)
    cut: str = knob("first", "which tokens of a string are banned", choices=("first", "last", "all"),
                    sweep=("first", "last", "all"))
    tries: int = knob(16, "rewinds to one place; then the string stays", low=0, high=10000, sweep=(1, 4, 16))
    ignore_case: bool = knob(True, "whether other cases of a letter count", sweep=(True, False))

    paper: ClassVar[str] = "github.com/LostRuins/koboldcpp/releases/tag/v1.76"
    family: ClassVar[str] = "constraints"

    def __post_init__(self) -> None:
        """Raise `UserError` for an escape that does not exist or a file that cannot be read."""
        super().__post_init__()
        self.all()

    def all(self) -> list[str]:
        """Return the strings of both knobs."""
        return [*inline(self.strings), *(from_file(self.file) if self.file else [])]

    def watcher(self, request: Request) -> "Bans | None":
        """Return the watcher of one answer, None without strings."""
        strings = self.all()
        return Bans(self, strings, request) if strings and self.tries else None


class Bans:
    """Finds banned strings in one answer, and counts the rewinds to each place."""

    def __init__(self, knobs: BannedStrings, strings: Sequence[str], request: Request) -> None:
        fold = lower if knobs.ignore_case else str
        self.knobs, self.written, self.rewinds = knobs, Written(request.as_text.spell, fold), Counter[int]()
        self.strings = {fold(string) for string in strings}
        self.sizes = sorted({len(string) for string in self.strings}, reverse=True)
        self.begun = {string[:size] for string in self.strings for size in range(1, len(string))}
        self.new = 0  # characters of the last token

    def read(self, answer: Sequence[int]) -> list[int]:
        """Return the tokens in which a string may have begun, and the first one of an incomplete character."""
        written = self.written
        self.new = written.append(answer[-1])
        if self.knobs.cut == "last":
            return []
        begins = [len(written.text) - size for size in range(1, min(self.sizes[0], 1 + len(written.text)))
                  if written.text[-size:] in self.begun]
        return [*map(written.token_of, begins), *([written.whole] if written.whole < len(answer) else [])]

    def verdict(self, answer: Sequence[int]) -> Verdict | None:
        """Return where to go back to if the last token completes a string."""
        last = len(answer) - 1
        for begin in self._found():
            place = last if self.knobs.cut == "last" else self.written.token_of(begin)
            if self.rewinds[place] < self.knobs.tries:
                self.rewinds[place] += 1
                upto = last if self.knobs.cut == "all" else place
                return Verdict(place, {at: answer[at] for at in range(place, upto + 1)})
        return None

    def cut(self, count: int) -> None:
        """Forget all but the first tokens; rewinds to later places still count, so that their number is limited."""
        self.written.cut(count)

    def _found(self) -> list[int]:
        """Return where the strings begin that the last token completes; those that end first come first."""
        text = self.written.text
        return [end - size for end in range(len(text) - self.new + 1, len(text) + 1) for size in self.sizes
                if size <= end and text[end - size:end] in self.strings]
