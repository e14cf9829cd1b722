"""N-gram pool: one hash table without keys maps the last tokens to the next one, and drafts follow it token by token.

`ngram-mod` of llama.cpp (common/ngram-mod.cpp and docs/speculative.md, read at 20a0483). The slot of an n-gram is a
linear congruential hash of its `n` tokens modulo `slots`; the token after it is written there, the last one wins, and a
collision only drafts a wrong token. A draft is read from the table from the last `n` tokens on, each drafted token
being part of the next n-gram, until an empty slot or `n_max` tokens; one shorter than `n_min` is dropped. When less
than `reset` of a draft is accepted `patience` times running, the table is emptied and this sequence written again.

The defaults are llama.cpp's, for long texts: with answers of a few hundred tokens take n=3, n_min=1, n_max=16. `warm`
shares one table between all sequences, as the slots of its server do; drafts then depend on what ran before and beside.
llama.cpp writes new tokens of an answer 32 at a time and also empties a table that has been overwritten for a quarter;
here each step writes, and only acceptance empties. `temperature` and `p` set the distribution, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Request, knob
from strategies.drafters.source_first import TextDrafter, with_source

FACTOR = 6364136223846793005  # of the hash, modulo 2⁶⁴
Table = dict[int, int]
"""The token in every slot that is not empty."""


def slot(tokens: Sequence[int], slots: int) -> int:
    """Return the slot of an n-gram."""
    hashed = 0
    for token in tokens:
        hashed = (hashed * FACTOR + token) % 2**64
    return hashed % slots


@dataclass(frozen=True)
class NgramPool(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    n: int = knob(24, "tokens of an n-gram", low=1, high=256, sweep=(2, 3, 4, 6, 24))
    n_min: int = knob(48, "shortest draft, in tokens", low=1, high=1024, sweep=(1, 4, 48))
    n_max: int = knob(64, "longest draft, in tokens", low=1, high=1024, sweep=(16, 32, 64))
    slots: int = knob(4 * 2**20, "slots of the table", low=1, high=2**32, sweep=(2**16, 2**22))
    reset: float = knob(0.25, "share of a draft below which acceptance is low; 0 never empties the table", low=0,
                        high=1, sweep=(0.0, 0.25, 0.5))
    patience: int = knob(5, "drafts of low acceptance in a row that empty the table", low=1, high=1024, sweep=(3, 5))
    warm: bool = knob(False, "share one table between all sequences", sweep=(False, True))

    paper: ClassVar[str] = "llama.cpp, github.com/ggml-org/llama.cpp (ngram-mod)"
    stateful: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a shortest draft that is longer than the longest."""
        super().__post_init__()
        if self.n_min > self.n_max:
            raise UserError(f"ngram_pool: n_min={self.n_min} is more than n_max={self.n_max}.")

    def drafter(self, session: Session, request: Request) -> TextDrafter:
        """The table, empty unless `warm`."""
        table: Table = session.engine.learnt.setdefault(self.spec(), {}) if self.warm else {}
        return with_source(session, Pooled(self, table))


class Pooled:
    """Follows the table, and writes the sequence into it; `low` counts the last drafts of low acceptance."""

    def __init__(self, knobs: NgramPool, table: Table) -> None:
        self.knobs, self.table, self.written, self.low = knobs, table, 0, 0

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens; empty when the table knows too little."""
        if len(last.tree):
            self.judge(len(last.path) / len(last.tree))
        return self.extend(sequence, (), limit)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below `sequence` and the tokens `drafted` below it, which are not written."""
        self.write(sequence)
        tokens = self.follow([*sequence, *drafted])
        return TokenTree.chain(tokens[:limit]) if len(tokens) >= self.knobs.n_min else EMPTY

    def write(self, sequence: Sequence[int]) -> None:
        """Write the n-grams that the sequence has gained, each with the token after it."""
        n, slots = self.knobs.n, self.knobs.slots
        for start in range(self.written, len(sequence) - n):
            self.table[slot(sequence[start:start + n], slots)] = sequence[start + n]
        self.written = max(self.written, len(sequence) - n)

    def follow(self, sequence: Sequence[int]) -> list[int]:
        """Return up to `n_max` tokens after the last n-gram of the sequence, by the table."""
        knobs, tokens = self.knobs, list(sequence[-self.knobs.n:])
        while len(tokens) >= knobs.n and len(tokens) - knobs.n < knobs.n_max:
            token = self.table.get(slot(tokens[-knobs.n:], knobs.slots))
            if token is None:
                break
            tokens.append(token)
        return tokens[knobs.n:]

    def judge(self, accepted: float) -> None:
        """Count a draft of which the share `accepted` was right, and empty the table after too many poor ones."""
        self.low = self.low + 1 if accepted < self.knobs.reset else 0
        if self.low == self.knobs.patience:
            self.table.clear()
            self.low = self.written = 0
