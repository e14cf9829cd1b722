"""Acceptance rules: pure functions from a draft tree and target logits to the accepted path and the next token."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from harness.engine.random_stream import Stream
from harness.engine.tree import ROOT, TokenTree
from harness.errors import Unsupported

Accept = Callable[[TokenTree, Tensor, Stream], tuple[list[int], int]]
"""`(tree, logits, stream) → (path, next token)`; `logits` (1 + N, V): row 0 after the text, row 1 + i after node i."""

Level = Callable[[Tensor, Tensor | None, Sequence[int], Stream], tuple[int | None, Tensor]]
"""`(p, q, tokens of the children, stream) → (the child taken or None, what the next token is drawn from if none)`."""


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
    return drawn(*walk(TokenTree(tree.tokens, tree.parents), rows(logits), one_by_one, stream), stream)


def rejection(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept a sampled child with min(1, p/q), else replace p by norm(p − q)₊; siblings are independent samples.

    On a chain this is speculative sampling (Leviathan 2211.17192, Chen 2302.01318); with siblings SpecInfer's
    multi-step rule (2305.09781). Children without `probs` fall under `delta`.
    """
    return drawn(*walk(tree, rows(logits), one_by_one, stream), stream)


def rejection_without_replacement(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Apply `rejection` to siblings sampled without replacement: a rejected child leaves q too (RSD, 2402.14160).

    Siblings must be in the order in which they were sampled.
    """
    return drawn(*walk(tree, rows(logits), partial(one_by_one, replacement=False), stream), stream)


def k_seq(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept each of K independent drafts with min(1, p/(ρq)), one ρ for all (k-seq of SpecTr, 2310.15141).

    Siblings are independent draws with duplicates kept; equal tokens are verified together, so K chains form a tree.
    With one chain this is `rejection`. Children without `probs` fall under `delta`.
    """
    return drawn(*walk(tree, rows(logits), _k_drafts, stream, together=True), stream)


def block(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Verify a chain as one block: accept the longest prefix whose own random test succeeds (2403.10444).

    Never accepts fewer drafts on average than `rejection`. Drafts without `probs` count as drawn from a point mass.
    Raises `ValueError` if the tree forks.
    """
    only_chains(tree, "block")
    p = torch.softmax(logits.double(), -1)
    weights = [1.0]
    for i, token in enumerate(tree.tokens):
        q = tree.probs.get(i - 1)
        drafted = 1.0 if q is None else float(q[token])
        weights.append(min(1.0, weights[-1] * float(p[i, token]) / drafted) if drafted else 0.0)
    i = len(tree)
    while True:
        chance, rest = weights[i], p[i]
        if i < len(tree):
            rest = _beyond(weights[i] * p[i], tree.probs.get(i - 1), tree.tokens[i])
            mass = float(rest.sum())
            chance = mass / (mass + 1 - weights[i]) if weights[i] < 1 else 1.0
        if i == 0 or stream.coin(chance):
            return list(range(i)), stream.choose(_normal(rest, p[i]))
        i -= 1


def at(temperature: float, rule: Accept = rejection) -> Accept:
    """Return `greedy` at temperature 0, else `rule`."""
    return greedy if temperature == 0 else rule


def rows(logits: Tensor) -> Callable[[int], Tensor]:
    """Return the target's distribution (V,) in float64 after each node, computed lazily."""
    return lambda node: torch.softmax(logits[node + 1].double(), -1)


def walk(tree: TokenTree, law: Callable[[int], Tensor], level: Level, stream: Stream, *, together: bool = False
         ) -> tuple[list[int], Tensor]:
    """Descend from the root, one `level` at a time, until no child is accepted; returns the path and the residual.

    `law` returns the target's distribution (V,) after a node. With `together`, siblings of one token are one node.
    """
    nodes, children = [ROOT], tree.children()
    while True:
        below = [child for node in nodes for child in children.get(node, ())]
        q = next((tree.probs[node] for node in nodes if node in tree.probs), None)
        taken, left = level(law(nodes[0]), q, [tree.tokens[child] for child in below], stream)
        if taken is None:
            return tree.path(nodes[0]), left
        token = tree.tokens[below[taken]]
        nodes = [child for child in below if tree.tokens[child] == token] if together else [below[taken]]


def drawn(path: list[int], left: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Return the path and a token sampled from the residual distribution (V,)."""
    return path, stream.choose(left)


def one_by_one(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream, *, replacement: bool = True,
               chance: Callable[[float, float], float] | None = None) -> tuple[int | None, Tensor]:
    """Try the children in order: accept each with `chance(p, q)`, by default min(1, p/q), else remove it."""
    for i, token in enumerate(tokens):
        if stream.coin((chance or ratio)(float(p[token]), 1.0 if q is None else float(q[token]))):
            return i, p
        p, q = _rejected(p, q, token, replacement)
    return None, p


def likeliest(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> tuple[int | None, Tensor]:
    """Apply the exact rule at temperature 0: accept the child that is the likeliest token, if any."""
    best = int(p.argmax())
    return (tokens.index(best) if best in tokens else None), p


def ratio(p: float, q: float) -> float:
    """Return min(1, p/q); zero if p is."""
    return p / q if p < q else float(p > 0)


def only_chains(tree: TokenTree, rule: str) -> None:
    """Raise `Unsupported` if the tree forks."""
    if tree.parents != tuple(range(ROOT, len(tree) - 1)):
        raise Unsupported(f"{rule} judges a chain of drafts; give it a drafter that makes no trees")


def _rejected(p: Tensor, q: Tensor | None, token: int, replacement: bool) -> tuple[Tensor, Tensor | None]:
    """Return p and q after `token` was rejected."""
    p = _normal(_beyond(p, q, token), p)
    if q is not None and not replacement:
        q = q.clone()
        q[token] = 0
        q = q / q.sum() if q.sum() > 0 else None
    return p, q


def _beyond(p: Tensor, q: Tensor | None, token: int) -> Tensor:
    """Return (p − q)₊; without q (a point mass on `token`), p without that token."""
    if q is not None:
        return (p - q).clamp_min(0)
    rest = p.clone()
    rest[token] = 0
    return rest


def _normal(rest: Tensor, p: Tensor) -> Tensor:
    """Normalise `rest`; if it is zero because of rounding, return the target's distribution p."""
    total = rest.sum()
    return rest / total if total > 0 else p


def _k_drafts(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> tuple[int | None, Tensor]:
    if q is None or not tokens:
        return one_by_one(p, q, tokens, stream)
    rho = scale(p, q, len(tokens))
    for i, token in enumerate(tokens):
        if stream.coin(ratio(float(p[token]), rho * float(q[token]))):
            return i, p
    common = torch.minimum(q, p / rho)
    beta = float(common.sum())
    if beta == 0:
        return None, p
    return None, _normal((p - common * ((1 - (1 - beta) ** len(tokens)) / beta)).clamp_min(0), p)


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
