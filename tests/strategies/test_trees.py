"""Draft trees: golden numbers, counts, degenerate identities, and planted bugs that the distribution catches."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from harness.decoding.verified import Verified
from harness.engine.random_stream import PhiloxStream, Stream, truncated
from harness.engine.session import Session
from harness.engine.tree import TokenTree, depths
from harness.errors import UserError
from strategies import rsd_c
from strategies.drafters import tree as growing
from strategies.drafters.policies import POLICIES
from strategies.drafters.sequoia_plan import Shape, most_tokens, plan
from strategies.drafters.tree import distinct, numbers
from strategies.dyspec import DySpec
from strategies.pearl import Pearl
from strategies.rsd_c import RsdC
from strategies.rsd_s import RsdS
from strategies.sequoia import Sequoia
from strategies.specinfer import SpecInfer
from strategies.speculative import Speculative
from strategies.staged import Staged
from tests.chances import PValue, by_token, draft
from tests.drafting import PROMPT, model, run, step

Tree = SpecInfer | RsdC | RsdS | Sequoia | DySpec


def test_lists_of_counts() -> None:
    assert numbers("x", "3-2-1", 21) == (3, 2, 1)
    for wrong in ("", "3-", "0-1", "a", "3,2"):
        with pytest.raises(UserError, match="whole numbers"):
            numbers("x", wrong, 21)
    with pytest.raises(UserError, match="21 nodes"):
        numbers("x", "3-2-2", 20)
    with pytest.raises(UserError, match="rsd_c: branches"):
        RsdC(branches="none")
    with pytest.raises(UserError, match="specinfer: expansion"):
        SpecInfer(expansion="2000")


@pytest.mark.parametrize("strategy", [
    SpecInfer(expansion="2-1-2"), RsdC(branches="3-2-1"), RsdS(width=3, depth=3),
    Sequoia(nodes=12, depth=3, rates="0.6-0.2-0.1"),
], ids=lambda s: s.name)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_perfect_draft_is_accepted_whole(strategy: Tree, temperature: float) -> None:
    """Each step commits a path and one more token, and each level is one forward of the draft model."""
    if isinstance(strategy, RsdS) and not temperature:
        strategy = RsdS(width=1, depth=3)  # a wider beam search need not hold the greedy path
    strategy = type(strategy)(**{**strategy.values(), "temperature": temperature})
    _, work, small = run(strategy, 1 + 4 * 5, model())
    assert work.forwards == 1 + 5
    assert work.accepted == 3 * 5
    assert small.forwards == 3 * 5
    if isinstance(strategy, RsdC | RsdS):
        assert work.drafted == 5 * (3 * strategy.width if isinstance(strategy, RsdS) else 3 + 6 + 6)
    if isinstance(strategy, Sequoia):
        assert work.drafted == 5 * 12


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_one_branch_is_a_chain(temperature: float) -> None:
    """The same draws in the same order: token for token and count for count."""
    chain = run(Speculative(gamma=4, temperature=temperature, p=0.9), 30, model(1))
    for strategy in (SpecInfer, RsdC):
        key = "expansion" if strategy is SpecInfer else "branches"
        tree = run(strategy(**{key: "1-1-1-1"}, temperature=temperature, p=0.9), 30, model(1))  # type: ignore[arg-type]
        assert tree[0] == chain[0]
        assert (tree[1].forwards, tree[1].drafted, tree[1].accepted) == \
            (chain[1].forwards, chain[1].drafted, chain[1].accepted)
        assert tree[2].forwards == chain[2].forwards


@pytest.mark.parametrize("strategy", [SpecInfer(), RsdC(branches="2-2-2-2"), RsdS(depth=6), Sequoia(),
                                      DySpec(nodes=512, theta=0.01), DySpec(variant="greedy")],
                         ids=lambda s: s.name)
@pytest.mark.parametrize("limit", [1, 3])
def test_no_deeper_than_the_limit(strategy: Tree, limit: int) -> None:
    assert max(depths(step(strategy, limit, PhiloxStream(0)).parents)) == limit


def test_the_default_expansion_has_twenty_nodes() -> None:
    assert len(step(SpecInfer(), 8, PhiloxStream(0))) == 20


def test_a_second_copy_gets_no_children() -> None:
    tree = step(SpecInfer(expansion="40-1", temperature=1.0), 2, PhiloxStream(0))
    top = [token for token, parent in zip(tree.tokens, tree.parents, strict=True) if parent == -1]
    assert len(top) == 40 > len(set(top))
    assert sorted(tree.parents[40:]) == sorted(top.index(token) for token in set(top))


def test_stochastic_beam_at_temperature_zero_is_beam_search() -> None:
    tree = step(RsdS(width=2, depth=2), 2, PhiloxStream(0))
    session = Session(model(1))

    def log_q(text: Sequence[int]) -> Tensor:
        session.follow(list(text))
        return session.read().logits[0].double().log_softmax(-1)
    first = log_q(PROMPT).topk(2)
    paths = {(a, b): float(log_a + log_b) for a, log_a in zip(first.indices.tolist(), first.values, strict=True)
             for b, log_b in enumerate(log_q([*PROMPT, a]))}
    best = sorted(paths, key=lambda path: -paths[path])[:2]
    session.close()
    assert list(tree.tokens[:2]) == first.indices.tolist()
    assert [(tree.tokens[tree.parents[i]], tree.tokens[i]) for i in (2, 3)] == best


def test_truncated_gumbels() -> None:
    """The largest becomes the height, the order stays, and nothing is lost far from zero."""
    gumbels, height = torch.tensor([[1.0, 3.0, -2.0, -torch.inf]]).double(), torch.tensor([0.5]).double()
    bent = truncated(gumbels, height)[0]
    plain = -torch.log(torch.exp(-height) - torch.exp(-gumbels[0].max()) + torch.exp(-gumbels[0]))
    assert torch.allclose(bent, plain)
    assert bent.argmax() == 1
    far = truncated(gumbels - 2000, torch.tensor([-2001.0]).double())[0]
    assert float(far[1]) == pytest.approx(-2001)
    assert bool((far[:3].argsort() == gumbels[0, :3].argsort()).all())
    assert float(far[3]) == -torch.inf


def test_uniform_numbers_are_open_and_reproducible() -> None:
    drawn = PhiloxStream(0).uniform(10000)
    assert (drawn > 0).all()
    assert (drawn < 1).all()
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(drawn, PhiloxStream(0).uniform(10000))
    assert drawn.dtype == torch.float64


def test_drawing_without_replacement() -> None:
    q = torch.tensor([0.0, 0.5, 0.3, 0.2]).double()
    both = torch.stack([q, q.flip(0)])
    assert list(map(sorted, distinct(both, [9, 1], PhiloxStream(1)))) in ([[1, 2, 3], [i]] for i in range(3))
    assert distinct(both, [1, 3], None) == [[1], [2, 1, 0]]
    pairs = [tuple(distinct(q[None], [2], PhiloxStream(i))[0]) for i in range(4000)]
    assert pairs.count((1, 2)) / 4000 == pytest.approx(0.5 * 0.3 / 0.5, abs=0.03)
    assert pairs.count((3, 1)) / 4000 == pytest.approx(0.2 * 0.5 / 0.8, abs=0.03)


@pytest.mark.parametrize("strategy", [
    DySpec(nodes=12, variant="greedy", temperature=0.8, p=0.9), RsdC(branches="6-6", temperature=1.0),
    *(Speculative(policy=policy, threshold=0.6, temperature=0.8, p=0.9) for policy in POLICIES[1:]),
    Speculative(policy="confidence", threshold=0.6, verify="block", temperature=0.8, p=0.9),
    *(pytest.param(strategy, marks=pytest.mark.slow) for strategy in (  # tests/law has them at their defaults
        SpecInfer(expansion="3-2", temperature=0.8, p=0.9), RsdC(branches="3-2", temperature=0.8, p=0.9),
        Sequoia(nodes=20, rates="0.4-0.3-0.2-0.1", temperature=0.8, p=0.9), DySpec(nodes=12, temperature=0.8, p=0.9),
        Pearl(gamma=2, temperature=0.8, p=0.9), Staged(temperature=0.8, p=0.9),
        RsdS(width=4, depth=2, temperature=0.8, p=0.9))),
], ids=lambda s: s.spec())
def test_the_distribution(strategy: Verified, p_value: PValue) -> None:
    assert p_value(strategy, draft) > 1e-3


def test_siblings_sorted_by_probability_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Testing them in another order than they were drawn in is the classic mistake (specs/speculative 1.4)."""
    def resorted(q: Tensor, counts: Sequence[int], stream: Stream | None) -> list[list[int]]:
        return [sorted(tokens, key=lambda token: -float(row[token]))
                for row, tokens in zip(q, distinct(q, counts, stream), strict=True)]
    monkeypatch.setattr(rsd_c, "distinct", resorted)
    assert growing.distinct is distinct
    assert by_token(RsdC(branches="2-2", temperature=0.8, p=0.9), draft, draws=300) < 1e-6


