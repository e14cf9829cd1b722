"""Lossy acceptance rules, which accept drafts that an exact rule would reject.

Each factory returns the rule for temperatures above 0 or, with `sure`, its form for temperature 0, where the token
after the last accepted draft is the likeliest one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, log

import torch
from torch import Tensor

from harness.decoding.accept import (
    Accept,
    Level,
    Trial,
    decisions,
    greedy,
    likeliest,
    one_by_one,
    only_chains,
    point,
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
    def mixed(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> Trial:
        draft = point(p, tokens[0]) if q is None else q
        return likeliest(weight * p + (1 - weight) * draft, q, tokens, stream)
    if sure:
        return _down(mixed, sure)
    return _down(partial(one_by_one, chance=lambda p, q=1.0: 1 - weight + weight * ratio(p, q)), sure)


def lenience(share: float, *, sure: bool = False) -> Accept:
    """Accept with min(1, p/(l·q)) and use norm(p − q)₊ after a rejection (Leviathan, 2211.17192, §A.5).

    `sure` accepts tokens of at least l times the highest probability. Works on trees, one sibling after the other.
    """
    def near(p: Tensor, q: Tensor | None, tokens: Sequence[int]) -> Sequence[Tensor]:
        least = share * p.amax()
        return [(p[token] >= least) & (share < 1) for token in tokens]
    relaxed = partial(one_by_one, chance=lambda p, q=1.0: ratio(p, share * q))
    return _down(_pardoned(near, likeliest) if sure else relaxed, sure)


def kl(kappa: float, *, sure: bool = False) -> Accept:
    """Accept the drafts that the exact rule accepts, and any draft where KL(q‖p) < κ nats (2601.04766).

    A draft that was chosen, not sampled, has KL = −log p. `sure` needs q in `probs`. Works on trees, one sibling after
    the other.
    """
    def close(p: Tensor, q: Tensor | None, tokens: Sequence[int]) -> Sequence[Tensor]:
        if q is None:
            return [-p[token].log() < kappa for token in tokens]
        return [torch.special.xlogy(q, q).sum() - torch.special.xlogy(q, p).sum() < kappa] * len(tokens)
    return _down(_pardoned(close, likeliest if sure else one_by_one), sure)


def fly(entropy: float, k: int, window: int, *, sure: bool = False) -> Accept:
    """Accept a rejected draft if the target is uncertain and the exact rule accepts the next `window` drafts (FLy).

    Uncertain means that the entropy of the `k` highest probabilities, in nats, is at least `entropy` (2511.22972). The
    window is shortened to fit behind the first draft. Chains only; raises `ValueError` if the tree forks.
    """
    exact: Level = likeliest if sure else one_by_one

    def level(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> Trial:
        """Decide 0 if the exact rule accepts the only child, else 1 if the target is uncertain."""
        accepted, residual = yield from exact(p, q, tokens, stream)
        if accepted is None:
            top = p.topk(min(k, len(p))).values
            (uncertain,) = yield (((-torch.special.xlogy(top, top).sum() >= entropy) & (p[tokens[0]] > 0)).double(),)
            accepted = 1 if uncertain else None
        return accepted, residual

    def rule(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        only_chains(tree, "fly")
        target, wait, i = rows(logits), min(window, len(tree) - 1), 0
        decide = decisions(tree, target, level, stream)
        while i < len(tree):
            accepted, residual = decide(i - 1)
            if accepted:
                follows = 0 < wait < len(tree) - i and all(decide(j)[0] == 0 for j in range(i, i + wait))
                accepted = 1 if follows else None
            if accepted is None:
                return list(range(i)), _next(residual, stream, sure)
            i += 1 + accepted * wait
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


def _pardoned(fine: Callable[[Tensor, Tensor | None, Sequence[int]], Sequence[Tensor]], level: Level) -> Level:
    """Return a level that accepts as `level` does, else the first child for which `fine` is true."""
    def lenient(p: Tensor, q: Tensor | None, tokens: Sequence[int], stream: Stream) -> Trial:
        accepted, residual = yield from level(p, q, tokens, stream)
        if accepted is None:
            passed = yield [each.double() for each in fine(p, q, tokens)]
            accepted = next((i for i, each in enumerate(passed) if each), None)
        return accepted, residual
    return lenient


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
