"""Block verification, k-seq and the lossy rules, by exact enumeration; classic mistakes are detected."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from harness.decoding.accept import Accept, block, delta, k_seq, rejection, scale, segment
from harness.engine.random_stream import Stream
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from tests.law.test_accept import (
    P,
    Q,
    conditional,
    drafted,
    law,
    logits,
    one_position,
    siblings,
    two_levels,
)

Weights = tuple[float, ...]
Next = Callable[[tuple[int, ...]], Weights]


def vector(weights: Weights) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64)


def chains(stream: Stream, k: int, length: int, q: Next) -> TokenTree:
    """Sample `k` independent chains from q, level by level; a chain is a tree without forks."""
    texts: list[tuple[int, ...]] = [()] * k
    tokens, parents, probs = list[int](), list[int](), dict[int, Tensor]()
    for level in range(length):
        for i in range(k):
            parent = (level - 1) * k + i if level else -1
            probs[parent] = vector(q(texts[i]))
            tokens.append(stream.choose(probs[parent]))
            parents.append(parent)
            texts[i] = (*texts[i], tokens[-1])
    return TokenTree(tuple(tokens), tuple(parents), probs)


def read(tree: TokenTree, p: Next) -> Tensor:
    return logits(*[p(tuple(tree.tokens[i] for i in tree.path(node))) for node in range(-1, len(tree))])


def complete(out: tuple[int, ...], length: int, p: Next, stream: Stream) -> tuple[int, ...]:
    while len(out) < length:
        out = (*out, stream.choose(vector(p(out))))
    return out[:length]


def written(rule: Accept, k: int, length: int, p: Next, q: Next) -> tuple[dict[tuple[int, ...], float], float]:
    """Compute the distribution of `length` + 1 tokens from `k` drafted chains, and the mean accepted drafts."""
    def run(stream: Stream) -> tuple[int, ...]:
        tree = chains(stream, k, length, q)
        path, token = rule(tree, read(tree, p), stream)
        return (len(path), *complete((*(tree.tokens[node] for node in path), token), length + 1, p, stream))
    texts: dict[tuple[int, ...], float] = {}
    kept = 0.0
    for (count, *text), chance in law(run).items():
        texts[tuple(text)] = texts.get(tuple(text), 0) + chance
        kept += count * chance
    return texts, kept


def autoregressive(p: Next, length: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        found = {(*text, x): chance * w for text, chance in found.items() for x, w in enumerate(p(text)) if w}
    return found


def same(found: dict[tuple[int, ...], float], expected: dict[tuple[int, ...], float]) -> bool:
    return all(found.get(t, 0) == pytest.approx(expected.get(t, 0), abs=1e-12) for t in {*found, *expected})


def rho_of(p: Tensor, q: Tensor, k: int) -> float:
    return scale(segment(p, q, k).tolist(), k)


@pytest.mark.parametrize(("count", "rho", "golden"), [(1, 1, .7), (2, 1.45678, .79136), (3, 1.79259, .85852)])
def test_k_seq(count: int, rho: float, golden: float) -> None:
    emitted, accepted = one_position(k_seq, count, True, P, Q)
    assert emitted == pytest.approx(P, abs=1e-12)
    assert accepted == pytest.approx(golden, abs=1e-5)
    assert rho_of(vector(P), vector(Q), count) == pytest.approx(rho, abs=1e-5)


@pytest.mark.parametrize(("rule", "k", "length"), [
    (rejection, 1, 2), (k_seq, 1, 2), (k_seq, 2, 2), (k_seq, 3, 1), (block, 1, 1), (block, 1, 2), (block, 1, 3)])
def test_chains_preserve_the_distribution(rule: Accept, k: int, length: int) -> None:
    found, _ = written(rule, k, length, conditional, drafted)
    assert same(found, autoregressive(conditional, length + 1))


def test_k_seq_preserves_the_distribution_on_trees() -> None:
    found = law(lambda stream: two_levels(stream, k_seq, 2, True))
    assert same(found, autoregressive(conditional, 3))


def test_block_verification_accepts_more() -> None:
    """Golden 8; never worse than token by token, and the same for a single draft."""
    p, q = (float(Fraction(1, 3)), float(Fraction(2, 3))), (float(Fraction(2, 3)), float(Fraction(1, 3)))
    assert written(rejection, 1, 2, lambda _: p, lambda _: q)[1] == pytest.approx(10 / 9, abs=1e-12)
    assert written(block, 1, 2, lambda _: p, lambda _: q)[1] == pytest.approx(11 / 9, abs=1e-12)
    for length in (1, 2, 3):
        token = written(rejection, 1, length, conditional, drafted)[1]
        whole = written(block, 1, length, conditional, drafted)[1]
        assert whole == pytest.approx(token, abs=1e-12) if length == 1 else whole > token


@pytest.mark.parametrize("tokens", [(), (1,), (2, 0), (1, 1)])
def test_block_preserves_the_distribution_with_chosen_drafts(tokens: tuple[int, ...]) -> None:
    tree = TokenTree.chain(tokens)

    def run(stream: Stream) -> tuple[int, ...]:
        path, token = block(tree, read(tree, conditional), stream)
        return complete((*tokens[:len(path)], token), 3, conditional, stream)
    assert same(law(run), autoregressive(conditional, 3))


@pytest.mark.parametrize(("rule", "k"), [(k_seq, 1), (k_seq, 3), (block, 1)])
def test_all_is_accepted_when_the_draft_is_the_target(rule: Accept, k: int) -> None:
    assert written(rule, k, 2 if k == 1 else 1, conditional, conditional)[1] == pytest.approx(2 if k == 1 else 1)
    assert rho_of(vector(P), vector(P), k) == pytest.approx(1, abs=1e-6 if k == 1 else 1e-2)


@pytest.mark.parametrize("rule", [k_seq, block])
def test_where_draft_and_target_share_nothing(rule: Accept) -> None:
    emitted, accepted = one_position(rule, 1, True, (1.0, 0.0, 0.0), (0.0, 0.5, 0.5))
    assert (emitted, accepted) == ([1.0, 0.0, 0.0], 0.0)


def test_block_refuses_a_fork() -> None:
    with pytest.raises(Unsupported, match="chain"):
        block(TokenTree((1, 2), (-1, -1)), logits(P, P, P), None)  # type: ignore[arg-type]


def off(found: dict[tuple[int, ...], float], expected: dict[tuple[int, ...], float]) -> float:
    """Total variation."""
    return sum(abs(found.get(t, 0) - expected.get(t, 0)) for t in {*found, *expected}) / 2


@pytest.mark.parametrize(("copies", "golden"), [(1, .51), (2, .657), (4, .83193)])
def test_a_discarded_comparison_sample_breaks_the_distribution(copies: int, golden: float) -> None:
    """Golden 3: the token sampled for the comparison with a draft must be the one that is committed."""
    def redrawn(tree: TokenTree, rows: Tensor, stream: Stream) -> tuple[list[int], int]:
        p = torch.softmax(rows[0], -1)
        hit = [stream.choose(p) == tree.tokens[0] for _ in range(copies)]
        return ([0], 0) if any(hit) else ([], stream.choose(p))
    tree = TokenTree.chain((1,))

    def run(rule: Accept) -> float:
        def first(stream: Stream) -> tuple[int, ...]:
            path, token = rule(tree, logits(P, P), stream)
            return (tree.tokens[0] if path else token,)
        return law(first)[(1,)]
    assert run(redrawn) == pytest.approx(golden, abs=1e-12)
    assert run(delta) == pytest.approx(.3, abs=1e-12)


def test_drafts_dropped_by_their_token_break_the_distribution() -> None:
    """Golden 4: a draft of low confidence must not vanish from the tree."""
    def run(stream: Stream) -> tuple[int, ...]:
        tree = siblings(1, True, Q, stream)
        if Q[tree.tokens[0]] < .25:
            tree = TokenTree()
        path, token = rejection(tree, logits(*[P] * (1 + len(tree))), stream)
        return (tree.tokens[0] if path else token,)
    found = law(run)
    assert [found[(x,)] for x in range(3)] == pytest.approx((.40, .36, .24), abs=1e-12)


def test_soft_q_for_chosen_drafts_breaks_the_distribution() -> None:
    """A draft that was the likeliest token was not drawn from q."""
    def run(stream: Stream) -> tuple[int, ...]:
        tree = TokenTree.chain((2,), (vector(Q),))
        path, token = rejection(tree, logits(P, P), stream)
        return (2 if path else token,)
    assert off(law(run), autoregressive(lambda _: P, 1)) > 0.05


def test_an_unwarped_bonus_breaks_the_distribution() -> None:
    """The token after the last draft comes from the same warped distribution as all others."""
    def raw(tree: TokenTree, rows: Tensor, stream: Stream) -> tuple[list[int], int]:
        path, token = rejection(tree, rows, stream)
        return path, stream.choose(torch.softmax(rows[-1] / 2, -1)) if len(path) == len(tree) else token
    expected = autoregressive(conditional, 3)
    assert off(written(raw, 1, 2, conditional, drafted)[0], expected) > 0.01


def test_block_with_the_coins_of_single_tokens_breaks_the_distribution() -> None:
    """The residual of a block is that of its own weight, not of one."""
    def mixed(tree: TokenTree, rows: Tensor, stream: Stream) -> tuple[list[int], int]:
        path, _ = block(tree, rows, stream)
        node = len(path) - 1
        p = torch.softmax(rows[node + 1], -1)
        return path, stream.choose((p - tree.probs[node]).clamp_min(0) if len(path) < len(tree) else p)
    found, _ = written(mixed, 1, 2, conditional, drafted)
    assert off(found, autoregressive(conditional, 3)) > 0.001


def test_independent_drafts_may_be_tried_in_any_order() -> None:
    """Unlike siblings drawn without replacement, if the order does not depend on the tokens."""
    def backwards(tree: TokenTree, rows: Tensor, stream: Stream) -> tuple[list[int], int]:
        turned = TokenTree(tree.tokens[::-1], tree.parents, tree.probs)
        path, token = k_seq(turned, rows, stream)
        return [len(tree) - 1 - node for node in path], token
    assert one_position(backwards, 3, True, P, Q)[0] == pytest.approx(P, abs=1e-12)


def test_scale_solves_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    for k in (2, 3, 8):
        p, q = torch.rand(2, 50, generator=generator, dtype=torch.float64).pow(3)
        p[:5], q[3:8] = 0, 0
        p, q = p / p.sum(), q / q.sum()
        rho = rho_of(p, q, k)
        beta = float(torch.minimum(q, p / rho).sum())
        assert 1 < rho < k
        assert 1 - (1 - beta) ** k == pytest.approx(rho * beta, abs=1e-12)


@pytest.mark.parametrize("rule", [rejection, k_seq, delta])
def test_a_last_branch_that_cannot_be_changes_nothing(rule: Accept) -> None:
    p = (.6, .4, 0.)
    for tokens in ((0, 2), (1, 2), (1, 0, 2)):
        longer, shorter = (TokenTree(t, (-1,) * len(t)) for t in (tokens, tokens[:-1]))

        def run(tree: TokenTree, stream: Stream) -> tuple[int, ...]:
            path, token = rule(tree, logits(*[p] * (1 + len(tree))), stream)
            return (*(tree.tokens[i] for i in path), token)
        assert same(law(lambda s, t=longer: run(t, s)), law(lambda s, t=shorter: run(t, s)))


@pytest.mark.parametrize("rule", [rejection, k_seq])
def test_the_numbering_of_nodes_changes_nothing(rule: Accept) -> None:
    """Any numbering with parents before children and siblings in order is the same tree."""
    q = vector(Q)
    across = TokenTree((0, 2, 1, 2), (-1, -1, 0, 1), {-1: q, 0: q, 1: q})
    down = TokenTree((0, 1, 2, 2), (-1, 0, -1, 2), {-1: q, 0: q, 2: q})

    def run(tree: TokenTree, stream: Stream) -> tuple[int, ...]:
        path, token = rule(tree, read(tree, conditional), stream)
        return (*(tree.tokens[i] for i in path), token)
    assert same(law(lambda s: run(across, s)), law(lambda s: run(down, s)))


@pytest.mark.parametrize("rule", [rejection, k_seq, block, delta])
@pytest.mark.parametrize(("tokens", "path", "token"), [
    ((1, 2, 0), [0, 1, 2], 1), ((1, 0, 0), [0], 2), ((0, 1, 1), [], 1)])
def test_one_token_distributions_are_greedy(rule: Accept, tokens: tuple[int, ...], path: list[int], token: int) -> None:
    rows = logits((0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0))
    drawn = TokenTree.chain(tokens, [torch.eye(3, dtype=torch.float64)[t] for t in tokens])
    for tree in (drawn, TokenTree.chain(tokens)):
        def run(stream: Stream, tree: TokenTree = tree) -> tuple[int, ...]:
            kept, after = rule(tree, rows, stream)
            return (*kept, after)
        assert law(run) == {(*path, token): 1}
