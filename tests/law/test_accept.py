"""Acceptance rules by exact enumeration: every coin and every draw is followed both ways with its probability."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import Tensor

from harness.decoding.accept import Accept, delta, greedy, rejection, rejection_without_replacement
from harness.engine.random_stream import CPU, Stream
from harness.engine.tree import TokenTree

P, Q = (0.5, 0.3, 0.2), (0.2, 0.3, 0.5)
Law = dict[tuple[int, ...], float]


class Undecided(Exception):
    """Raised when no decision is given for a choice."""


class Branches:
    """A stream that replays given decisions."""

    def __init__(self, decided: list[int]) -> None:
        self.decided, self.at, self.chance = decided, 0, 1.0

    def _decide(self, chances: list[float]) -> int:
        if self.at == len(self.decided):
            raise Undecided
        choice = self.decided[self.at]
        self.at += 1
        self.chance *= chances[choice]
        return choice

    def coin(self, chance: float) -> bool:
        return self._decide([1 - min(chance, 1.0), min(chance, 1.0)]) == 1

    def choose(self, weights: Tensor) -> int:
        return self._decide((weights.double() / weights.double().sum()).tolist())

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        raise NotImplementedError("a continuum of outcomes cannot be enumerated")


class Firsts(Branches):
    """Takes the first option of every open decision, and keeps the `others`: one run an outcome, none to find it."""

    def __init__(self, decided: list[int]) -> None:
        super().__init__(decided)
        self.others: list[list[int]] = []

    def _decide(self, chances: list[float]) -> int:
        if self.at == len(self.decided):
            first, *others = [[*self.decided, i] for i, chance in enumerate(chances) if chance > 0]
            self.decided, self.others = first, self.others + others
        return super()._decide(chances)


def outcomes(run: Callable[[Stream], tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Return every result of `run` with its probability."""
    todo: list[list[int]] = [[]]
    while todo:
        stream = Firsts(todo.pop())
        yield run(stream), stream.chance
        todo += stream.others


def law(run: Callable[[Stream], tuple[int, ...]]) -> Law:
    found: Law = defaultdict(float)
    for result, chance in outcomes(run):
        found[result] += chance
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    return found


