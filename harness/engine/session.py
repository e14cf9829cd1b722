"""One sequence on one model: the only interface through which strategies run forward passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from harness.engine.cache import CacheFull
from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import CachedSequence
from harness.engine.candidates import Candidates
from harness.engine.engine import PREFILL, Engine
from harness.engine.forward import ForwardRequest, ForwardRows, Row, Source
from harness.engine.hooks import HIDDEN, ForwardHook
from harness.engine.images import without_images
from harness.engine.logit_warps import Warp, compose, identity
from harness.engine.reading import Reading, Work
from harness.engine.tree import EMPTY, Prefixes, TokenTree, additive, depths, tree_mask
from harness.errors import Unsupported, UserError

__all__ = ["Reading", "Session", "Work"]

T = TypeVar("T")


class Session:
    """A committed sequence and its candidates.

    `follow` sets the committed sequence, `read` computes a tree of candidates below it in one forward, and `keep`
    commits a path of it. A search grows its tree with `grow` and drops dead branches with `retain`. The hidden states
    named by `remember` are kept for every committed token: `HIDDEN`, the last ones after the final norm, or a name of
    `Watch`. `draft_work` is the cost of drafting, by the draft model or with `draft_read` by the model itself. With
    `shares_prefixes`, a shared prefix is copied instead of computed. Raises `CacheFull` when the cache has no room for
    one more sequence.
    """

    def __init__(self, engine: Engine, draft: "Session | None" = None, remember: Sequence[str] = ()) -> None:
        self.engine, self.work, self.shares_prefixes = engine, Work(), True
        self.draft_work = draft.work if draft else Work()
        self._draft, self._drafted, self._closed = draft, 0, False
        self._last: ForwardRows | None = None  # the output after the sequence, if all of it is computed
        self._candidates = Candidates()
        self._warp: Warp = identity
        self._others = list[Session]()         # sequences opened by this one, closed with it
        self._opener: Session | None = None
        self.kept_trees: list[tuple[TokenTree, list[int]]] | None = None  # each tree and its accepted path, if wanted
        self.kept_ranks: list[tuple[int, int]] | None = None  # each sampled token and its rank, if wanted
        self._undefined = list[Tensor]()       # of each sequence that a strategy closed: whether its logits were NaN
        try:
            self._sequence = CachedSequence(engine, remember)
        except CacheFull:
            if draft:
                draft.close()
            raise

    @property
    def tokens(self) -> list[int]:
        """The token ids of the committed sequence."""
        return self._sequence.tokens

    @property
    def source(self) -> Sequence[int]:
        """The token ids that the encoder reads; empty for a model without an encoder."""
        return self.row.source.tokens if self.row.source else ()

    def begin(self, source: Sequence[int]) -> None:
        """Begin an empty sequence, for which the encoders of the model and of its draft model read `source`, if any."""
        if not source:
            return
        self.row.source, self.shares_prefixes = Source(tuple(source), self.work), False
        self.follow([])
        if self._draft:
            self._draft.begin(source)

    @property
    def draft(self) -> "Session":
        """The session of the draft model; raises `Unsupported` without one."""
        if self._draft is None:
            raise Unsupported("needs a draft model: give one with --draft")
        return self._draft

    @property
    def row(self) -> Row:
        """The row of the KV cache that holds the sequence."""
        return self._sequence.row

    @property
    def memory(self) -> Tensor:
        """The last hidden states (T, D) of the committed sequence; raises `ValueError` unless they are remembered."""
        return self.states((HIDDEN,))

    @property
    def in_flight(self) -> int:
        """The number of sequences that are being decoded in the same batch, this one included."""
        return self.engine.executor.in_flight

    def gather(self, value: T) -> tuple[list[T], int]:
        """Return the values that all sequences of the batch gave after drafting, and the place of this one's.

        Called at most once before each forward; waits until no sequence drafts any more.
        """
        return self.engine.executor.gather(value)

    @property
    def governed(self) -> bool:
        """Whether a policy governs the KV cache, which may move what is not committed yet."""
        return self._sequence.policy is not None

    @property
    def logit_warp(self) -> Warp:
        """The warp of all logits of this session; a draft model with another vocabulary has none."""
        return self._warp

    @property
    def nodes(self) -> int:
        """The number of nodes computed below the current sequence, which is the number of the next one."""
        return len(self._candidates.tokens)

    @property
    def forest(self) -> TokenTree:
        """All nodes computed below the current sequence, those that a search has dropped included."""
        return TokenTree(tuple(self._candidates.tokens), tuple(self._candidates.parents))

    def states(self, names: Sequence[str], start: int = 0) -> Tensor:
        """Return the states (T, D) of these names, side by side, after the committed tokens from `start` on.

        Raises `ValueError` for states that are not remembered.
        """
        if unknown := set(names) - self._sequence.memory.keys():
            raise ValueError(f"this session does not remember the hidden states {min(unknown)}; the strategy must "
                             "declare need 'hidden'")
        found = [self._sequence.memory[name].first(self._sequence.cached)[start:] for name in names]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    @property
    def remembered(self) -> dict[str, Tensor]:
        """All states (T, D) of the committed sequence that are remembered, by name."""
        return self._sequence.states()

    def close(self) -> None:
        """Release the rows of this sequence, of its draft and of those opened by it; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._opener and not self._opener._closed:  # at the end of an answer nothing is computed any more
            self._undefined += self._undefined_now()
        for other in self._others[::-1]:  # newest first, because closing any row but the last copies a row
            other.close()
        self._sequence.close()
        if self._draft:
            self._draft.close()

    @property
    def has_nan(self) -> bool:
        """Whether the last logits of this sequence or of one opened by it are NaN, as all are after the first NaN."""
        found = [*self._undefined, *self._undefined_now()]
        return bool(found and torch.stack(found).any()) or any(other.has_nan for other in self._others
                                                               if not other._closed)

    def new_sequence(self) -> "Session":
        """Open another, empty sequence on the same models; its cost is added to that of this one."""
        other = Session(self.engine, self._draft and self._draft.new_sequence(), tuple(self._sequence.memory))
        other.work, other.draft_work, other._warp = self.work, self.draft_work, self._warp
        other.shares_prefixes, other._sequence.policy = self.shares_prefixes, self._sequence.policy
        other._opener, other._undefined, other.row.source = self, self._undefined, self.row.source
        self._others = [*(session for session in self._others if not session._closed), other]
        return other

    def fork(self) -> "Session":
        """Open a copy of this sequence and of its KV cache, without candidates; both can continue."""
        other = self.new_sequence()
        for old, new in [(self, other), *([(self._draft, other._draft)] if self._draft and other._draft else [])]:
            new._last = old._last
            new._sequence.copy_from(old._sequence)
        return other

    def run_batched(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run `jobs`, which use sequences opened by this one, in one batch, and return their results in order.

        An error in one job ends the others. When the cache has no room for all of them at once, they run one after the
        other.
        """
        engines = [self.engine, *([self._draft.engine] if self._draft else [])]
        try:
            results = self.engine.executor.run_jobs(engines, jobs)
        except CacheFull:
            results = [job() for job in jobs]
        if full := next((result for result in results if isinstance(result, CacheFull)), None):
            raise full
        return results

    @contextmanager
    def with_logit_warp(self, warp: Warp) -> Iterator[None]:
        """Apply `warp` to all logits of this session until the end of the context.

        It is applied to those of the draft model too, unless that reads other tokens.
        """
        alike = self._draft and not (self._draft.engine.translation or self._draft.engine.blind)
        sessions = [self, *([self._draft] if self._draft and alike else [])]
        before = [session._warp for session in sessions]
        for session in sessions:
            session._warp = compose(session._warp, warp)
        try:
            yield
        finally:
            for session, old in zip(sessions, before, strict=True):
                session._warp = old

    @contextmanager
    def with_cache_policy(self, policy: CachePolicy) -> Iterator[None]:
        """Let `policy` govern the KV cache of this session, from an empty sequence on, until the end of the context.

        Raises `Unsupported` if another policy does, or the model cannot be governed by this one.
        """
        policy.check(self._sequence)
        shared, self.shares_prefixes, self._sequence.policy = self.shares_prefixes, False, policy
        try:
            yield
        finally:
            self.shares_prefixes, self._sequence.policy = shared, None

    def follow(self, tokens: Sequence[int]) -> None:
        """Set the committed sequence to `tokens`; the KV cache is rolled back to the common prefix."""
        if self.engine.blind:
            tokens = without_images(tokens, self.engine.vocab)
        if len(tokens) - self._sequence.shift > self.engine.max_len:
            raise UserError(f"the sequence has {len(tokens)} tokens but the context of the model is "
                            f"{self.engine.max_len}.")
        if not self._sequence.replace(tokens):
            self._last = None
        self._candidates, self._drafted = Candidates(), 0
        if not self._sequence.cached and self.shares_prefixes:
            self.work.shared += self._sequence.copy_prefix()

    def read(self, tree: TokenTree = EMPTY, hook: ForwardHook | None = None) -> Reading:
        """Compute the tokens that are not yet cached, and `tree` below them, in one forward (long prompts in chunks).

        `hook` changes or records the forward; the resulting keys and values stay in the cache.
        """
        sequence = self._sequence
        self._candidates, self._drafted = Candidates(), 0
        if self._last is None and sequence.cached == len(sequence.tokens):
            sequence.cached -= 1
        sequence.settle(whole=True)
        while len(sequence.tokens) - sequence.cached > PREFILL:
            self._extend(sequence.tokens[sequence.cached:sequence.cached + PREFILL], EMPTY, hook)
            sequence.settle(whole=False)
        new = sequence.tokens[sequence.cached:]
        if not new and not len(tree):
            assert self._last is not None
            return self._reading([self._last], EMPTY, ())
        return self._extend(new, tree, hook)

    def draft_read(self, tokens: Sequence[int], hook: ForwardHook, back: int = 0) -> Reading:
        """Compute the chain `tokens` below the sequence with `hook`, and commit none of it; row i is after token i.

        The whole sequence must have been computed. The first call continues the sequence, and each later one the call
        before it, until the next `follow`, `read` or `keep`. With `back`, the tokens are computed in place of the last
        `back` tokens of the sequence and dropped at once; the cached sequence stays unchanged.
        """
        sequence = self._sequence
        if sequence.cached < len(sequence.tokens):
            raise ValueError("draft_read needs a sequence that has been computed: call read first")
        self._candidates, start, mask = Candidates(), sequence.start + self._drafted, None
        if back:
            start, size = sequence.start, len(tokens)
            mask = additive(torch.ones(size, back + size, dtype=torch.bool).tril_(back), self.engine.dtype,
                            self.engine.device)
            mask[:, :back] = torch.finfo(self.engine.dtype).min
        positions = sequence.positions(start + sequence.gone - back, len(tokens))
        request = ForwardRequest(sequence.row, start, tokens, positions, mask, len(tokens), hook, True, len(tokens))
        output = sequence.forward(request)
        self.draft_work.compute.add(self.engine.depth, request, output)
        self._drafted = 0 if back else self._drafted + len(tokens)
        self.draft_work.forwards += 1
        self.draft_work.positions += len(tokens)
        return Reading([output])

    def grow(self, tokens: Sequence[int], parents: Sequence[int]) -> Reading:
        """Compute new nodes below nodes already computed; they get the next numbers.

        A parent is a node below the current sequence that `retain` has not dropped, or −1 for the sequence itself.
        Returns row 0 for the sequence and a row for each new node.
        """
        candidates = self._candidates
        if not candidates.slots:  # all that the row holds is committed
            self._sequence.settle(whole=True)
        last = len(self.tokens) - 1 - self._sequence.shift
        visible = candidates.visible_to(parents)
        positions = [last + int(depth) for depth in visible.sum(1).tolist()]
        start = self._sequence.start + len(candidates.slots)
        output = self._forward(ForwardRequest(self.row, start, tokens, positions, additive(
            visible, self.engine.dtype, self.engine.device), len(tokens), candidates=len(tokens)))
        self.work.drafted += len(tokens)
        nodes = candidates.add(tokens, parents, visible, output)
        assert self._last is not None
        return self._reading([self._last, output], candidates, nodes)

    def retain(self, nodes: Sequence[int]) -> None:
        """Drop all nodes except `nodes` and their ancestors; only `nodes` may get children afterwards."""
        self._sequence.gather(self._candidates.retain(nodes))

    def keep(self, path: Sequence[int]) -> None:
        """Commit the nodes of `path`, from the top down, and drop all others."""
        candidates, sequence = self._candidates, self._sequence
        if self.kept_trees is not None and candidates.tokens:
            self.kept_trees.append((self.forest, list(path)))
        if path:
            slots = [candidates.slots.index(node) for node in path]
            if slots != list(range(len(path))):
                sequence.gather(slots)
            sequence.tokens += [candidates.tokens[node] for node in path]
            sequence.cached += len(path)
            self._last = candidates.output_of(path[-1])
            self.work.whole += path[-1] not in candidates.parents
        self.work.accepted += len(path)
        self._candidates, self._drafted = Candidates(), 0

    def edit(self, first: int, last: int, tokens: Sequence[int], *, turned: bool = True) -> None:
        """Replace tokens `first` … `last` − 1 of the sequence by `tokens`, and compute only these.

        The keys and values of later tokens stay as they are, but for the keys' rotation to their new positions if
        `turned`: they still know the old text. The next `read` computes the last token again. The whole sequence must
        have been computed.
        """
        sequence, count = self._sequence, len(tokens)
        if sequence.cached < len(sequence.tokens):
            raise ValueError("edit needs a sequence that has been computed: call read first")
        if sequence.policy:
            raise Unsupported("cannot be combined with another strategy that governs the KV cache")
        if turned and count != last - first:
            _ = self.engine.rotary
        if count:
            seen = torch.ones(count, count, dtype=torch.bool).tril()
            seen = torch.nn.functional.pad(seen, (sequence.cached - first, 0))
            self._forward(ForwardRequest(sequence.row, sequence.cached, tokens, sequence.positions(first, count),
                                         additive(seen, self.engine.dtype, self.engine.device), 1))
        sequence.splice(first, last, tokens, turned=turned)
        self._candidates, self._drafted, self._last = Candidates(), 0, None

    def fill(self, tokens: Sequence[int], contents: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set the sequence to `tokens`, with these keys and values (heads, T, dim) of each layer; nothing is computed.

        Counts them as filled. Raises `Unsupported` when hidden states of the tokens are remembered.
        """
        if self._sequence.policy or self._sequence.memory:
            raise Unsupported("gives keys and values that no forward computed: it cannot be combined with a strategy "
                              "that reads hidden states or governs the KV cache")
        self._sequence.fill(tokens, contents)
        self._candidates, self._drafted, self._last = Candidates(), 0, None
        self.work.compute.fill(self.engine.depth, len(tokens))

    def _extend(self, new: Sequence[int], tree: TokenTree, hook: ForwardHook | None) -> Reading:
        """Compute the next tokens of the sequence, `new`, and `tree` below them."""
        sequence, count = self._sequence, len(new)
        last = len(sequence.tokens) - 1 - sequence.shift
        positions = [*sequence.positions(sequence.cached, count), *[last + depth for depth in depths(tree.parents)]]
        mask = tree_mask(count, tree.parents, self.engine.dtype, self.engine.device)
        output = self._forward(ForwardRequest(sequence.row, sequence.start, [*new, *tree.tokens], positions, mask,
                                              len(tree) + bool(new), hook, candidates=len(tree)))
        sequence.cached += count
        if new:
            self._last = output.part(count - 1, count)
        assert self._last is not None
        if not len(tree):
            return self._reading([self._last], EMPTY, ())
        self.work.drafted += len(tree)
        self._candidates = Candidates.of(tree, output.part(count, count + len(tree)))
        parts = [output.part(count - 1, count + len(tree))] if new else [self._last, output]
        return self._reading(parts, tree, range(len(tree)))

    def _undefined_now(self) -> list[Tensor]:
        """Return whether the logits after the sequence are NaN, without a wait for the device."""
        return [self._last.logits[-1].isnan().any()] if self._last else []

    def look(self, request: ForwardRequest) -> ForwardRows:
        """Run a forward of a canvas on the row of this session, and count it; nothing is committed."""
        self._last = self._forward(request)
        return self._last

    def _forward(self, request: ForwardRequest) -> ForwardRows:
        output = self._sequence.forward(request)
        self.work.forwards += 1
        self.work.positions += len(request.tokens)
        self.work.compute.add(self.engine.depth, request, output, self._sequence.shift)
        return output

    def _reading(self, parts: Sequence[ForwardRows], tree: TokenTree | Candidates, nodes: Sequence[int]) -> Reading:
        """Return the output after the sequence and after `nodes` of `tree`, with the logit warp of this session."""
        if self._warp is identity:
            return Reading(parts)
        rows = Prefixes(list(self.tokens), TokenTree(tuple(tree.tokens), tuple(tree.parents)))
        sequences, warp = [rows[0], *(rows[1 + node] for node in nodes)], self._warp
        return Reading(parts, lambda logits: warp(logits, sequences))
