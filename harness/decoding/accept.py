"""Acceptance rules: pure functions from a tree and the target's logits to a path and the next token.

On a GPU a rule waits for the device twice: once for the numbers of all nodes, once for the token that it draws.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
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
    `counts[i]` is how many of the k children node i has; the others repeat its last one.
    """

    p: Tensor
    q: Tensor | None
    drawn: Tensor | None
    tokens: Tensor
    counts: Sequence[int]


@dataclass(frozen=True)
class Level:
    """How a child of a node is accepted.

    `tries` yields m numbers (n, m) for each of the k children of n nodes, and returns the residual distributions (n, V)
    that are sampled from if no child is accepted. `decide` gets the numbers of the children of one node and the stream,
    and returns the index of the child or None; a row of numbers may be computed only when it is used.
    """

    tries: Callable[[Siblings], "Tries"]
    decide: Callable[[Sequence[Sequence[float]], Stream], int | None]


Tries = Generator[Tensor, None, Tensor]


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
    """The numbers of each node that a level decides by: of all nodes in one transfer on a GPU, as needed on a CPU."""

    def __init__(self, tree: TokenTree, law: Callable[[int], Tensor], level: Level, together: bool = False) -> None:
        self._tree, self._level, self._law = tree, level, cache(law)
        self.below = _below(tree, together)
        self._known = dict[int, Sequence[Sequence[float]]]()

    def __getitem__(self, node: int) -> Sequence[Sequence[float]]:
        """A row for each child of a node."""
        if node not in self._known:
            if self._law(node).device.type == "cpu":
                self._known[node] = _Lazy(self._level.tries(self.siblings([node])), len(self.below[node][1]))
            else:
                below = self.siblings(list(self.below))
                numbers = torch.stack(list(islice(self._level.tries(below), below.tokens.shape[1])), 1).tolist()
                self._known |= {node: rows[:len(self.below[node][1])]
                                for node, rows in zip(self.below, numbers, strict=True)}
        return self._known[node]

    def left(self, node: int) -> Tensor:
        """The residual distribution (V,) after all children of a node have been rejected."""
        known = self._known.get(node)
        return exhausted(known.tries if isinstance(known, _Lazy) else self._level.tries(self.siblings([node])))[0]

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
        return Siblings(p, q, drawn, torch.tensor(tokens, device=p.device), [len(below) for _, below in groups])


class _Lazy(Sequence[Sequence[float]]):
    """The numbers of the children of one node, each computed when it is first used."""

    def __init__(self, tries: Tries, count: int) -> None:
        self.tries, self._count, self._rows = tries, count, list[list[float]]()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, child: int) -> list[float]:  # type: ignore[override]  # never sliced
        if child >= self._count:
            raise IndexError(child)
        while len(self._rows) <= child:
            self._rows.append(next(self.tries)[0].tolist())
        return self._rows[child]


def exhausted(tries: Tries) -> Tensor:
    """Run a level's `tries` to the end and return the residual distributions (n, V)."""
    while True:
        try:
            next(tries)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def walk(tree: TokenTree, law: Callable[[int], Tensor], level: Level, stream: Stream, *, together: bool = False
         ) -> tuple[list[int], Tensor]:
    """Descend from the root, one `level` at a time, until no child is accepted; returns the path and the residual.

    `law` returns the target's distribution (V,) after a node. With `together`, siblings of one token are one node.
    """
    numbers, node = Numbers(tree, law, level, together), ROOT
    while node in numbers.below:
        taken = level.decide(numbers[node], stream)
        if taken is None:
            return tree.path(node), numbers.left(node)
        below = numbers.below[node][1]
        node = below[taken] if not together else next(
            child for child in below if tree.tokens[child] == tree.tokens[below[taken]])
    return tree.path(node), law(node)


