"""Acceptance rules: pure functions from a tree and the target's logits to a path and the next token.

Most rules descend from the root, and a `Level` decides at each node which child is accepted. On a GPU such a rule waits
for the device twice: once for the numbers of all nodes, once for the token that it samples.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from math import nan

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.engine.random_stream import Likeliest, Stream
from harness.engine.tree import ROOT, TokenTree
from harness.errors import Unsupported

Accept = Callable[[TokenTree, Tensor, Stream], tuple[list[int], int]]
"""`(tree, logits, stream) → (path, next token)`; `logits` (1 + N, V) after the sequence and after each node."""

Decision = tuple[int | None, Tensor]
"""The index of the accepted child, or None and the residual distribution (V,) that the next token is sampled from."""

Trial = Generator[Sequence[Tensor], Sequence[float], Decision]
"""Decides among the children of one node: it yields scalar tensors, is sent their values, and returns the decision.

What it yields may depend on no value that it was sent, since on a GPU all values of all nodes are copied to the host
together; only an accepted child ends it early.
"""

Level = Callable[[Tensor, Tensor | None, Sequence[int], Stream], Trial]
"""`(p, q, tokens, stream) → trial` for the children of one node, which are `tokens` in the order of drafting.

p (V,) is the target's distribution in float64, q (V,) the draft's, None where the children were chosen.
"""


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
    return sampled(*walk(TokenTree(tree.tokens, tree.parents), rows(logits), one_by_one, stream), stream)


def rejection(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept a sampled child with min(1, p/q), else replace p by norm(p − q)₊; siblings are independent samples.

    On a chain this is speculative sampling (Leviathan 2211.17192, Chen 2302.01318); with siblings SpecInfer's
    multi-step rule (2305.09781). Children without `probs` fall under `delta`.
    """
    return sampled(*walk(tree, rows(logits), one_by_one, stream), stream)


