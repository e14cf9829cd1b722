"""One text read by one model: the only owner of cache rows, masks and positions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.engine import PREFILL, Engine, Outcome, Prefix, Read
from harness.engine.hooks import ForwardHook
from harness.engine.logit_warps import Warp, compose, identity
from harness.engine.tree import EMPTY, ROOT, Prefixes, TokenTree, additive, block, depths, visible
from harness.errors import Unsupported, UserError

T = TypeVar("T")


@dataclass
class Work:
    """What one text has cost: forward passes it took part in, tokens read, tree nodes read and tree nodes kept.

    `shared` counts tokens of the prompt that were not read but copied from a prefix common to many.
    """

    forwards: int = 0
    positions: int = 0
    drafted: int = 0
    accepted: int = 0
    shared: int = 0


class Reading:
    """What the model said: row 0 after the text, row 1 + i after the i-th node read by this call.

    `bend` changes its logits (1 + N, V).
    """

    def __init__(self, parts: Sequence[Outcome], bend: Callable[[Tensor], Tensor] | None = None) -> None:
        self._parts, self._bend = parts, bend

    @cached_property
    def logits(self) -> Tensor:
        """(1 + N, V) in float32."""
        said = _joined([part.logits for part in self._parts])
        return self._bend(said) if self._bend else said

    @cached_property
    def hidden(self) -> Tensor:
        """(1 + N, D), the last layer after its norm."""
        return _joined([part.hidden for part in self._parts])

    @property
    def best(self) -> list[int]:
        """The likeliest next token of every row; cheaper than `logits.argmax` when many texts are read together."""
        if self._bend:
            return [int(token) for token in self.logits.argmax(-1)]
        return self._parts[0].best if len(self._parts) == 1 else [t for part in self._parts for t in part.best]

    def seen(self, name: str) -> Tensor:
        """(1 + N, …) of what the hook of this read took down as `name`; raises `KeyError` when it took down none."""
        return _joined([part.seen(name) for part in self._parts])


@dataclass
class _Forest:
    """Nodes read below the text but not committed, in slot order after the text."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)         # the node held by each slot
    rows: list[int] = field(default_factory=list)          # the node described by each row of `seen`
    seen: Tensor = field(default_factory=lambda: visible(()))
    newest: "tuple[Sequence[int], Outcome] | None" = None  # the nodes read last and what the model said after each

    def said(self, node: int) -> Outcome | None:
        """What the model said after `node` (one row), or None when it was not read last."""
        if self.newest is None or node not in self.newest[0]:
            return None
        row = self.newest[0].index(node)
        return self.newest[1].part(row, row + 1)