def tokens_of(shape: Sequence[int], rates: Sequence[float]) -> float:
    """Compute the expected tokens of a tree given as parents (−1: the root), siblings by rank; the root counts one."""
    reach, ranks = {-1: 1.0}, dict[int, int]()
    for node, parent in enumerate(shape):
        rank = ranks[parent] = ranks.get(parent, -1) + 1
        reach[node] = reach[parent] * (rates[rank] if rank < len(rates) else 0)
    return sum(reach.values())


def brute(rates: Sequence[float], nodes: int, depth: int) -> float:
    """Return the best of all trees of exactly `nodes` nodes below the root."""
    shapes = [list[int]()]
    for node in range(nodes):
        shapes = [[*shape, parent] for shape in shapes for parent in range(-1, node)]
    return max((tokens_of(shape, rates) for shape in shapes if max(depths(tuple(shape)), default=0) <= depth),
               default=0.0)


def parents(shape: Shape) -> list[int]:
    found, row = list[int](), [-1]
    for counts in shape:
        below = [parent for parent, count in zip(row, counts, strict=True) for _ in range(count)]
        row = list(range(len(found), len(found) + len(below)))
        found += below
    return found


def test_the_planner_knows_the_golden_numbers() -> None:
    """Specs/speculative, golden 10."""
    rates = (0.6, 0.2, 0.1)
    assert most_tokens(rates, 7, 3)[1:].tolist() == pytest.approx([1, 1.6, 1.96, 2.176, 2.376, 2.496, 2.616, 2.716])
    assert most_tokens(rates, 5, 2)[6] == pytest.approx(2.4)