def rejection_without_replacement(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Apply `rejection` to siblings sampled without replacement: a rejected child leaves q too (RSD, 2402.14160).

    Siblings must be in the order in which they were sampled.
    """
    return sampled(*walk(tree, rows(logits), partial(one_by_one, replacement=False), stream), stream)


def k_seq(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept each of K independent drafts with min(1, p/(ρq)), one ρ for all (k-seq of SpecTr, 2310.15141).

    Siblings are independent samples with duplicates kept; equal tokens are verified together, so K chains form a tree.
    With one chain this is `rejection`. Children without `probs` fall under `delta`.
    """
    path, residual = walk(_merged(tree), rows(logits), _k_drafts, stream)
    return sampled(tree.path(path[-1]) if path else path, residual, stream)


def block(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Verify a chain as one block: accept the longest prefix whose own random test succeeds (2403.10444).

    Never accepts fewer drafts on average than `rejection`. Drafts without `probs` count as sampled from a point mass.
    Raises `Unsupported` if the tree forks.
    """
    only_chains(tree, "block")
    p = torch.softmax(logits.double(), -1)
    weights, rests = [p.new_ones(())], list[Tensor]()
    for i, token in enumerate(tree.tokens):
        q, weight = tree.probs.get(i - 1), weights[-1] * p[i, token]
        rests.append(_subtract(weights[-1] * p[i], q, token))
        weights.append(weight if q is None else torch.where(q[token] > 0, weight / q[token], 0.0).clamp_max(1))
    known = torch.stack([*weights, *(rest.sum() for rest in rests)]).tolist()
    masses = known[len(weights):]
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
    """Return the target's distribution (V,) in float64 after each node; on a CPU only those that are used."""
    if logits.device.type == "cpu":
        return lambda node: torch.softmax(logits[node + 1].double(), -1)
    p = torch.softmax(logits.double(), -1)
    return lambda node: p[node + 1]


def walk(tree: TokenTree, target: Callable[[int], Tensor], level: Level, stream: Stream) -> tuple[list[int], Tensor]:
    """Descend from the root, one `level` at a time, until no child is accepted; return the path and the residual.

    `target` returns the target's distribution (V,) after a node.
    """
    target, children, node = cache(target), tree.children(), ROOT
    decide = decisions(tree, target, level, stream)
    while node in children:
        accepted, residual = decide(node)
        if accepted is None:
            return tree.path(node), residual
        node = children[node][accepted]
    return tree.path(node), target(node)


def decisions(tree: TokenTree, target: Callable[[int], Tensor], level: Level, stream: Stream
              ) -> Callable[[int], Decision]:
    """Return what decides at a node that has children; on a GPU the numbers of all of them are copied at once."""
    children = tree.children()

    def start(node: int, stream: Stream) -> Trial:
        tokens = [tree.tokens[child] for child in children[node]]
        return level(target(node), tree.probs.get(node), tokens, stream)
    on_cpu = not children or target(ROOT).device.type == "cpu"
    known = {} if on_cpu else _copied({node: _yielded(start(node, _Reject())) for node in children})
    return lambda node: _decided(start(node, stream), known.get(node, ()))


def sampled(path: list[int], residual: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Return the path and a token sampled from the residual distribution (V,)."""
    return path, stream.choose(residual)


def one_by_one(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream, *, replacement: bool = True,
               chance: Callable[..., float] | None = None) -> Trial:
    """Try the children in order: accept each with `chance(p, q)`, by default min(1, p/q), else remove it from p.

    Without q, `chance` gets p alone. Without `replacement` a rejected child is removed from q too.
    """
    for i, token in enumerate(tokens):
        numbers = yield (p[token],) if q is None else (p[token], q[token])
        if stream.coin((chance or ratio)(*numbers)):
            return i, p
        p = _normal(_subtract(p, q, token), p)
        if q is not None and not replacement:  # a child that q cannot give counts as chosen
            q = _normal(_without(q, token), point(q, tokens[min(i + 1, len(tokens) - 1)]))
    return None, p


def likeliest(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> Trial:
    """Accept the child that is the likeliest token, if there is one: the exact rule at temperature 0."""
    (best,) = yield (p.argmax().double(),)
    return (tokens.index(int(best)) if best in tokens else None), p


def ratio(p: float, q: float = 1.0) -> float:
    """Return min(1, p/q); zero if p is."""
    return p / q if p < q else float(p > 0)


def only_chains(tree: TokenTree, rule: str) -> None:
    """Raise `Unsupported` if the tree forks."""
    if tree.parents != tuple(range(ROOT, len(tree) - 1)):
        raise Unsupported(f"{rule} verifies a chain of drafts; choose a drafter that makes no trees")


class _Reject(Likeliest):
    """A stream that rejects every child."""

    def coin(self, chance: float) -> bool:
        return False


def _decided(trial: Trial, known: Iterable[Sequence[float]]) -> Decision:
    """Run a trial; it is sent the values in `known`, or without them those of the tensors that it yields."""
    numbers = iter(known)
    try:
        tensors = next(trial)
        while True:
            tensors = trial.send(next(numbers, ()) or [float(each) for each in tensors])
    except StopIteration as end:
        decision: Decision = end.value
        return decision


def _yielded(trial: Trial) -> list[Sequence[Tensor]]:
    """All that a trial yields when it accepts no child; it is sent NaN, which compares false with everything."""
    tensors = list[Sequence[Tensor]]()
    with suppress(StopIteration):
        tensors.append(next(trial))
        while True:
            tensors.append(trial.send([nan] * len(tensors[-1])))
    return tensors


def _copied(tensors: Mapping[int, Sequence[Sequence[Tensor]]]) -> dict[int, list[list[float]]]:
    """The values of all `tensors`, in one transfer."""
    flat = iter(torch.stack([x for lists in tensors.values() for each in lists for x in each]).tolist())
    return {node: [[next(flat) for _ in each] for each in lists] for node, lists in tensors.items()}


def _subtract(p: Tensor, q: Tensor | None, token: int) -> Tensor:
    """(p − q)₊ (V,); without q, where all mass was on `token`, p without this token."""
    return _without(p, token) if q is None else (p - q).clamp_min_(0)


def _without(p: Tensor, token: int) -> Tensor:
    rest = p.clone()
    rest[token] = 0
    return rest


def point(p: Tensor, token: int) -> Tensor:
    """The distribution (V,) with all mass on `token`."""
    point = torch.zeros_like(p)
    point[token] = 1
    return point


def _normal(rest: Tensor, otherwise: Tensor) -> Tensor:
    """`rest` (V,) with sum one; `otherwise` if nothing is left, which for a residual of p is rounding."""
    total = rest.sum()
    return torch.where(total > 0, rest / total, otherwise)


def _merged(tree: TokenTree) -> TokenTree:
    """The same nodes; of siblings with equal tokens the first one is the parent of all their children."""
    first, same = dict[tuple[int, int], int](), {ROOT: ROOT}
    for node, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):
        same[node] = first.setdefault((same[parent], token), node)
    probs = {same[node]: q for node, q in reversed(list(tree.probs.items()))}  # the first sibling's q is kept
    return TokenTree(tree.tokens, tuple(same[parent] for parent in tree.parents), probs)


def _k_drafts(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> Trial:
    if q is None:
        return (yield from one_by_one(p, q, tokens, stream))
    k, rho = len(tokens), 1.0
    if k > 1:
        rho = scale((yield segment(p, q, k).unbind()), k)
    for token in tokens:
        chance, drafted = yield p[token], q[token]
        if stream.coin(ratio(chance, rho * drafted)):
            return tokens.index(token), p
    common = torch.minimum(q, p / rho)
    beta = common.sum()
    accepted = (1 - (1 - beta) ** k) / beta.clamp_min(torch.finfo(beta.dtype).tiny)
    return None, _normal((p - common * accepted).clamp_min_(0), p)


def segment(p: Tensor, q: Tensor, k: int) -> Tensor:
    """Return (4,) fixed, free, low and high for p and q (V,): the ρ of `scale` is in [low, high].

    There β = Σ min(q, p/ρ) = fixed + free/ρ, as no p/q is between low and high.
    """
    ratios, order = torch.where(q > 0, p / q, torch.inf).sort()
    free, fixed = pad(p[order].cumsum(0), (1, 0)), pad(q[order].flip(0).cumsum(0).flip(0), (0, 1))
    edges = ratios.clamp(1, k)
    beta = fixed[:-1] + free[:-1] / edges
    place = ((ratios <= 1) | ((ratios < k) & (1 - (1 - beta) ** k > edges * beta))).sum(0, keepdim=True)
    low, high = pad(edges, (1, 0), value=1.0), pad(edges, (0, 1), value=float(k))
    return torch.cat([each[place] for each in (fixed, free, low, high)])


def scale(within: Sequence[float], k: int) -> float:
    """Return ρ in [1, k] with 1 − (1 − β)ᵏ = ρβ, from above: any such ρ is exact. `within` is a `segment`."""
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
