"""Grammar: any strategy, restricted to answers that a regular expression or a grammar allows.

The library llguidance (Guidance and Microsoft Research, github.com/guidance-ai/llguidance) says which tokens may follow
the answer so far; all others are masked before temperature and truncation, and EOS is possible only where the answer is
complete. `regex` is a regular expression of the whole answer, in which `.` is no line break; `file` is a grammar in
llguidance's dialect of Lark, whose first rule is `start`. A regular expression with a comma, or with `+` before a
letter, goes into a file: `start: /[a-z]{1,3}/`. Written `beam+grammar:regex=(yes|no)`.

Masking renormalises the tokens that are left at each step. That is not the model's distribution given that the answer
fits the grammar, which would also weigh how likely each token leads to a complete answer. And a mask can leave only
tokens that spell the text in an unusual way, to which a model gives little probability.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.grammar import Structured, library
from harness.errors import UserError
from harness.plugins.data import read_text
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class Grammar(Structured):
    """Identity: a grammar that allows every text, `regex=(?s:.*)`, is the other strategy, unless it writes no UTF-8."""

    regex: str = knob("", "regular expression of the whole answer")
    file: str = knob("", "file with a grammar in llguidance's dialect of Lark, instead of regex", file=True)

    paper: ClassVar[str] = "github.com/guidance-ai/llguidance"

    def __post_init__(self) -> None:
        """Refuse two grammars."""
        super().__post_init__()
        if self.regex and self.file:
            raise UserError("grammar: give regex or file, not both.")

    def grammar(self, request: Request) -> str:
        """Return the grammar of the knobs; raises `UserError` if there is none."""
        if not self.regex and not self.file:
            raise UserError("grammar needs a grammar: give regex=… or file=….")
        matcher = library().LLMatcher
        text: str = matcher.grammar_from_regex(self.regex) if self.regex else \
            matcher.grammar_from_lark(read_text(self.file))
        return text
