"""Lossy acceptance rules, which accept drafts that an exact rule would reject.

Each factory returns the rule for temperatures above 0 or, with `sure`, its form for temperature 0, where the token
after the last accepted draft is the likeliest one.
"""

from collections.abc import Callable, Sequence
from math import inf, log

import torch
from torch import Tensor

from harness.decoding.accept import (
    Accept,
    Level,
    Numbers,
    Siblings,
    Tries,
    exhausted,
    first,
    greedy,
    likeliest,
    one_by_one,
    only_chains,
    origin,
    ratio,
    rows,
    walk,
)
from harness.engine.random_stream import Stream
from harness.engine.tree import ROOT, TokenTree, depths

Judge = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(p, rows, tokens) → bool (N,)`: p (1 + N, V) after each row, and each node's parent row and token (N,)."""


def typical(epsilon: float, delta: float, *, sure: bool = False) -> Accept:
    """Keep the longest path whose tokens have p > min(ε, δ·exp(−H(p))), H in nats (Medusa, 2401.10774).

    Works on trees. If the distribution is a single token, as at temperature 0, this is the greedy rule.
    """
    def passes(p: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        entropy = -(p * (p + 1e-5).log()).sum(-1)
        return p[rows, tokens] > (delta * torch.exp(-entropy)).clamp_max(epsilon)[rows]
    return greedy if sure else _longest(passes, sure=False)


def top_k(k: int, least: int = 1, *, sure: bool = False) -> Accept:
    """Keep the longest path of tokens among the target's k likeliest (blockwise decoding, 1811.03115, §5.1).

    Each step commits at least `least` tokens if there are drafts for them. Works on trees.
    """
    return _longest(lambda p, rows, tokens: _rank(p, rows, tokens) < k, least, sure=sure)


def distance(epsilon: int, least: int = 1, *, sure: bool = False) -> Accept:
    """Keep the longest path of tokens whose ids are within ε of the likeliest one's (1811.03115, §5.2).

    For ordered vocabularies, such as pixel values. `least` as for `top_k`. Works on trees.
    """
    return _longest(lambda p, rows, tokens: (tokens - p.argmax(-1)[rows]).abs() <= epsilon, least, sure=sure)


def near_best(beta: int, tau: float, *, sure: bool = False) -> Accept:
    """Keep the longest path of tokens among the β likeliest and within τ nats of the likeliest (2203.16487).

    Works on trees.
    """
    def passes(p: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        gap = p.amax(-1)[rows].log() - p[rows, tokens].log()
        return (_rank(p, rows, tokens) < beta) & (gap <= tau)
    return _longest(passes, sure=sure)


def ensemble(weight: float, *, sure: bool = False) -> Accept:
    """Decode with v = w·p + (1 − w)·q instead of p; the token after the last draft comes from p.

    A sampled chain's tokens have exactly the distribution v; with siblings the rule is applied to one after the other.
    `sure` keeps the likeliest token of v, and needs q in `probs`.
    """
    def mixed(below: Siblings) -> Siblings:
        return below._replace(p=weight * below.p + (1 - weight) * origin(below, 0))
    if sure:
        return _down(Level(lambda below: likeliest.tries(mixed(below)), first), sure)
    return _down(one_by_one(chance=lambda p, q: 1 - weight + weight * ratio(p, q)), sure)


def lenience(share: float, *, sure: bool = False) -> Accept:
    """Accept with min(1, p/(l·q)) and use norm(p − q)₊ after a rejection (Leviathan, 2211.17192, §A.5).

    `sure` accepts tokens of at least l times the highest probability. Works on trees, one sibling after the other.
    """
    def near(below: Siblings) -> Tensor:
        chances = below.p.gather(1, below.tokens)
        return (chances >= share * below.p.amax(-1, keepdim=True)) & (share < 1)
    relaxed = one_by_one(chance=lambda p, q: ratio(p, share * q))
    return _down(_pardoned(near, likeliest) if sure else relaxed, sure)


def kl(kappa: float, *, sure: bool = False) -> Accept:
    """Accept the drafts that the exact rule accepts, and any draft where KL(q‖p) < κ nats (2601.04766).

    A draft that was chosen, not sampled, has KL = −log p. `sure` needs q in `probs`. Works on trees, one sibling after
    the other.
    """
    def close(below: Siblings) -> Tensor:
        divergences = [torch.special.xlogy(q, q).sum(-1) - torch.special.xlogy(q, below.p).sum(-1)
                       for q in (origin(below, i) for i in range(below.tokens.shape[1]))]
        return torch.stack(divergences, -1) < kappa
    return _down(_pardoned(close, likeliest if sure else one_by_one()), sure)


def fly(entropy: float, k: int, window: int, *, sure: bool = False) -> Accept:
    """Accept a rejected draft if the target is uncertain and the exact rule accepts the next `window` drafts (FLy).

    Uncertain means that the entropy of the `k` highest probabilities, in nats, is at least `entropy` (2511.22972). The
    window is shortened to fit behind the first draft. Chains only; raises `ValueError` if the tree forks.
    """
    exact = likeliest if sure else one_by_one()

    def unsure(below: Siblings) -> Tensor:
        top = below.p.topk(min(k, below.p.shape[1])).values
        high: Tensor = -torch.special.xlogy(top, top).sum(-1, keepdim=True) >= entropy
        return high & (below.p.gather(1, below.tokens) > 0)
    level = _pardoned(unsure, exact)

    def rule(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        only_chains(tree, "fly")
        target, wait, i = rows(logits), min(window, len(tree) - 1), 0
        numbers = Numbers(tree, target, level)

        def accepted(i: int) -> bool:
            return exact.decide([row[1:] for row in numbers[i - 1]], stream) is not None

        def pardoned(i: int) -> bool:
            return (0 < wait < len(tree) - i and bool(numbers[i - 1][0][0])
                    and all(accepted(j) for j in range(i + 1, i + 1 + wait)))
        while i < len(tree):
            if not accepted(i):
                if not pardoned(i):
                    return list(range(i)), _next(numbers.left(i - 1), stream, sure)
                i += wait
            i += 1
        return list(range(i)), _next(target(i - 1), stream, sure)
    return rule


def synthetic(rates: Sequence[float], *, sure: bool = False) -> Accept:
    """Accept the i-th draft with probability `rates[i]`, whatever its token; the last rate applies to all later ones.

    For measuring the cost of steps, not the quality of answers. In a tree only first children are accepted.
    """
    def rule(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        path, children = list[int](), tree.children()
        node = ROOT
        while node in children and stream.coin(rates[min(len(path), len(rates) - 1)]):
            node = children[node][0]
            path.append(node)
        return path, _next(rows(logits)(node), stream, sure)
    return rule


def _next(left: Tensor, stream: Stream, sure: bool) -> int:
    return int(left.argmax()) if sure else stream.choose(left)


def _down(level: Level, sure: bool) -> Accept:
    def rule(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        path, left = walk(tree, rows(logits), level, stream)
        return path, _next(left, stream, sure)
    return rule


def _pardoned(fine: Callable[[Siblings], Tensor], level: Level) -> Level:
    """Return a level that accepts as `level` does, else the first child for which `fine` (n, k) is true."""
    def tries(below: Siblings) -> Tries:
        tries, passed = level.tries(below), fine(below).double().expand(*below.tokens.shape)
        for i in range(below.tokens.shape[1]):
            yield torch.cat([passed[:, i:i + 1], next(tries)], -1)
        return exhausted(tries)

    def decide(numbers: Sequence[Sequence[float]], stream: Stream) -> int | None:
        taken = level.decide([row[1:] for row in numbers], stream)
        return first(numbers, stream) if taken is None else taken
    return Level(tries, decide)


def _log(p: float) -> float:
    return log(p) if p > 0 else -inf


def _rank(p: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Return the rank of each node's token by p, 0 for the likeliest; ties go to the lower id."""
    own, ids = p[rows, tokens][:, None], torch.arange(p.shape[1], device=p.device)
    return ((p[rows] > own) | ((p[rows] == own) & (ids < tokens[:, None]))).sum(-1)


def _longest(judge: Judge, least: int = 1, *, sure: bool) -> Accept:
    """Accept the longest path of nodes that pass, of equal ones the likeliest; the first `least` − 1 always pass."""
    def rule(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        p = torch.softmax(logits.double(), -1)
        if not len(tree):
            return [], _next(p[0], stream, sure)
        above = torch.tensor(tree.parents, device=p.device) + 1
        tokens = torch.tensor(tree.tokens, device=p.device)
        all_chances = p[above, tokens]
        passed, chances = torch.stack([(judge(p, above, tokens) & (all_chances > 0)).double(), all_chances]).tolist()
        best, scores = ROOT, {ROOT: (0, 0.0)}
        for node, (depth, chance) in enumerate(zip(depths(tree.parents), chances, strict=True)):
            if tree.parents[node] in scores and (passed[node] or depth < least):
                scores[node] = (depth, scores[tree.parents[node]][1] + _log(chance))
                best = node if scores[node] > scores[best] else best
        return tree.path(best), _next(p[1 + best], stream, sure)
    return rule
