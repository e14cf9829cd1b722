"""Acceptance rules: pure functions from a tree and the target's logits to a path and the next token.

On a GPU a rule waits for the device twice: once for the numbers of all nodes, once for the token that it draws.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.random_stream import Stream
from harness.engine.tree import ROOT, TokenTree
from harness.errors import Unsupported

Accept = Callable[[TokenTree, Tensor, Stream], tuple[list[int], int]]
"""`(tree, logits, stream) → (path, next token)`; `logits` (1 + N, V): row 0 after the text, row 1 + i after node i."""


class Siblings(NamedTuple):
    """The children of n nodes, k of each: `tokens` (n, k), the target's `p` and the draft's `q` (n, V) float64.

    `drawn` (n, 1) says which nodes drew their children from q; None stands for all, and q is None where none did.
    """

    p: Tensor
    q: Tensor | None
    drawn: Tensor | None
    tokens: Tensor


@dataclass(frozen=True)
class Level:
    """How a child of a node is accepted: `numbers` (n, k, m) of n nodes decide, `left` (n, V) is drawn from if none is.

    `decide` gets the m numbers of each child of one node and the stream, and returns the place of the child or None.
    `apart` says that `numbers` are made for one node at a time.
    """

    numbers: Callable[[Siblings], Tensor]
    decide: Callable[[Sequence[Sequence[float]], Stream], int | None]
    left: Callable[[Siblings], Tensor]
    apart: bool = False


def greedy(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept children as long as they are the target's likeliest token; lossless at temperature 0."""
    return follow(tree, logits.argmax(-1).tolist())


def follow(tree: TokenTree, best: Sequence[int]) -> tuple[list[int], int]:
    """`greedy`, given the likeliest token of every row instead of the logits."""
    if not tree.tokens:
        return [], best[0]
    path, node, children = list[int](), ROOT, tree.children()
    while (child := next((c for c in children.get(node, ()) if tree.tokens[c] == best[node + 1]), None)) is not None:
        path.append(child)
        node = child
    return path, best[node + 1]


