"""Acceptance rules: pure functions from a tree and what the target says of it to a path and the next token."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.decoding.draw import Stream
from harness.decoding.tree import ROOT, TokenTree

Accept = Callable[[TokenTree, Tensor, Stream], tuple[list[int], int]]
"""`(tree, logits, stream) → (path, next token)`; `logits` (1 + N, V): row 0 after the text, row 1 + i after node i."""


def greedy(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Follow the child that is the likeliest token for as long as there is one; lossless at temperature 0."""
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
    """Take each child as chosen, not drawn: accept it with its target probability, else strike it out.

    Exact for every tree whatever chose the children (the rule of EAGLE-2, 2406.16858).
    """
    return _walk(TokenTree(tree.tokens, tree.parents), logits, stream, replacement=True)


def rejection(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """Accept a drawn child with min(1, p/q), else go on with norm(p − q)₊; siblings were drawn independently.

    On a chain this is speculative sampling (Leviathan 2211.17192, Chen 2302.01318); with siblings SpecInfer's
    multi-step rule (2305.09781). Children without `probs` fall under `delta`.
    """
    return _walk(tree, logits, stream, replacement=True)


def rejection_without_replacement(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    """As `rejection`, for siblings drawn without replacement: a rejected child also leaves q (RSD, 2402.14160).

    Siblings must stand in the order in which they were drawn.
    """
    return _walk(tree, logits, stream, replacement=False)


def at(temperature: float, rule: Accept = rejection) -> Accept:
    """`greedy` at temperature 0, else `rule`."""
    return greedy if temperature == 0 else rule


def _walk(tree: TokenTree, logits: Tensor, stream: Stream, *, replacement: bool) -> tuple[list[int], int]:
    path, node, children = list[int](), ROOT, tree.children()
    while True:
        p = torch.softmax(logits[node + 1].double(), -1)
        q = tree.probs.get(node)
        accepted = None
        for child in children.get(node, ()):
            if accepted := _try(p, q, tree.tokens[child], stream):
                path.append(child)
                node = child
                break
            p, q = _rejected(p, q, tree.tokens[child], replacement)
        if not accepted:
            return path, stream.choose(p)


def _try(p: Tensor, q: Tensor | None, token: int, stream: Stream) -> bool:
    chance = float(p[token])
    if q is not None:
        drawn = float(q[token])
        chance = chance / drawn if chance < drawn else float(chance > 0)
    return stream.coin(chance)


def _rejected(p: Tensor, q: Tensor | None, token: int, replacement: bool) -> tuple[Tensor, Tensor | None]:
    """What is left of p and q once `token` has been turned down."""
    if q is None:
        rest = p.clone()
        rest[token] = 0
    else:
        rest = (p - q).clamp_min(0)
    total = rest.sum()
    p = rest / total if total > 0 else p  # p ≤ q everywhere is rounding: the target's own law is what is left
    if q is not None and not replacement:
        q = q.clone()
        q[token] = 0
        q = q / q.sum() if q.sum() > 0 else None
    return p, q