def logits(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def siblings(count: int, replace: bool, q: tuple[float, ...], stream: Stream) -> TokenTree:
    """Sample `count` children of the root from q."""
    left, tokens = torch.tensor(q, dtype=torch.float64), list[int]()
    for _ in range(count):
        tokens.append(stream.choose(left))
        if not replace:
            left = left.clone()
            left[tokens[-1]] = 0
    return TokenTree(tuple(tokens), (-1,) * count, {-1: torch.tensor(q, dtype=torch.float64)})


def one_position(rule: Accept, count: int, replace: bool, p: tuple[float, ...], q: tuple[float, ...]
                 ) -> tuple[list[float], float]:
    """The distribution of the first emitted token and the chance that a draft was accepted."""
    def run(stream: Stream) -> tuple[int, ...]:
        tree = siblings(count, replace, q, stream)
        path, token = rule(tree, logits(*[p] * (count + 1)), stream)
        return (tree.tokens[path[0]], 1) if path else (token, 0)
    emitted, accepted = [0.0] * len(p), 0.0
    for (token, taken), chance in law(run).items():
        emitted[token] += chance
        accepted += chance * taken
    return emitted, accepted


@pytest.mark.parametrize(("count", "golden"), [(1, Fraction(7, 10)), (2, Fraction(19, 25)), (3, Fraction(101, 125))])
def test_rejection_with_replacement(count: int, golden: Fraction) -> None:
    emitted, accepted = one_position(rejection, count, True, P, Q)
    assert emitted == pytest.approx(P, abs=1e-12)
    assert accepted == pytest.approx(float(golden), abs=1e-12)


@pytest.mark.parametrize(("count", "golden"), [(1, Fraction(7, 10)), (2, Fraction(41, 50)), (3, Fraction(1))])
def test_rejection_without_replacement(count: int, golden: Fraction) -> None:
    emitted, accepted = one_position(rejection_without_replacement, count, False, P, Q)
    assert emitted == pytest.approx(P, abs=1e-12)
    assert accepted == pytest.approx(float(golden), abs=1e-12)


@pytest.mark.parametrize("tokens", [(0,), (2,), (1, 2), (2, 1, 0), (0, 0)])
def test_delta_preserves_the_distribution_for_any_children(tokens: tuple[int, ...]) -> None:
    tree = TokenTree(tokens, (-1,) * len(tokens))

    def run(stream: Stream) -> tuple[int, ...]:
        path, token = delta(tree, logits(*[P] * (len(tokens) + 1)), stream)
        return (tree.tokens[path[0]],) if path else (token,)
    assert [law(run)[(x,)] for x in range(3)] == pytest.approx(P, abs=1e-12)
    taken = sum(chance for result, chance in law(lambda s: (len(delta(tree, logits(*[P] * (len(tokens) + 1)), s)[0]),)
                                                ).items() if result[0])
    assert taken == pytest.approx(sum(P[x] for x in set(tokens)), abs=1e-12)


def conditional(prefix: tuple[int, ...]) -> tuple[float, ...]:
    """A target distribution that depends on the whole prefix."""
    weights = [1 + (7 * sum(prefix) + 3 * len(prefix) + 5 * x) % 4 for x in range(3)]
    return tuple(w / sum(weights) for w in weights)


def drafted(prefix: tuple[int, ...]) -> tuple[float, ...]:
    """A draft distribution that disagrees with it."""
    weights = [1 + (2 * sum(prefix) + len(prefix) + 3 * x) % 5 for x in range(3)]
    return tuple(w / sum(weights) for w in weights)


def two_levels(stream: Stream, rule: Accept, width: int, replace: bool) -> tuple[int, ...]:
    """Sample a tree of two levels from the draft, apply the rule, and sample from the target up to three tokens."""
    tokens, parents, probs, prefixes = list[int](), list[int](), dict[int, Tensor](), {-1: ()}
    for parent in [-1, *range(width)]:
        q = drafted(prefixes[parent])
        children = siblings(width if parent == -1 else 1, replace, q, stream).tokens
        probs[parent] = torch.tensor(q, dtype=torch.float64)
        for token in children:
            prefixes[len(tokens)] = (*prefixes[parent], token)
            tokens.append(token)
            parents.append(parent)
    tree = TokenTree(tuple(tokens), tuple(parents), probs)
    rows = logits(*[conditional(prefixes[node]) for node in range(-1, len(tokens))])
    path, token = rule(tree, rows, stream)
    out = (*(tokens[node] for node in path), token)
    while len(out) < 3:
        out = (*out, stream.choose(torch.tensor(conditional(out), dtype=torch.float64)))
    return out


@pytest.mark.parametrize(("rule", "width", "replace"), [
    (rejection, 1, True), (rejection, 2, True), (rejection_without_replacement, 2, False), (delta, 2, True)])
def test_trees_preserve_the_distribution_of_three_tokens(rule: Accept, width: int, replace: bool) -> None:
    found = law(lambda stream: two_levels(stream, rule, width, replace))
    for text in product(range(3), repeat=3):
        expected = 1.0
        for i in range(3):
            expected *= conditional(text[:i])[text[i]]
        assert found[text] == pytest.approx(expected, abs=1e-12), text


def resampled_from_p(tree: TokenTree, rows: Tensor, stream: Stream) -> tuple[list[int], int]:
    """A planted bug: after a rejection the token is drawn from p instead of the residual."""
    path, _ = rejection(tree, rows, stream)
    node = path[-1] if path else -1
    return path, stream.choose(torch.softmax(rows[node + 1], -1))


def test_a_planted_bug_breaks_the_distribution() -> None:
    emitted, _ = one_position(resampled_from_p, 1, True, P, Q)
    assert max(abs(a - b) for a, b in zip(emitted, P, strict=True)) > 0.05


def test_sorted_siblings_break_the_distribution() -> None:
    """Siblings drawn without replacement must be tried in the order drawn."""
    def by_q(tree: TokenTree, rows: Tensor, stream: Stream) -> tuple[list[int], int]:
        order = sorted(tree.tokens, key=lambda token: -float(tree.probs[-1][token]))
        return rejection_without_replacement(TokenTree(tuple(order), tree.parents, tree.probs), rows, stream)
    emitted, _ = one_position(by_q, 2, False, P, Q)
    assert max(abs(a - b) for a, b in zip(emitted, P, strict=True)) > 0.01


def test_everything_is_accepted_when_the_draft_is_the_target() -> None:
    for rule, count in ((rejection, 1), (rejection, 2), (rejection_without_replacement, 2)):
        emitted, accepted = one_position(rule, count, rule is rejection, P, P)
        assert accepted == pytest.approx(1, abs=1e-12)
        assert emitted == pytest.approx(P, abs=1e-12)


def test_a_token_of_probability_zero_is_never_accepted() -> None:
    emitted, _ = one_position(rejection, 1, True, (1.0, 0.0, 0.0), Q)
    assert emitted == [1.0, 0.0, 0.0]


def test_greedy_walks_a_tree() -> None:
    tree = TokenTree((4, 1, 2, 3), (-1, -1, 1, 2))
    rows = torch.zeros(5, 6)
    for row, token in ((0, 1), (2, 2), (3, 5)):
        rows[row, token] = 1
    assert greedy(tree, rows, Branches([])) == ([1, 2], 5)
    assert greedy(TokenTree(), rows[:1], Branches([])) == ([], 1)