def delta(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Treat each child as chosen, not sampled: accept it with its target probability, else remove it from p.

    Exact for every tree, however the children were chosen (the rule of EAGLE-2, 2406.16858).
    """
    return drawn(*walk(TokenTree(tree.tokens, tree.parents), rows(logits), one_by_one(), stream), stream)


def rejection(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept a sampled child with min(1, p/q), else replace p by norm(p − q)₊; siblings are independent samples.

    On a chain this is speculative sampling (Leviathan 2211.17192, Chen 2302.01318); with siblings SpecInfer's
    multi-step rule (2305.09781). Children without `probs` fall under `delta`.
    """
    return drawn(*walk(tree, rows(logits), one_by_one(), stream), stream)


def rejection_without_replacement(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Apply `rejection` to siblings sampled without replacement: a rejected child leaves q too (RSD, 2402.14160).

    Siblings must be in the order in which they were sampled.
    """
    return drawn(*walk(tree, rows(logits), one_by_one(replacement=False), stream), stream)


def k_seq(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept each of K independent drafts with min(1, p/(ρq)), one ρ for all (k-seq of SpecTr, 2310.15141).

    Siblings are independent draws with duplicates kept; equal tokens are verified together, so K chains form a tree.
    With one chain this is `rejection`. Children without `probs` fall under `delta`.
    """
    return drawn(*walk(tree, rows(logits), _Drafts().level, stream, together=True), stream)


def block(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Verify a chain as one block: accept the longest prefix whose own random test succeeds (2403.10444).

    Never accepts fewer drafts on average than `rejection`. Drafts without `probs` count as drawn from a point mass.
    Raises `ValueError` if the tree forks.
    """
    only_chains(tree, "block")
    p = torch.softmax(logits.double(), -1)
    if not len(tree):
        return [], stream.choose(_normal(p[0], p[0]))
    drafts = Numbers(tree, lambda node: p[node + 1], likeliest).siblings(range(-1, len(tree) - 1))
    q = origin(drafts, 0)
    chances, drafted = drafts.p.gather(1, drafts.tokens)[:, 0], q.gather(1, drafts.tokens)[:, 0]
    weights = [torch.ones_like(chances[0])]
    for i in range(len(tree)):
        weights.append(torch.where(drafted[i] > 0, (weights[-1] * chances[i] / drafted[i]).clamp_max(1), 0.0))
    rests = (torch.stack(weights[:-1])[:, None] * drafts.p - q).clamp_min(0)
    known, masses = torch.stack([torch.stack(weights), torch.cat([rests.sum(-1), weights[-1][None]])]).tolist()
    for i in range(len(tree), -1, -1):
        end = i == len(tree)
        chance = known[i] if end else masses[i] / (masses[i] + 1 - known[i]) if known[i] < 1 else 1.0
        if i == 0 or stream.coin(chance):
            break
    return list(range(i)), stream.choose(_normal(p[i] if end else rests[i], p[i]))


def at(temperature: float, rule: Accept = rejection) -> Accept:
    """Return `greedy` at temperature 0, else `rule`."""
    return greedy if temperature == 0 else rule


def rows(logits: Tensor) -> Callable[[int], Tensor]:
    """Return the target's distribution (V,) in float64 after each node, computed lazily."""
    return lambda node: torch.softmax(logits[node + 1].double(), -1)


class Numbers:
    """What a level wants to know of each node: of all nodes at once on a GPU, of one at a time on a CPU."""

    def __init__(self, tree: TokenTree, law: Callable[[int], Tensor], level: Level, together: bool = False) -> None:
        self._tree, self._level, self._law = tree, level, cache(law)
        self.below = _below(tree, together)
        self._known = dict[int, list[list[float]]]()

    def __getitem__(self, node: int) -> list[list[float]]:
        """A row for each child of a node."""
        if node not in self._known:
            apart = self._level.apart or self._law(node).device.type == "cpu"
            nodes = [node] if apart else list(self.below)
            self._known |= zip(nodes, self._level.numbers(self.siblings(nodes)).tolist(), strict=True)
        return self._known[node][:len(self.below[node][1])]

    def siblings(self, nodes: Sequence[int]) -> Siblings:
        """The children of `nodes`; where one has fewer than another, its last one is repeated."""
        groups, probs = [self.below[node] for node in nodes], self._tree.probs
        width = max(len(below) for _, below in groups)
        p = torch.stack([self._law(node) for node in nodes])
        tokens = [[self._tree.tokens[child] for child in below + below[-1:] * (width - len(below))]
                  for _, below in groups]
        origins = [next((probs[node] for node in same if node in probs), None) for same, _ in groups]
        known = [q is not None for q in origins]
        q = torch.stack([torch.zeros_like(p[0]) if q is None else q for q in origins]) if any(known) else None
        drawn = torch.tensor(known, device=p.device)[:, None] if any(known) and not all(known) else None
        return Siblings(p, q, drawn, torch.tensor(tokens, device=p.device))


def walk(tree: TokenTree, law: Callable[[int], Tensor], level: Level, stream: Stream, *, together: bool = False
         ) -> tuple[list[int], Tensor]:
    """Descend from the root, one `level` at a time, until no child is accepted; returns the path and the residual.

    `law` returns the target's distribution (V,) after a node. With `together`, siblings of one token are one node.
    """
    numbers, node = Numbers(tree, law, level, together), ROOT
    while node in numbers.below:
        taken = level.decide(numbers[node], stream)
        if taken is None:
            return tree.path(node), level.left(numbers.siblings([node]))[0]
        below = numbers.below[node][1]
        node = below[taken] if not together else next(
            child for child in below if tree.tokens[child] == tree.tokens[below[taken]])
    return tree.path(node), law(node)


def drawn(path: list[int], left: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Return the path and a token sampled from the residual distribution (V,)."""
    return path, stream.choose(left)


def one_by_one(*, replacement: bool = True, chance: Callable[[float, float], float] | None = None) -> Level:
    """Try the children in order: accept each with `chance(p, q)`, by default min(1, p/q), else remove it."""
    def numbers(below: Siblings) -> Tensor:
        pairs = [torch.cat([p.gather(1, token), q.gather(1, token)], 1)
                 for _, (p, q, token) in zip(range(below.tokens.shape[1]), _tried(below, replacement), strict=False)]
        return torch.stack(pairs, 1)

    def decide(numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
        return next((i for i, (p, q) in enumerate(numbers) if stream.coin((chance or ratio)(p, q))), None)

    def left(below: Siblings) -> Tensor:
        return list(_tried(below, replacement))[-1][0]
    return Level(numbers, decide, left)


def _likeliest(below: Siblings) -> Tensor:
    return (below.tokens == below.p.argmax(-1, keepdim=True)).double()[..., None]


def first(numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
    """The first child whose first number is not zero."""
    return next((i for i, row in enumerate(numbers) if row[0]), None)


likeliest = Level(_likeliest, first, lambda below: below.p)
"""The exact rule at temperature 0: the child that is the likeliest token, if there is one."""


def ratio(p: float, q: float) -> float:
    """Return min(1, p/q); zero if p is."""
    return p / q if p < q else float(p > 0)


def only_chains(tree: TokenTree, rule: str) -> None:
    """Raise `Unsupported` if the tree forks."""
    if tree.parents != tuple(range(ROOT, len(tree) - 1)):
        raise Unsupported(f"{rule} judges a chain of drafts; give it a drafter that makes no trees")


def origin(below: Siblings, child: int) -> Tensor:
    """What a child of each node comes from (n, V): q, or all mass on the child where it was chosen."""
    if below.q is not None and below.drawn is None:
        return below.q
    point = torch.zeros_like(below.p).scatter_(1, below.tokens[:, child:child + 1], 1.0)
    if below.q is None or below.drawn is None:
        return point
    return torch.where(below.drawn, below.q, point)


def _tried(below: Siblings, replacement: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """p, q and the token of each child once those before it were turned down, and at last p alone after all of them."""
    for i in range(below.tokens.shape[1]):
        token, now = below.tokens[:, i:i + 1], origin(below, i)
        yield below.p, now, token
        below = below._replace(p=_normal((below.p - now).clamp_min_(0), below.p))
        if below.q is not None and not replacement:
            q = below.q.scatter(1, token, 0.0)
            total = q.sum(-1, keepdim=True)
            left = total > 0 if below.drawn is None else (total > 0) & below.drawn
            below = below._replace(q=q / total.where(left, 1.0), drawn=left)
    yield below.p, below.p, below.tokens[:, :1]


def _normal(rest: Tensor, p: Tensor) -> Tensor:
    """`rest` (…, V) with sum one; nothing left is rounding, and then the target's own distribution p is."""
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total, p)


def _below(tree: TokenTree, together: bool) -> dict[int, tuple[list[int], list[int]]]:
    """For each node with children the nodes that are one with it, and the children of all of them."""
    if not together:
        return {node: ([node], below) for node, below in tree.children().items()}
    found, waiting, children = dict[int, tuple[list[int], list[int]]](), [[ROOT]], tree.children()
    while waiting:
        nodes = waiting.pop()
        if below := [child for node in nodes for child in children.get(node, ())]:
            found[nodes[0]] = nodes, below
            waiting += [[child for child in below if tree.tokens[child] == token]
                        for token in dict.fromkeys(tree.tokens[child] for child in below)]
    return found


class _Drafts:
    """The level of `k_seq`; ρ of a node is found on the host, so nodes are looked at one at a time."""

    def __init__(self) -> None:
        self.rho, self.exact = 1.0, one_by_one()
        self.level = Level(self.numbers, self.decide, self.left, apart=True)

    def numbers(self, below: Siblings) -> Tensor:
        """p and q of the tokens of the children of one node."""
        if below.q is None:
            self.rho = 1.0
            return self.exact.numbers(below)
        self.rho = scale(below.p[0], below.q[0], below.tokens.shape[1])
        return torch.stack([below.p.gather(1, below.tokens), below.q.gather(1, below.tokens)], -1)

    def decide(self, numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
        """The first child whose coin succeeds."""
        return next((i for i, (p, q) in enumerate(numbers) if stream.coin(ratio(p, self.rho * q))), None)

    def left(self, below: Siblings) -> Tensor:
        """What the accepted drafts leave of p."""
        if below.q is None:
            return self.exact.left(below)
        common, count = torch.minimum(below.q, below.p / self.rho), below.tokens.shape[1]
        beta = float(common.sum())
        if beta == 0:
            return below.p
        return _normal((below.p - common * ((1 - (1 - beta) ** count) / beta)).clamp_min(0), below.p)


def scale(p: Tensor, q: Tensor, k: int) -> float:
    """Return ρ in [1, k] with 1 − (1 − β)ᵏ = ρβ, β = Σ min(q, p/ρ), from above: any such ρ is exact."""
    fixed, free = float(q[p >= k * q].sum()), float(p[p <= q].sum())  # min is q, or p/ρ, whatever ρ is
    middle = (p > q) & (p < k * q)
    p, q = p[middle], q[middle]

    def over(rho: float) -> bool:
        beta = fixed + free / rho + float(torch.minimum(q, p / rho).sum())
        return 1 - (1 - beta) ** k > rho * beta
    low, high = 1.0, float(k)
    if not over(low):
        return low
    while high - low > 1e-14 * high:
        half = (low + high) / 2
        low, high = (half, high) if over(half) else (low, half)
    return high