def drawn(path: list[int], left: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Return the path and a token sampled from the residual distribution (V,)."""
    return path, stream.choose(left)


def one_by_one(*, replacement: bool = True, chance: Callable[[float, float], float] | None = None) -> Level:
    """Try the children in order: accept each with `chance(p, q)`, by default min(1, p/q), else remove it."""
    def tries(below: Siblings) -> Tries:
        for i in range(below.tokens.shape[1]):
            token, now = below.tokens[:, i:i + 1], origin(below, i)
            yield torch.cat([below.p.gather(1, token), now.gather(1, token)], 1)
            below = _rejected(below, now, token, replacement)
        return below.p

    def decide(numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
        return next((i for i, (p, q) in enumerate(numbers) if stream.coin((chance or ratio)(p, q))), None)
    return Level(tries, decide)


def _likeliest(below: Siblings) -> Tries:
    yield from (below.tokens == below.p.argmax(-1, keepdim=True)).double().T[..., None]
    return below.p


def first(numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
    """The first child whose first number is not zero."""
    return next((i for i, row in enumerate(numbers) if row[0]), None)


likeliest = Level(_likeliest, first)
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


def _rejected(below: Siblings, now: Tensor, token: Tensor, replacement: bool) -> Siblings:
    """The same siblings after a child, `token` (n, 1) from `now` (n, V), has been rejected."""
    below = below._replace(p=_normal((below.p - now).clamp_min_(0), below.p))
    if below.q is None or replacement:
        return below
    q = below.q.scatter(1, token, 0.0)
    total = q.sum(-1, keepdim=True)
    left = total > 0 if below.drawn is None else (total > 0) & below.drawn
    return below._replace(q=q / total.where(left, 1.0), drawn=left)


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
    """The level of `k_seq`; it keeps the ρ of the node decided last."""

    def __init__(self) -> None:
        self.rho = 1.0
        self.level = Level(self.tries, self.decide)

    def tries(self, below: Siblings) -> Tries:
        """p and q of the token of each child and the node's `segment`; ρ is 1 where the children were not sampled."""
        p, q, drawn, tokens, counts = below
        exact, known = one_by_one().tries(below), p.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(p), -1)
        if q is not None:
            found = segment(p, q, p.new_tensor(counts)[:, None])
            known = found if drawn is None else torch.where(drawn, found, known)
        for token in tokens.T[..., None]:
            pair = torch.cat([p.gather(1, token), q.gather(1, token)], 1) if q is not None else next(exact)
            if drawn is not None:
                pair = torch.where(drawn, pair, next(exact))
            yield torch.cat([pair, known], 1)
        if q is None:
            return exhausted(exact)
        common = torch.minimum(q, p / self.rho)
        beta = common.sum(-1, keepdim=True)
        taken = (1 - (1 - beta) ** counts[0]) / beta.clamp_min(torch.finfo(beta.dtype).tiny)
        return _normal((p - common * taken).clamp_min(0), p)

    def decide(self, numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
        """The first child whose coin succeeds."""
        self.rho = scale(numbers[0][2:], len(numbers))
        return next((i for i, (p, q, *_) in enumerate(numbers) if stream.coin(ratio(p, self.rho * q))), None)


def segment(p: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Return (n, 4) fixed, free, low and high for p and q (n, V) and k (n, 1): the ρ of `scale` is in [low, high].

    There β = Σ min(q, p/ρ) = fixed + free/ρ, as no p/q is between low and high.
    """
    ratios, order = torch.where(q > 0, p / q, torch.inf).sort(-1)
    p, q = p.gather(-1, order), q.gather(-1, order)
    free = torch.nn.functional.pad(p.cumsum(-1), (1, 0))
    fixed = torch.nn.functional.pad(q.flip(-1).cumsum(-1).flip(-1), (0, 1))
    edges = torch.minimum(ratios.clamp_min(1), k)
    beta = fixed[:, :-1] + free[:, :-1] / edges
    place = ((ratios <= 1) | ((ratios < k) & (1 - (1 - beta) ** k > edges * beta))).sum(-1, keepdim=True)
    ends = torch.cat([torch.ones_like(k), edges], -1), torch.cat([edges, k], -1)
    return torch.cat([each.gather(-1, place) for each in (fixed, free, *ends)], -1)


def scale(within: Sequence[float], k: int) -> float:
    """Return ρ in [1, k] with 1 − (1 − β)ᵏ = ρβ, from above: any such ρ is exact. `within` is a row of `segment`."""
    fixed, free, low, high = within

    def over(rho: float) -> bool:
        beta = fixed + free / rho
        return 1 - (1 - beta) ** k > rho * beta
    if not over(low):
        return low
    while high - low > 1e-14 * high:
        half = (low + high) / 2
        low, high = (half, high) if over(half) else (low, half)
    return high
