"""A committed sequence with its row of the KV cache and, on request, its hidden states."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from harness.engine.cache_policy import QUERIES, CachePolicy, Governed
from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.hidden_memory import HiddenMemory
from harness.engine.hooks import HIDDEN, Both, Watch
from harness.errors import Unsupported

Change = Callable[[int, Tensor], Tensor]


class CachedSequence:
    """The token ids of a sequence, of which the first `cached` are in its row of the KV cache.

    Candidates are in the slots behind them. The hidden states named by `remember` are kept too: `HIDDEN`, or a name of
    `Watch`. Under a cache `policy`, `gone` of the cached tokens are no longer in the row, so that the slot of a token
    is its index less `gone`, and its position its index less `shift`; what it knows or dropped of the first `settled`
    tokens cannot be taken back. Raises `CacheFull` when the cache has no room for one more row.
    """

    def __init__(self, engine: Engine, remember: Sequence[str]) -> None:
        self.engine, self.tokens, self.cached = engine, list[int](), 0
        self.policy: CachePolicy | None = None
        self.gone = self.shift = self.settled = 0
        self._heard, self._queries = 0, HiddenMemory()
        self._query_shape: tuple[int, ...] = (0, 0, 0)
        self.memory = {name: HiddenMemory() for name in remember}
        self._watch = Watch(taps) if (taps := tuple(name for name in remember if name != HIDDEN)) else None
        self.row = engine.open_row()

    def replace(self, tokens: Sequence[int]) -> bool:
        """Set the sequence to `tokens`, roll the cache back to the common prefix, and return if nothing changed."""
        shared = shared_start(self.tokens[:self.cached], tokens)
        unchanged = shared == self.cached == len(tokens)
        if not unchanged:
            known = max(0, min(shared, len(tokens) - 1))  # a last token is computed again
            if not shared or known < self.settled:
                shared = known = self.gone = self.shift = self.settled = 0
                self.row.state = None
            self._heard = min(self._heard, known)
        self.tokens, self.cached = list(tokens), shared
        return unchanged

    @property
    def start(self) -> int:
        """The slot of the first token that is not cached."""
        return self.cached - self.gone

    def positions(self, first: int, count: int) -> range:
        """Return the positions of `count` tokens from index `first` on."""
        return range(first - self.shift, first - self.shift + count)

    @property
    def queries(self) -> Tensor:
        """The scaled queries (N, layers, H, D) of the N tokens that were committed since the policy learnt last."""
        count = max(0, self.cached - self._heard)
        return self._queries.first(count).view(count, *self._query_shape)

    @property
    def unheard(self) -> bool:
        """Whether there are cached tokens, and of none of them a policy could know the queries."""
        return bool(self.cached) and not any(self._query_shape)

    @torch.inference_mode()
    def settle(self, *, whole: bool) -> None:
        """Let the policy drop or change what the row holds; `whole` tells whether all earlier tokens are cached."""
        if self.policy and self.cached:
            self.policy.learn(self)
            if whole or not self.policy.whole:
                self.policy.settle(self)
            self._heard = max(self._heard, self.cached)

    def drop(self, first: int, last: int) -> None:
        """Take the slots `first` … `last` − 1 out of the row; what is behind them moves up."""
        self.engine.cache.move(self.row.index, range(last, self.start), first)
        self.gone, self.settled = self.gone + last - first, self.cached

    def select(self, slots: Tensor) -> None:
        """Keep only the slots (layers, KV heads, N), in this order; each layer and head keeps its own."""
        self.engine.cache.select(self.row.index, slots)
        self.gone, self.settled = self.cached - slots.shape[-1], self.cached

    def turn(self, first: int, by: int) -> None:
        """Lower the positions of all slots from `first` on, and of all later tokens, by `by`."""
        self._rotate(first, -by)
        self.shift += by

    def _rotate(self, first: int, by: int) -> None:
        """Rotate the keys of all slots from `first` on to positions that are higher by `by`."""
        more, turned = torch.full((1, self.start - first), by, device=self.engine.device), self.engine.rotary.turned
        self.engine.cache.change_keys(self.row.index, first, self.start, lambda layer, keys: turned(layer, keys, more))

    def change(self, first: int, last: int, *, keys: Change | None = None, values: Change | None = None) -> None:
        """Replace keys or values (1, heads, N, dim) of slots `first` … `last` − 1 by what is returned for each layer.

        A sequence that goes back behind its present end is read again.
        """
        if last > first:
            cache, row = self.engine.cache, self.row.index
            if keys:
                cache.change_keys(row, first, last, keys)
            if values:
                cache.change_values(row, first, last, values)
            self.settled = self.cached

    def splice(self, first: int, last: int, tokens: Sequence[int], *, turned: bool) -> None:
        """Replace tokens `first` … `last` − 1 by `tokens`, which are computed in the slots behind the sequence.

        If `turned`, the keys of later tokens are rotated to their new positions.
        """
        count, by = len(tokens), len(tokens) - (last - first)
        sources = [*range(self.cached, self.cached + count), *range(last, self.cached)]
        self.engine.cache.move(self.row.index, sources, first)
        for memory in self.memory.values():
            memory.move(sources, first)
        self.tokens[first:last] = tokens
        self.cached += by
        if turned and by and first + count < self.cached:
            self._rotate(first + count, by)

    def fill(self, tokens: Sequence[int], contents: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set the sequence to `tokens`, with these keys and values (heads, T, dim) of each layer."""
        self.engine.fill_row(self.row, contents)
        self.tokens, self.cached = list(tokens), len(tokens)
        self.gone = self.shift = self.settled = self._heard = 0

    def copy_prefix(self) -> int:
        """Copy the start of the sequence, without its last token, from a shared prefix; returns the tokens copied."""
        before = self.cached
        for prefix in self.engine.prefixes:
            shared = min(shared_start(prefix.tokens, self.tokens), len(self.tokens) - 1)
            if shared > self.cached:
                self.engine.copy_prefix(prefix, self.row, shared)
                for name, memory in self.memory.items():
                    memory.write(prefix.states[name][:shared], 0)
                self.cached = shared
        return self.cached - before

    def copy_from(self, other: "CachedSequence") -> None:
        """Copy another sequence of the same engine, without its candidates, into this one."""
        self.tokens, self.cached = list(other.tokens), other.cached
        self.policy, self.gone, self.shift, self.settled = other.policy, other.gone, other.shift, other.settled
        self._heard, self._query_shape = other._heard, other._query_shape
        if other.cached > other._heard:
            self._queries.write(other._queries.first(other.cached - other._heard), 0)
        self.engine.cache.copy(other.row.index, self.row.index, other.start)
        self.row.end, self.row.state = other.start, deepcopy(other.row.state)
        for name, memory in self.memory.items():
            if name in other.memory and other.cached:
                memory.write(other.memory[name].first(other.cached), 0)

    def forward(self, request: ForwardRequest) -> ForwardRows:
        """Run a request of this row and keep the hidden states of its tokens."""
        if self._watch and not request.draft:
            if request.hook:
                raise ValueError("a session that remembers states of earlier layers takes no other hook")
            request = request._replace(hook=self._watch)
        if self.policy:
            governed = Governed(self.policy)
            request = request._replace(hook=Both(governed, request.hook) if request.hook else governed)
        output = self.engine.executor.forward(self.engine, request)
        if not request.draft:
            if self.policy and self.policy.heeds:
                self._hear(output, request.start + self.gone)
            for name, memory in self.memory.items():
                memory.write(output.hidden if name == HIDDEN else output.captured(name), request.start + self.gone)
        return output

    def _hear(self, output: ForwardRows, first: int) -> None:
        """Keep the queries of the tokens from index `first` on until it is known which of them are committed."""
        try:
            queries = output.captured(QUERIES)
        except KeyError as error:
            raise Unsupported("cannot be combined with a strategy that leaves out the attention of a layer") from error
        self._query_shape = tuple(queries.shape[1:])
        self._queries.write(queries.flatten(1), first - self._heard)

    def gather(self, candidates: Sequence[int]) -> None:
        """Move candidates, given by their slots behind the cached tokens, to the first slots behind them."""
        if candidates:
            self.engine.cache.move(self.row.index, [self.start + slot for slot in candidates], self.start)
            for memory in self.memory.values():
                memory.move([self.cached + slot for slot in candidates], self.cached)
            if self.policy and self.policy.heeds:
                first = self.cached - self._heard
                self._queries.move([first + slot for slot in candidates], first)

    def states(self) -> dict[str, Tensor]:
        """Return what is remembered of the cached tokens: (T, D) for each name."""
        return {name: memory.first(self.cached) for name, memory in self.memory.items()}

    def close(self) -> None:
        """Release the row."""
        self.engine.close_row(self.row)


def shared_start(old: Sequence[int], new: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    if list(new[:len(old)]) == old:
        return len(old)
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
