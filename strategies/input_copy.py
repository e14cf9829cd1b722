"""Input copy: if the last tokens of the output occur in the prompt exactly once, draft what follows there.

Input-guided aggressive decoding, Ge et al. 2022 (arXiv 2205.10350); also for models without an encoder, where the
prompt is the input. The last `min_ngram` … `max_ngram` tokens of the output are looked up; the shortest n-gram that
occurs exactly once decides, and up to `length` tokens after it are drafted. After a rejection decoding is token by
token until the next such match. `temperature` and `p` set the distribution, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Request, knob
from strategies.drafters.source_first import TextDrafter, with_source


class SourceCopy:
    """Copies from `source`; `ends` maps each n-gram to its end, or to None if it occurs more than once."""

    def __init__(self, source: Sequence[int], low: int, high: int, length: int) -> None:
        self.source, self.sizes, self.length = source, range(low, high + 1), length
        self.ends = dict[tuple[int, ...], int | None]()
        for size in self.sizes:
            for end in range(size, len(source) + 1):
                gram = tuple(source[end - size:end])
                self.ends[gram] = None if gram in self.ends else end

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens of the source."""
        return self.extend(sequence, (), limit)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below `sequence` and the tokens `drafted` below it."""
        return TokenTree.chain(self.copy([*sequence[len(self.source):], *drafted])[:limit])

    def copy(self, output: Sequence[int]) -> Sequence[int]:
        """Return the source after the only match of the last tokens of `output`; empty for none or several."""
        for size in self.sizes:
            if size <= len(output) and (end := self.ends.get(tuple(output[-size:]))) is not None:
                return self.source[end:end + self.length]
        return ()


@dataclass(frozen=True)
class InputCopy(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    min_ngram: int = knob(1, "shortest n-gram looked up, in tokens", low=1, high=64, sweep=(1, 2, 3))
    max_ngram: int = knob(3, "longest n-gram looked up, in tokens", low=1, high=64, sweep=(1, 2, 3, 5))
    length: int = knob(200, "maximum tokens drafted per step", low=1, high=1024, sweep=(10, 20, 50, 200))

    paper: ClassVar[str] = "Ge et al. 2022, arXiv 2205.10350"

    def __post_init__(self) -> None:
        """Refuse a shortest n-gram that is longer than the longest."""
        super().__post_init__()
        if self.min_ngram > self.max_ngram:
            raise UserError(f"input_copy: min_ngram={self.min_ngram} is more than max_ngram={self.max_ngram}.")

    def drafter(self, session: Session, request: Request) -> TextDrafter:
        """Return the drafter that copies from the prompt, or from what an encoder reads of it."""
        source = session.source or request.prompt
        return with_source(session, SourceCopy(source, self.min_ngram, self.max_ngram, self.length))