class Session:
    """A committed text and the candidates below it.

    `follow` makes a text the committed one, `read` reads a tree of candidates below it in one forward, `keep` commits
    a path of it. A search grows its tree with `grow` and forgets dead branches with `retain`. `memory` holds the
    hidden state of every committed token when the session was opened with `remember`. `draft_work` is what drafts
    have cost: those of the draft model, or those that the model reads for itself with `skim`. Raises `CacheFull` when
    there is no room for one more text.
    """

    def __init__(self, engine: Engine, draft: "Session | None" = None, remember: bool = False) -> None:
        self.engine, self.work, self.text = engine, Work(), list[int]()
        self.draft_work = draft.work if draft else Work()
        self._draft, self._held, self._skimmed, self._closed = draft, 0, 0, False
        self._last: Outcome | None = None   # one row: what the model said after the text, once all of it is read
        self._forest = _Forest()
        self._memory: Tensor | None = torch.empty(0, 0) if remember else None
        self._warp: Warp = identity
        self._others = list[Session]()      # texts opened for this one, closed with it
        self.borrows = True                 # whether a start that many texts share is copied instead of read
        try:
            self._row = engine.open_row()
        except CacheFull:
            if draft:
                draft.close()
            raise

    @property
    def draft(self) -> "Session":
        """The session of the draft model; raises `Unsupported` without one."""
        if self._draft is None:
            raise Unsupported("needs a draft model: give one with --draft")
        return self._draft

    @property
    def memory(self) -> Tensor:
        """(T, D) hidden states of the committed text; raises `ValueError` unless opened with `remember`."""
        if self._memory is None:
            raise ValueError("this session does not remember hidden states; the strategy must declare need 'hidden'")
        return self._memory[:self._held]

    @property
    def nodes(self) -> int:
        """How many nodes have been read below the present text; the next one gets this number."""
        return len(self._forest.tokens)

    def close(self) -> None:
        """Give the rows back, those of texts opened beside this one too; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        for other in self._others[::-1]:  # the newest first: a row that is not the last one is filled by a copy
            other.close()
        self.engine.close_row(self._row)
        if self._draft:
            self._draft.close()

    def new_sequence(self) -> "Session":
        """Another text, empty, read by the same models; what it costs is counted here."""
        other = Session(self.engine, self._draft and self._draft.new_sequence(), self._memory is not None)
        other.work, other.draft_work, other._warp = self.work, self.draft_work, self._warp
        self._others = [*(each for each in self._others if not each._closed), other]
        return other

    def fork(self) -> "Session":
        """A copy of this text and of what is read of it, drafts left out; both can go on."""
        other = self.new_sequence()
        for old, new in [(self, other), *([(self._draft, other._draft)] if self._draft and other._draft else [])]:
            new.text, new._last = list(old.text), old._last
            old.engine.cache.copy(old._row.index, new._row.index, old._held)
            new._held = new._row.end = old._held
            if old._memory is not None and old._held:
                new._remember(old.memory, 0)
        return other

    def run_batched(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run `jobs`, which read copies of this text or texts beside it, side by side: their reads share forwards.

        Returns what they return, in their order; what one raises ends the others. Where there is no room for all of
        them at a time they run one after the other.
        """
        engines = [self.engine, *([self._draft.engine] if self._draft else [])]
        try:
            done = self.engine.several(jobs) if self.engine.several and len(jobs) > 1 else run_batched(engines, jobs)
        except CacheFull:
            done = [job() for job in jobs]
        if full := next((each for each in done if isinstance(each, CacheFull)), None):
            raise full
        return list(done)

    @contextmanager
    def with_logit_warp(self, warp: Warp) -> Iterator[None]:
        """Let `warp` change all that is said about the text, and by the draft model, until the end of the context."""
        sessions = [self, *([self._draft] if self._draft else [])]
        before = [session._warp for session in sessions]
        for session in sessions:
            session._warp = compose(session._warp, warp)
        try:
            yield
        finally:
            for session, old in zip(sessions, before, strict=True):
                session._warp = old

    def follow(self, text: Sequence[int]) -> None:
        """Make `text` (token ids) the committed text; what is already read of it is kept, the rest is dropped."""
        if len(text) > self.engine.max_len:
            raise UserError(f"the text has {len(text)} tokens and the model reads at most {self.engine.max_len}.")
        shared = _shared(self.text[:self._held], text)
        if not shared == self._held == len(text):
            self._last = None
        self.text, self._held, self._forest, self._skimmed = list(text), shared, _Forest(), 0
        if not shared and self.borrows:
            self._borrow()

    def read(self, tree: TokenTree = EMPTY, hook: ForwardHook | None = None) -> Reading:
        """Read what is unread of the text, and `tree` below it, in one forward (long prompts in chunks).

        `hook` says what is different about the forward; what it writes to the cache stays.
        """
        self._forest, self._skimmed = _Forest(), 0
        if self._last is None and self._held == len(self.text):
            self._held -= 1
        while len(self.text) - self._held > PREFILL:
            self._forward(self.text[self._held:self._held + PREFILL], EMPTY, hook)
        unread = self.text[self._held:]
        if not unread and not len(tree):
            assert self._last is not None
            return self._said([self._last], EMPTY, ())
        return self._forward(unread, tree, hook)

    def draft_read(self, tokens: Sequence[int], hook: ForwardHook, back: int = 0) -> Reading:
        """What the model says after each of `tokens`, read in a row below the text as `hook` has it; nothing is kept.

        All of the text must have been read. Calls read on from one another until the next `follow`, `read` or `keep`;
        the first one goes after the text. With `back` the tokens are read in place of the last `back` of the text,
        whose own keys and values stay, and are forgotten at once. Row i is what it says after `tokens[i]`.
        """
        if self._held < len(self.text):
            raise ValueError("only a text that has been read can be skimmed")
        self._forest, start, seen = _Forest(), self._held + self._skimmed, None
        if back:
            start, size = self._held, len(tokens)
            seen = additive(torch.ones(size, back + size, dtype=torch.bool).tril_(back), *self.engine.kind)
            seen[:, :back] = torch.finfo(self.engine.kind[0]).min
        places = range(start - back, start - back + len(tokens))
        out = self.engine.submit(Read(self._row, start, tokens, places, seen, len(tokens), hook, draft=True))
        self._skimmed = 0 if back else self._skimmed + len(tokens)
        self.draft_work.forwards += 1
        self.draft_work.positions += len(tokens)
        return Reading([out])

    def grow(self, tokens: Sequence[int], parents: Sequence[int]) -> Reading:
        """Read new nodes below nodes already read; they are numbered on from those.

        A parent is a node read below the present text that `retain` has not dropped; −1 is the text. Returns row 0
        for the text and a row for each new node.
        """
        forest, first = self._forest, len(self._forest.tokens)
        old = len(forest.slots)
        row_of = {node: row for row, node in enumerate(forest.rows)}
        seen = torch.zeros(len(tokens), old + len(tokens), dtype=torch.bool)
        below = [i for i, parent in enumerate(parents) if parent != ROOT]
        if below:
            seen[below, :old] = forest.seen[[row_of[parents[i]] for i in below], :old]
        seen[:, old:].fill_diagonal_(True)
        places = [len(self.text) - 1 + int(d) for d in seen.sum(1).tolist()]
        out = self._submit(tokens, places, additive(seen, *self.engine.kind), len(tokens), self._held + old)
        self.work.drafted += len(tokens)
        forest.tokens += tokens
        forest.parents += parents
        nodes = list(range(first, first + len(tokens)))
        forest.slots += nodes
        padded = torch.nn.functional.pad(forest.seen, (0, len(tokens)))
        forest.rows, forest.seen, forest.newest = forest.rows + nodes, torch.cat([padded, seen]), (nodes, out)
        assert self._last is not None
        return self._said([self._last, out], forest, nodes)

    def retain(self, nodes: Sequence[int]) -> None:
        """Forget every node that is neither in `nodes` nor above one; only `nodes` may be parents afterwards."""
        forest = self._forest
        row_of = {node: row for row, node in enumerate(forest.rows)}
        forest.seen = forest.seen[[row_of[node] for node in nodes]]
        forest.rows = list(nodes)
        alive = forest.seen.any(0)
        count = int(alive.sum())
        if len(forest.slots) - count > max(32, count):
            index = alive.nonzero()[:, 0]
            self._move(index.tolist())
            forest.seen = forest.seen[:, index]
            forest.slots = [forest.slots[i] for i in index.tolist()]

    def keep(self, path: Sequence[int]) -> None:
        """Commit the nodes of `path` (from the top down) to the text and drop all others."""
        forest = self._forest
        if path:
            sources = [forest.slots.index(node) for node in path]
            if sources != list(range(len(path))):
                self._move(sources)
            self.text += [forest.tokens[node] for node in path]
            self._held += len(path)
            self._last = forest.said(path[-1])
        self.work.accepted += len(path)
        self._forest, self._skimmed = _Forest(), 0

    def _move(self, slots: Sequence[int]) -> None:
        """Gather these slots of the forest into its first ones."""
        if not slots:
            return
        sources = [self._held + slot for slot in slots]
        self.engine.cache.move(self._row.index, sources, self._held)
        if self._memory is not None:
            self._memory[self._held:self._held + len(slots)] = self._memory[sources]

    def _borrow(self) -> None:
        """Copy what the text has in common with a prefix instead of reading it, all but the last token."""
        for prefix in self.engine.prefixes:
            if (known := min(_shared(prefix.tokens, self.text), len(self.text) - 1)) > self._held:
                self.work.shared += known - self._held
                self.engine.borrow(prefix, self._row, known)
                if self._memory is not None:
                    self._remember(prefix.hidden[:known], 0)
                self._held = known

    def _forward(self, unread: Sequence[int], tree: TokenTree, hook: ForwardHook | None) -> Reading:
        last, count = len(self.text) - 1, len(unread)
        places = [*range(self._held, self._held + count), *[last + d for d in depths(tree.parents)]]
        seen = block(count, tree.parents, *self.engine.kind)
        out = self._submit([*unread, *tree.tokens], places, seen, len(tree) + bool(unread), self._held, hook)
        self._held += count
        if unread:
            self._last = out.part(count - 1, count)
        assert self._last is not None
        nodes = range(len(tree))
        if not nodes:
            return self._said([out.part(count - 1, count)], EMPTY, ())
        self.work.drafted += len(tree)
        self._forest = _Forest(list(tree.tokens), list(tree.parents), list(nodes), list(nodes), visible(tree.parents),
                               (nodes, out.part(count, count + len(tree))))
        parts = [out.part(count - 1, count + len(tree))] if unread else [self._last, out]
        return self._said(parts, tree, nodes)

    def _said(self, parts: Sequence[Outcome], tree: "TokenTree | _Forest", nodes: Sequence[int]) -> Reading:
        """What was said after the text and after `nodes` of `tree`, bent as asked for."""
        if self._warp is identity:
            return Reading(parts)
        rows = Prefixes(list(self.text), TokenTree(tuple(tree.tokens), tuple(tree.parents)))
        texts, warp = [rows[0], *(rows[1 + node] for node in nodes)], self._warp
        return Reading(parts, lambda logits: warp(logits, texts))

    def _submit(self, tokens: Sequence[int], places: Sequence[int], block: Tensor | None, wanted: int, start: int,
                hook: ForwardHook | None = None) -> Outcome:
        out = self.engine.submit(Read(self._row, start, tokens, places, block, wanted, hook))
        self.work.forwards += 1
        self.work.positions += len(tokens)
        if self._memory is not None:
            self._remember(out.hidden, start)
        return out

    def _remember(self, hidden: Tensor, start: int) -> None:
        assert self._memory is not None
        end = start + len(hidden)
        if end > len(self._memory):
            grown = hidden.new_empty(max(256, 1 << (end - 1).bit_length()), hidden.shape[1])
            grown[:len(self._memory)] = self._memory if len(self._memory) else hidden.new_empty(0, hidden.shape[1])
            self._memory = grown
        self._memory[start:end] = hidden


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _shared(old: Sequence[int], new: Sequence[int]) -> int:
    """How many tokens two texts have in common at their start."""
    if list(new[:len(old)]) == old:
        return len(old)
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def pin(engine: Engine, tokens: Sequence[int]) -> Prefix:
    """Read the start that many texts will have in common; sessions copy it until `engine.unpin`."""
    session = Session(engine, remember=True)
    session.follow(tokens)
    session.read()
    engine.prefixes.append(Prefix(list(tokens), session._row, session.memory))
    return engine.prefixes[-1]
