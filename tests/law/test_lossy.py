"""Lossy rules change the distribution as declared: exact enumeration, golden values, and exact settings."""

from functools import cache
from math import inf

import pytest
import torch
from torch import Tensor

from harness.decoding.accept import Accept, greedy, rejection
from harness.decoding.lossy import distance, ensemble, fly, kl, lenience, near_best, synthetic, top_k, typical
from harness.engine.random_stream import Stream
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from tests.law.test_accept import Branches, Law, P, Q, conditional, drafted, law, logits, one_position, two_levels
from tests.law.test_rules import autoregressive, complete, read, same, vector, written

ALL = range(3)


def kept(rule: Accept, tree: TokenTree, rows: Tensor) -> list[int]:
    """Return the path if it is deterministic; the token after it is sampled."""
    paths = set(law(lambda stream: tuple(rule(tree, rows, stream)[0])))
    assert len(paths) == 1
    return list(paths.pop())


@pytest.mark.parametrize(("epsilon", "delta", "passing"), [
    (.3, .09, [0, 1, 2]), (.3, .3 ** .5, [0, 1, 2]), (.3, .9, [0]), (.1, .9, [0, 1, 2]), (1, 100, [])])
def test_typical(epsilon: float, delta: float, passing: list[int]) -> None:
    """Golden 7; the comparison is strict. Where nothing passes, the distribution is the target's."""
    found = [x for x in ALL if kept(typical(epsilon, delta), TokenTree.chain((x,)), logits(P, P))]
    assert found == passing
    if not passing:
        assert one_position(typical(epsilon, delta), 1, True, P, Q)[0] == pytest.approx(P)


def test_typical_thresholds() -> None:
    entropy = -sum(p * float(torch.log(torch.tensor(p + 1e-5, dtype=torch.float64))) for p in P)
    assert entropy == pytest.approx(1.02962, abs=5e-5)
    for share, inside, outside in ((.55, [0, 1, 2], []), (.57, [0, 1], [2])):  # .2 lies between .55·.357 and .57·.357
        found = [x for x in ALL if kept(typical(1, share), TokenTree.chain((x,)), logits(P, P))]
        assert (found, [x for x in ALL if x not in found]) == (inside, outside)


def test_the_longest_path_wins_then_the_likelier() -> None:
    tree = TokenTree((0, 2, 1, 1, 0), (-1, -1, 1, 0, 0))     # 0, 2, 2→1, 0→1, 0→0
    assert kept(top_k(3), tree, logits(*[P] * 6)) == [0, 4]
    assert kept(top_k(3), TokenTree((0, 2, 1), (-1, -1, 1)), logits(*[P] * 4)) == [1, 2]
    assert kept(top_k(2), TokenTree((0, 2, 1), (-1, -1, 1)), logits(*[P] * 4)) == [0]
    assert kept(top_k(1), TokenTree(), logits(P)) == []


def test_top_k_distance_and_near_best() -> None:
    one = [TokenTree.chain((x,)) for x in ALL]
    rows = logits(P, P)
    assert [bool(kept(top_k(2), t, rows)) for t in one] == [True, True, False]
    assert [bool(kept(top_k(1), t, logits((.4, .4, .2), P))) for t in one] == [True, False, False]
    assert [bool(kept(top_k(3), t, logits((.6, .4, 0.), P))) for t in one] == [True, True, False]
    assert [bool(kept(distance(1), t, rows)) for t in one] == [True, True, False]
    assert [bool(kept(distance(0), t, rows)) for t in one] == [True, False, False]
    assert [bool(kept(near_best(2, 9), t, rows)) for t in one] == [True, True, False]
    assert [bool(kept(near_best(3, .6), t, rows)) for t in one] == [True, True, False]   # ln 5/3 = .51, ln 5/2 = .92
    assert [bool(kept(near_best(3, .5), t, rows)) for t in one] == [True, False, False]