@pytest.mark.parametrize("rates", [(0.6, 0.2, 0.1), (0.4, 0.35, 0.2), (0.9,)])
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_the_planner_against_all_trees(rates: tuple[float, ...], depth: int) -> None:
    for nodes in range(1, 7):
        expected = max(brute(rates, count, depth) for count in range(1, nodes + 1))
        shape, tokens = plan(rates, nodes, depth)
        assert tokens == pytest.approx(expected)
        tree = parents(shape)
        assert len(tree) <= nodes
        assert max(depths(tuple(tree))) <= depth
        assert tokens_of(tree, rates) == pytest.approx(expected)


def test_rates_that_are_no_chances() -> None:
    for wrong in ("", "a-b", "0.5-0", "0.6-0.5", "nan"):
        with pytest.raises(UserError, match="sequoia: rates"):
            Sequoia(rates=wrong)


def test_a_chain_is_planned_when_nothing_but_the_first_sibling_counts() -> None:
    assert plan((0.9,), 64, 4)[0] == ((1,), (1,), (1,), (1,))
    chain = run(Speculative(gamma=4, temperature=0.8), 30, model(1))
    tree = run(Sequoia(nodes=4, depth=4, rates="0.9", temperature=0.8), 30, model(1))
    assert tree[0] == chain[0]
    assert (tree[1].drafted, tree[1].accepted) == (chain[1].drafted, chain[1].accepted)


def modelled(tree: TokenTree) -> list[float]:
    """Compute the value of the slot that each node filled, from the draft model's own probabilities."""
    session, values, left = Session(model(1)), list[float](), dict[int, float]()
    reach = {-1: 1.0}
    rest: dict[int, Tensor] = {}
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        if parent not in rest:
            session.follow([*PROMPT, *(tree.tokens[above] for above in tree.path(parent))])
            rest[parent], left[parent] = session.read().logits[0].double().softmax(-1), reach[parent]
        values.append(left[parent])
        share = float(rest[parent][token] / rest[parent].sum())
        rest[parent][token] = 0
        reach[node], left[parent] = left[parent] * share, left[parent] * (1 - share)
    session.close()
    return values


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_dyspec_fills_the_best_slots(temperature: float) -> None:
    """Greedy fills slots in falling value; a threshold fills exactly those that greedy fills above it."""
    greedy = step(DySpec(nodes=24, variant="greedy", temperature=temperature), 6, PhiloxStream(0))
    values = modelled(greedy)
    assert len(greedy) == 24
    assert all(a >= b - 1e-6 for a, b in pairwise(values))
    threshold = step(DySpec(nodes=200, theta=0.02, temperature=temperature), 6, PhiloxStream(0))
    assert min(modelled(threshold)) >= 0.02 - 1e-6


def test_dyspec_variants_agree_without_chance() -> None:
    """At temperature 0 the slots of at least theta are the same however they are found."""
    least = 0.03
    greedy = step(DySpec(nodes=500, theta=least, variant="greedy"), 5, PhiloxStream(0))
    threshold = step(DySpec(nodes=500, theta=least), 5, PhiloxStream(0))

    def paths(tree: TokenTree) -> set[tuple[int, ...]]:
        return {tuple(tree.tokens[above] for above in tree.path(node)) for node in range(len(tree))}
    assert paths(greedy) == paths(threshold)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forwards_of_dyspec(temperature: float) -> None:
    """"threshold" needs a forward a level, "greedy" a forward a node; a perfect draft is never rejected."""
    _, work, small = run(DySpec(nodes=16, depth=3, temperature=temperature), 21, model())
    assert small.forwards <= 3 * (work.forwards - 1)
    _, work, small = run(DySpec(nodes=16, depth=3, variant="greedy", temperature=temperature), 21, model())
    assert work.drafted >= small.forwards > work.forwards - 1
