"""A draft model grows a tree of candidates, many nodes a forward."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Reading, Session
from harness.engine.tree import EMPTY, ROOT, Prefixes, TokenTree
from harness.errors import UserError


class Grown:
    """A tree that a draft model grows below a text, and what it says after the nodes that it has read.

    With a stream, rows are warped and children count as drawn from them; without one they are chosen, and rows are
    the model's plain softmax.
    """

    def __init__(self, session: Session, warp: Warp, stream: Stream | None) -> None:
        self.session, self.warp, self.stream = session, warp, stream
        self.tree, self._text = EMPTY, list[int]()
        self._tokens, self._parents, self._probs = list[int](), list[int](), dict[int, Tensor]()
        self._q = dict[int, Tensor]()
        self._place: dict[int, int] = {}  # a node's number in the session, which knows only nodes that were read

    def start(self, text: Sequence[int], last: Step) -> Tensor:
        """Begin below `text` (token ids); returns q (V,) after it. What was read of the last path is kept."""
        if last.tree is self.tree:
            read = [self._place[node] for node in last.path if node in self._place]
            self.session.keep(read)
        self._text = list(text)
        self._tokens, self._parents, self._probs, self._q, self._place = [], [], {}, {}, {ROOT: ROOT}
        self.session.follow(self._text)
        return self._rows(self.session.read(), [ROOT])[0]

    def add(self, parent: int, token: int) -> int:
        """A new child of `parent`, which was drawn or chosen from the q of `parent`; returns the child."""
        if self.stream is not None:
            self._probs[parent] = self._q[parent]
        self._tokens.append(token)
        self._parents.append(parent)
        return len(self._tokens) - 1

    def read(self, nodes: Sequence[int]) -> Tensor:
        """(n, V) q after `nodes`, in one forward; the parent of each is the text or has been read."""
        parents = [self._place[self._parents[node]] for node in nodes]
        first = len(self._place) - 1
        reading = self.session.grow([self._tokens[node] for node in nodes], parents)
        self._place.update({node: first + i for i, node in enumerate(nodes)})
        return self._rows(reading, nodes)

    def done(self) -> TokenTree:
        """The tree as it stands."""
        self.tree = TokenTree(tuple(self._tokens), tuple(self._parents), self._probs)
        return self.tree

    def __len__(self) -> int:
        return len(self._tokens)

    def _rows(self, reading: Reading, nodes: Sequence[int]) -> Tensor:
        logits = reading.logits[-len(nodes):]
        if self.stream is not None:
            before = Prefixes(self._text, TokenTree(tuple(self._tokens), tuple(self._parents)))
            logits = self.warp(logits, [before[1 + node] for node in nodes])
        rows = torch.softmax(logits.double(), -1)
        self._q.update(zip(nodes, rows, strict=True))
        return rows


Child = tuple[int, int, bool]
"""The row of its parent, its token, and whether it may have children; siblings in the order they were drawn."""

Pick = Callable[[int, int, Tensor], Sequence[Child]]
"""`(level, depth, q) → children`: those of level `level` from 0 of `depth`, q (n, V) after the nodes read last."""


class LevelTree:
    """Grows `depth` levels, each from one forward of the draft model; `pick` says which children."""

    def __init__(self, session: Session, depth: int, warp: Warp, stream: Stream | None, pick: Pick) -> None:
        self.depth, self.pick, self.grown = depth, pick, Grown(session, warp, stream)

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree of at most `limit` levels below `text`."""
        grown, nodes, depth = self.grown, [ROOT], min(self.depth, limit)
        q = grown.start(text, last)[None]
        for level in range(depth):
            children = [(grown.add(nodes[row], token), fertile)
                        for row, token, fertile in self.pick(level, depth, q)]
            nodes = [child for child, fertile in children if fertile]
            if level + 1 == depth or not nodes:
                break
            q = grown.read(nodes)
        return grown.done()


def distinct(q: Tensor, counts: Sequence[int], stream: Stream | None) -> list[list[int]]:
    """Up to `counts[i]` different tokens of row i of q (n, V), drawn without replacement, or the likeliest ones.

    Without a stream they are the likeliest. The distribution of the others, and their order, are those of the
    Gumbel-top-k trick (Kool et al. 1903.06059, §2.3). Waits for the device once.
    """
    if stream is None:
        best = q.topk(min(max(counts), q.shape[1])).indices.tolist()
        return [row[:count] for row, count in zip(best, counts, strict=True)]
    rests, found = q.to("cpu", copy=True), list[list[int]]()
    for rest, count, most in zip(rests, counts, rests.count_nonzero(-1).tolist(), strict=True):
        found.append([])
        for _ in range(min(count, most)):
            found[-1].append(stream.choose(rest))
            rest[found[-1][-1]] = 0
    return found


def numbers(name: str, value: str, most: int) -> tuple[int, ...]:
    """The children per node of each level, such as "3-2-1"; raises `UserError` when it is no such list or too big.

    `name` is the knob, `most` the largest number of nodes.
    """
    parts = [part.strip() for part in value.split("-")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"{name} is {value!r} and must be whole numbers from 1, such as 3-2-1.")
    found, width, nodes = tuple(int(part) for part in parts), 1, 0
    for count in found:
        width *= count
        nodes += width
    if nodes > most:
        raise UserError(f"{name} is {value!r}, a tree of {nodes} nodes; at most {most} are allowed.")
    return found