def test_at_least_some_tokens() -> None:
    tree, rows = TokenTree.chain((2, 2, 2)), logits(*[P] * 4)
    assert [len(kept(top_k(1, least), tree, rows)) for least in (1, 2, 3, 9)] == [0, 1, 2, 3]
    assert top_k(1, 2, sure=True)(tree, rows, Branches([])) == ([0], 0)


def test_ensemble_emits_the_mixture() -> None:
    """Golden 5."""
    emitted, accepted = one_position(ensemble(.7), 1, True, P, Q)
    assert emitted == pytest.approx((.41, .30, .29), abs=1e-12)
    assert accepted == pytest.approx(.79, abs=1e-12)


def test_a_chain_under_ensemble_is_the_mixture_then_the_target() -> None:
    def mixture(prefix: tuple[int, ...]) -> tuple[float, ...]:
        pairs = zip(conditional(prefix), drafted(prefix), strict=True)
        return tuple(.7 * p + .3 * q for p, q in pairs)

    def run(stream: Stream) -> tuple[int, ...]:
        q = vector(drafted(()))
        tree = TokenTree.chain((stream.choose(q),), (q,))
        path, token = ensemble(.7)(tree, read(tree, conditional), stream)
        return complete((*(tree.tokens[i] for i in path), token), 2, conditional, stream)
    assert same(law(run), autoregressive(lambda prefix: conditional(prefix) if prefix else mixture(prefix), 2))


def test_ensemble_of_the_likeliest() -> None:
    """v decides: (.5, .3, .2) and (.2, .3, .5) at w = .4 give (.32, .30, .38)."""
    tree = TokenTree.chain((2,), (vector(Q),))
    assert ensemble(.4, sure=True)(tree, logits(P, P), Branches([])) == ([0], 0)
    assert ensemble(.6, sure=True)(tree, logits(P, P), Branches([])) == ([], 0)
    assert ensemble(.4, sure=True)(TokenTree.chain((1,), (vector(Q),)), logits(P, P), Branches([])) == ([], 2)
    assert ensemble(.4, sure=True)(TokenTree.chain((1,)), logits(P, P), Branches([])) == ([0], 0)


@pytest.mark.parametrize(("share", "golden", "rate"), [(1, P, .7), (.8, (.45, .30, .25), .75), (.5, (.3, .3, .4), .9)])
def test_lenience(share: float, golden: tuple[float, ...], rate: float) -> None:
    """Golden 6."""
    emitted, accepted = one_position(lenience(share), 1, True, P, Q)
    assert emitted == pytest.approx(golden, abs=1e-12)
    assert accepted == pytest.approx(rate, abs=1e-12)


def test_lenience_of_the_likeliest() -> None:
    tree = TokenTree.chain((1,))
    assert lenience(.59, sure=True)(tree, logits(P, P), Branches([])) == ([0], 0)
    assert lenience(.61, sure=True)(tree, logits(P, P), Branches([])) == ([], 0)
    assert lenience(1, sure=True)(tree, logits((.5, .5, 0), P), Branches([])) == ([], 0)
    assert lenience(.5, sure=True)(TokenTree((1, 0), (-1, -1)), logits(P, P, P), Branches([])) == ([1], 0)


def test_kl() -> None:
    """KL(q‖p) of the golden pair is .3·ln 2.5 = .27489."""
    assert one_position(kl(.27), 1, True, P, Q) == one_position(rejection, 1, True, P, Q)
    emitted, accepted = one_position(kl(.28), 1, True, P, Q)
    assert [*emitted, accepted] == pytest.approx([*Q, 1], abs=1e-12)
    tree = TokenTree.chain((2,), (vector(Q),))
    assert kl(.27, sure=True)(tree, logits(P, P), Branches([])) == ([], 0)
    assert kl(.28, sure=True)(tree, logits(P, P), Branches([])) == ([0], 0)
    assert kl(1.5, sure=True)(TokenTree.chain((2,)), logits(P, P), Branches([])) == ([], 0)   # −ln .2 = 1.61
    assert kl(1.7, sure=True)(TokenTree.chain((2,)), logits(P, P), Branches([])) == ([0], 0)


