"""A committed sequence with its row of the KV cache and, on request, its hidden states."""

from collections.abc import Sequence

from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.hidden_memory import HiddenMemory


class CachedSequence:
    """The token ids of a sequence, of which the first `cached` are in its row of the KV cache.

    Candidates are in the slots behind them. With `remember`, hidden states are kept too. Raises `CacheFull` when the
    cache has no room for one more row.
    """

    def __init__(self, engine: Engine, remember: bool) -> None:
        self.engine, self.tokens, self.cached = engine, list[int](), 0
        self.memory = HiddenMemory() if remember else None
        self.row = engine.open_row()

    def replace(self, tokens: Sequence[int]) -> bool:
        """Set the sequence to `tokens`, roll the cache back to the common prefix, and return if nothing changed."""
        shared = shared_start(self.tokens[:self.cached], tokens)
        unchanged = shared == self.cached == len(tokens)
        self.tokens, self.cached = list(tokens), shared
        return unchanged

    def copy_prefix(self) -> int:
        """Copy the start of the sequence, without its last token, from a shared prefix; returns the tokens copied."""
        before = self.cached
        for prefix in self.engine.prefixes:
            shared = min(shared_start(prefix.tokens, self.tokens), len(self.tokens) - 1)
            if shared > self.cached:
                self.engine.copy_prefix(prefix, self.row, shared)
                if self.memory:
                    self.memory.write(prefix.hidden[:shared], 0)
                self.cached = shared
        return self.cached - before

    def copy_from(self, other: "CachedSequence") -> None:
        """Copy another sequence of the same engine, without its candidates, into this one."""
        self.tokens, self.cached = list(other.tokens), other.cached
        self.engine.cache.copy(other.row.index, self.row.index, other.cached)
        self.row.end = other.cached
        if self.memory and other.memory and other.cached:
            self.memory.write(other.memory.first(other.cached), 0)

    def forward(self, request: ForwardRequest) -> ForwardRows:
        """Run a request of this row and keep the hidden states of its tokens."""
        output = self.engine.executor.forward(self.engine, request)
        if self.memory and not request.draft:
            self.memory.write(output.hidden, request.start)
        return output

    def gather(self, candidates: Sequence[int]) -> None:
        """Move candidates, given by their slots behind the cached tokens, to the first slots behind them."""
        if candidates:
            sources = [self.cached + slot for slot in candidates]
            self.engine.cache.move(self.row.index, sources, self.cached)
            if self.memory:
                self.memory.move(sources, self.cached)

    def close(self) -> None:
        """Release the row."""
        self.engine.close_row(self.row)


def shared_start(old: Sequence[int], new: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    if list(new[:len(old)]) == old:
        return len(old)
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
