"""Forced: draft the tokens about which a grammar leaves no choice.

Where only one text may follow, as after `{"na` in an answer with the key `name`, that text is drafted and verified in
one forward. It goes with a grammar, `forced+json_schema:file=s.json`; without one it drafts nothing. The tokens are
those that the library llguidance calls fast-forward tokens (github.com/guidance-ai/llguidance). Here they count as
chosen drafts, so that the distribution is exact: a model may spell the same text in other tokens, which the mask
allows. `length` limits a draft. `temperature` and `p` set the distribution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class Known:
    """Drafts what `forced` returns for the tokens after `start`."""

    forced: Callable[[Sequence[int]], list[int]]
    start: int
    length: int

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft the forced tokens, at most `limit` of them."""
        return TokenTree.chain(self.forced(sequence[self.start:])[:min(limit, self.length)])


@dataclass(frozen=True)
class Forced(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    length: int = knob(32, "tokens drafted at most", low=1, high=256, sweep=(4, 8, 32))

    paper: ClassVar[str] = "github.com/guidance-ai/llguidance"

    def drafter(self, session: Session, request: Request) -> Known:
        """Return the drafter of the request's grammar."""
        return Known(request.forced, request.start, self.length)
