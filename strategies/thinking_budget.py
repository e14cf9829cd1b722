"""Thinking budget: end a thinking section after a number of tokens by forcing its end marker, in any strategy.

As in vLLM (pull request 20859) and llama.cpp (`--reasoning-budget`). A section begins after the marker `start`, also in
the prompt, whose tokens after it count. When it has `tokens` tokens, `message` and the marker `end` are forced, token
by token; then the model is free, and the next section has the whole budget again. A section that the model ends itself
is left alone. Unlike in vLLM, a second `start` inside a section of the answer does not renew the budget. With
`tokens=0` each section ends at once, with none there is no limit.

Markers are found as the tokens that they have on their own; if a model never writes `start` as these tokens, nothing is
limited. Written `speculative+thinking_budget:tokens=256`; alone it is over greedy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from harness.decoding.penalty import Penalty
from harness.engine.logit_warps import Warp, identity
from harness.errors import Unsupported, UserError
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Request, knob

REFUSED = "thinking_budget needs its markers as tokens, which no logits processor of vLLM gets: run it with " \
          "--backend transformers"


@dataclass(frozen=True)
class ThinkingBudget(Penalty):
    """Identity: `tokens=none`, or a number that no section reaches, is the other strategy."""

    tokens: int | None = knob(1024, "maximum tokens of a section; none for no limit", low=0, high=10**6,
                              sweep=(0, 64, 256, 1024))
    start: str = knob("<think>", "marker that begins a section")
    end: str = knob("</think>", "marker that ends it")
    message: str = knob("", "text forced before the end marker")

    paper: ClassVar[str] = "github.com/vllm-project/vllm/pull/20859"
    family: ClassVar[str] = "constraints"

    def __post_init__(self) -> None:
        """Refuse markers by which a section could not be told from what follows it."""
        super().__post_init__()
        if not self.start or not self.end or self.start == self.end:
            raise UserError("thinking_budget needs two different markers: set start and end.")
        if self.start in self.message or self.end in self.message:
            raise UserError("thinking_budget: the message must not contain a marker.")

    def warp(self, start: int) -> Warp:
        """Raise `Unsupported`, as the markers are text."""
        raise Unsupported(REFUSED)

    def request_warp(self, request: Request) -> Warp:
        """Return the logit warp that forces the next token of message and end marker where it is due."""
        if self.tokens is None:
            return identity
        ids = request.as_text.tokens
        sections = Sections(ids(self.start), ids(self.end), ids(self.message) if self.message else [], self.tokens,
                            request.start)
        return sections.warp

    def native(self, options: NativeOptions) -> NativeCall:
        """Raise `Unsupported`: an engine's logits processor has no text."""
        raise Unsupported(REFUSED)


@dataclass(frozen=True)
class Sections:
    """The token ids of the markers and of the message, the budget, and where the answer begins."""

    start: list[int]
    end: list[int]
    message: list[int]
    budget: int
    answer: int

    def due(self, sequence: Sequence[int]) -> int | None:
        """Return the token that must come next, None if the model is free."""
        sequence = list(sequence)
        begun = self.begun(sequence)
        if begun is None:
            return None
        forced, place = [*self.message, *self.end], len(sequence) - max(begun + self.budget, self.answer)
        return forced[place] if 0 <= place < len(forced) else None

    def begun(self, sequence: Sequence[int]) -> int | None:
        """Return the index after the marker that begins the open section, None if there is no open one.

        In the prompt the last marker counts, as an earlier one may only be talked about; in the answer the first one.
        """
        closed = max(ends(sequence, self.end), default=0)
        starts = [end for end in ends(sequence, self.start) if end - len(self.start) >= closed]
        before = [end for end in starts if end <= self.answer]
        return before[-1] if before else starts[0] if starts else None

    def warp(self, logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Mask all tokens but the one that is due."""
        due = {row: token for row in range(len(logits)) if (token := self.due(sequences[row])) is not None}
        if not due:
            return logits
        warped = logits.clone()
        warped[list(due)] = -inf
        warped[list(due), list(due.values())] = 0
        return warped


def ends(sequence: Sequence[int], marker: Sequence[int]) -> list[int]:
    """Return the index after each occurrence of `marker` in the sequence, in order."""
    return [end for end in range(len(marker), len(sequence) + 1)
            if sequence[end - 1] == marker[-1] and sequence[end - len(marker):end] == marker]
