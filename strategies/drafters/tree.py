"""Trees that a draft model grows, many nodes a forward."""

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
    """A tree that a draft model grows below a sequence, with q after the nodes that had a forward pass.

    With a stream, q is warped and children count as sampled from it; without one they count as chosen, and q is
    the model's plain softmax.
    """

    def __init__(self, session: Session, warp: Warp, stream: Stream | None) -> None:
        self.session, self.warp, self.stream = session, warp, stream
        self.tree, self._sequence = EMPTY, list[int]()
        self._tokens, self._parents, self._probs = list[int](), list[int](), dict[int, Tensor]()
        self._q = dict[int, Tensor]()
        self._node: dict[int, int] = {}  # node → node of the session, for nodes after a forward

    def start(self, sequence: Sequence[int], last: Step) -> Tensor:
        """Start a tree below `sequence` and return q (V,) after it; the cache of the accepted path is kept."""
        if last.tree is self.tree:
            cached = [self._node[node] for node in last.path if node in self._node]
            self.session.keep(cached)
        self._sequence = list(sequence)
        self._tokens, self._parents, self._probs, self._q, self._node = [], [], {}, {}, {ROOT: ROOT}
        self.session.follow(self._sequence)
        return self._rows(self.session.read(), [ROOT])[0]

    def add(self, parent: int, token: int) -> int:
        """Add a child that was sampled or chosen from the q of `parent`, and return it."""
        if self.stream is not None:
            self._probs[parent] = self._q[parent]
        self._tokens.append(token)
        self._parents.append(parent)
        return len(self._tokens) - 1

    def read(self, nodes: Sequence[int]) -> Tensor:
        """Return q (n, V) after `nodes` from one forward; each parent is the root or had its forward before."""
        parents = [self._node[self._parents[node]] for node in nodes]
        first = len(self._node) - 1
        reading = self.session.grow([self._tokens[node] for node in nodes], parents)
        self._node.update({node: first + i for i, node in enumerate(nodes)})
        return self._rows(reading, nodes)

    def done(self) -> TokenTree:
        """Return the finished tree."""
        self.tree = TokenTree(tuple(self._tokens), tuple(self._parents), self._probs)
        return self.tree

    def __len__(self) -> int:
        return len(self._tokens)

    def _rows(self, reading: Reading, nodes: Sequence[int]) -> Tensor:
        logits = reading.logits[-len(nodes):]
        if self.stream is not None:
            before = Prefixes(self._sequence, TokenTree(tuple(self._tokens), tuple(self._parents)))
            logits = self.warp(logits, [before[1 + node] for node in nodes])
        rows = torch.softmax(logits.double(), -1)
        self._q.update(zip(nodes, rows, strict=True))
        return rows


Child = tuple[int, int, bool]
"""The row of its parent, its token, and whether it may have children; siblings in the order of sampling."""

Pick = Callable[[int, int, Tensor], Sequence[Child]]
"""`(level, depth, q) → children`: the nodes of `level` from 0 to `depth` − 1, given q (n, V) after their parents."""


class LevelTree:
    """Grows `depth` levels, each from one forward of the draft model; `pick` chooses the children."""

    def __init__(self, session: Session, depth: int, warp: Warp, stream: Stream | None, pick: Pick) -> None:
        self.depth, self.pick, self.grown = depth, pick, Grown(session, warp, stream)

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels below `sequence`."""
        grown, nodes, depth = self.grown, [ROOT], min(self.depth, limit)
        q = grown.start(sequence, last)[None]
        for level in range(depth):
            children = [(grown.add(nodes[row], token), fertile)
                        for row, token, fertile in self.pick(level, depth, q)]
            nodes = [child for child, fertile in children if fertile]
            if level + 1 == depth or not nodes:
                break
            q = grown.read(nodes)
        return grown.done()


def distinct(q: Tensor, counts: Sequence[int], stream: Stream | None) -> list[list[int]]:
    """Return up to `counts[i]` different tokens of row i of q (n, V), sampled without replacement.

    Without a stream they are the likeliest. Otherwise their distribution and order are those of the Gumbel-top-k trick
    (Kool et al. 1903.06059, §2.3). Waits for the device once.
    """
    if stream is None:
        best = q.topk(min(max(counts), q.shape[1])).indices.tolist()
        return [row[:count] for row, count in zip(best, counts, strict=True)]
    rests, samples = q.to("cpu", copy=True), list[list[int]]()
    for rest, count, possible in zip(rests, counts, rests.count_nonzero(-1).tolist(), strict=True):
        samples.append([])
        for _ in range(min(count, possible)):
            samples[-1].append(stream.choose(rest))
            rest[samples[-1][-1]] = 0
    return samples


def numbers(name: str, value: str, max_nodes: int) -> tuple[int, ...]:
    """Parse the children per node of each level, such as "3-2-1"; raises `UserError` for any other or too many nodes.

    `name` is the knob, `max_nodes` the maximum number of nodes.
    """
    parts = [part.strip() for part in value.split("-")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"{name} is {value!r} and must be whole numbers from 1, such as 3-2-1.")
    counts, width, nodes = tuple(int(part) for part in parts), 1, 0
    for count in counts:
        width *= count
        nodes += width
    if nodes > max_nodes:
        raise UserError(f"{name} is {value!r}, a tree of {nodes} nodes; at most {max_nodes} are allowed.")
    return counts