@pytest.mark.parametrize(("p", "pardoned"), [
    ((.97, .02, .01), False), ((.95, .03, .02), False), ((.9, .05, .05), True)])
def test_fly_pardons_where_the_target_is_unsure(p: tuple[float, ...], pardoned: bool) -> None:
    tree = TokenTree.chain((1, 0, 0))
    rule = fly(.3, 3, 2, sure=True)
    assert rule(tree, logits(p, p, p, p), Branches([])) == (([0, 1, 2], 0) if pardoned else ([], 0))


def test_fly_needs_the_window() -> None:
    unsure = [(.5, .3, .2)] * 5
    rule = fly(.3, 3, 2, sure=True)
    assert rule(TokenTree.chain((0, 1, 0, 0)), logits(*unsure), Branches([])) == ([0, 1, 2, 3], 0)
    assert rule(TokenTree.chain((0, 0, 1, 0)), logits(*unsure), Branches([])) == ([0, 1], 0)   # one draft after it
    assert rule(TokenTree.chain((1, 1, 0, 0)), logits(*unsure), Branches([])) == ([], 0)       # a second rejection
    assert rule(TokenTree.chain((1,)), logits(P, P), Branches([])) == ([], 0)
    assert fly(.3, 3, 6, sure=True)(TokenTree.chain((1, 0, 0)), logits(*unsure[:4]), Branches([])) == ([0, 1, 2], 0)
    with pytest.raises(Unsupported, match="chain"):
        rule(TokenTree((1, 2), (-1, -1)), logits(P, P, P), Branches([]))


def test_fly_above_temperature_zero() -> None:
    """It keeps more drafts than the exact rule; with a window that never fits it is that rule."""
    exact = written(rejection, 1, 2, conditional, drafted)
    assert written(fly(inf, 3, 1), 1, 2, conditional, drafted) == exact
    assert written(fly(0, 3, 1), 1, 2, conditional, drafted)[1] > exact[1]


def test_synthetic_rates() -> None:
    """Golden 9: 1 + .8 + .56 + .336 + .168 tokens a step."""
    tree = TokenTree.chain((2, 1, 0, 2))
    lengths = law(lambda stream: (len(synthetic((.8, .7, .6, .5), sure=True)(tree, logits(*[P] * 5), stream)[0]),))
    assert sum((1 + n) * chance for (n,), chance in lengths.items()) == pytest.approx(2.864, abs=1e-12)
    again = law(lambda stream: (len(synthetic((.5,))(TokenTree.chain((2, 1)), logits(P, P, P), stream)[0]),))
    assert again == pytest.approx({(0,): .5, (1,): .25, (2,): .25})


@pytest.mark.parametrize("rule", [ensemble(1), lenience(1), kl(0), fly(inf, 3, 1)])
def test_exact_settings_are_the_exact_rule(rule: Accept) -> None:
    assert written(rule, 1, 2, conditional, drafted) == written(rejection, 1, 2, conditional, drafted)


@cache
def on_trees(rule: Accept) -> Law:
    return law(lambda stream: two_levels(stream, rule, 2, True))


@pytest.mark.parametrize("rule", [ensemble(1), lenience(1), kl(0)])
def test_exact_settings_are_exact_on_trees(rule: Accept) -> None:
    assert on_trees(rule) == on_trees(rejection)


@pytest.mark.parametrize("rule", [
    typical(.3, .09, sure=True), top_k(1, sure=True), distance(0, sure=True), near_best(1, 9, sure=True),
    ensemble(1, sure=True), lenience(1, sure=True), kl(0, sure=True)])
def test_exact_settings_are_greedy(rule: Accept) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        tree = TokenTree((0, 1, 2, 0, 1), (-1, -1, 0, 0, 1))
        rows = torch.randn(6, 3, generator=generator)
        assert rule(tree, rows, Branches([])) == greedy(tree, rows, Branches([]))
