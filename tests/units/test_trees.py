"""Draft trees: golden numbers, counts, degenerate identities, and planted bugs that the law catches."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import pytest
import torch
from torch import Tensor

from harness.decoding.draw import PhiloxStream, Stream
from harness.decoding.engine import Engine
from harness.decoding.loop import Step
from harness.decoding.session import Session, Work
from harness.decoding.tree import EMPTY, TokenTree, depths
from harness.errors import UserError
from harness.strategy import Request
from strategies import rsd_c, speculative
from strategies.drafters import tree as growing
from strategies.drafters.chain import ModelChain
from strategies.drafters.length import POLICIES, Adaptive, Confidence, Cost, Heuristic, best_gamma
from strategies.drafters.sequoia_plan import Shape, most_tokens, plan
from strategies.drafters.tree import distinct, numbers
from strategies.dyspec import DySpec
from strategies.greedy import Greedy
from strategies.pearl import Pearl
from strategies.rsd_c import RsdC
from strategies.rsd_s import RsdS, truncated
from strategies.sequoia import Sequoia
from strategies.specinfer import SpecInfer
from strategies.speculative import Speculative
from strategies.staged import Staged
from tests import chances
from tests.decode import decode, engine, traced
from tests.models import prompts, tiny_model

PROMPT = prompts(5, 97, 1)[0] * 2


Tree = SpecInfer | RsdC | RsdS | Sequoia | DySpec


def model(seed: int = 0) -> Engine:
    return engine(tiny_model("llama", seed=seed))


def run(strategy: Speculative | Tree | Pearl | Staged, new: int, draft: Engine) -> tuple[list[int], Work, Work]:
    return traced(strategy, model(), PROMPT, draft=draft, new=new, eos=None)


def p_value(strategy: Speculative | Tree | Pearl | Staged, monkeypatch: pytest.MonkeyPatch, draws: int = 1500) -> float:
    monkeypatch.setattr(chances, "DRAWS", draws)
    return chances.p_value(strategy, chances.draft)


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


def step(strategy: Speculative | Tree | Staged, limit: int, stream: Stream) -> TokenTree:
    """One tree below a text of the draft model."""
    target = Session(model(), Session(model(1)))
    try:
        request = Request(tuple(PROMPT), 20, stream)
        target.follow(PROMPT)
        return strategy.drafter(target, request).draft(PROMPT, Step(EMPTY, target.read(), (), 0), limit)
    finally:
        target.close()


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
    assert sorted(distinct(q, 9, PhiloxStream(1))) == [1, 2, 3]
    assert distinct(q, 2, None) == [1, 2]
    pairs = [tuple(distinct(q, 2, PhiloxStream(i))) for i in range(4000)]
    assert pairs.count((1, 2)) / 4000 == pytest.approx(0.5 * 0.3 / 0.5, abs=0.03)
    assert pairs.count((3, 1)) / 4000 == pytest.approx(0.2 * 0.5 / 0.8, abs=0.03)


@pytest.mark.parametrize("strategy", [
    SpecInfer(expansion="3-2", temperature=0.8, p=0.9), RsdC(branches="3-2", temperature=0.8, p=0.9),
    Sequoia(nodes=20, rates="0.4-0.3-0.2-0.1", temperature=0.8, p=0.9),
    DySpec(nodes=12, temperature=0.8, p=0.9), DySpec(nodes=12, variant="greedy", temperature=0.8, p=0.9),
    *(Speculative(policy=policy, threshold=0.6, temperature=0.8, p=0.9) for policy in POLICIES[1:]),
    Pearl(gamma=2, temperature=0.8, p=0.9), Staged(temperature=0.8, p=0.9),
    RsdC(branches="6-6", temperature=1.0), RsdS(width=4, depth=2, temperature=0.8, p=0.9),
], ids=lambda s: s.spec())
def test_the_law(strategy: Speculative | Tree | Pearl | Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chances, "TEMPERATURE", strategy.temperature)
    monkeypatch.setattr(chances, "MASS", strategy.p)
    chances.expected.cache_clear()
    try:
        assert p_value(strategy, monkeypatch) > 1e-3
    finally:
        chances.expected.cache_clear()


def test_siblings_sorted_by_probability_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Testing them in another order than they were drawn in is the classic mistake (specs/speculative 1.4)."""
    def resorted(q: Tensor, count: int, stream: Stream | None) -> list[int]:
        return sorted(distinct(q, count, stream), key=lambda token: -float(q[token]))
    monkeypatch.setattr(rsd_c, "distinct", resorted)
    assert growing.distinct is distinct
    assert p_value(RsdC(branches="2-2", temperature=0.8, p=0.9), monkeypatch, 6000) < 1e-6


def tokens_of(shape: Sequence[int], rates: Sequence[float]) -> float:
    """Expected tokens of a tree given as parents (−1 is the root), siblings in rank order; the root counts one."""
    reach, ranks = {-1: 1.0}, dict[int, int]()
    for node, parent in enumerate(shape):
        rank = ranks[parent] = ranks.get(parent, -1) + 1
        reach[node] = reach[parent] * (rates[rank] if rank < len(rates) else 0)
    return sum(reach.values())


def brute(rates: Sequence[float], nodes: int, depth: int) -> float:
    """The best of all trees of exactly `nodes` nodes below the root."""
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
    """The value of the slot that each node filled, from the draft model's own probabilities."""
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
    """A threshold reads a level a forward, greedy a node; a perfect draft is never turned down."""
    _, work, small = run(DySpec(nodes=16, depth=3, temperature=temperature), 21, model())
    assert small.forwards <= 3 * (work.forwards - 1)
    _, work, small = run(DySpec(nodes=16, depth=3, variant="greedy", temperature=temperature), 21, model())
    assert work.drafted >= small.forwards > work.forwards - 1


BEST = {0.5: (5, 3, 2, 1), 0.6: (7, 4, 3, 2), 0.7: (9, 6, 4, 3), 0.8: (14, 8, 6, 4), 0.9: (24, 13, 10, 7)}


@pytest.mark.parametrize("alpha", BEST)
def test_the_best_length(alpha: float) -> None:
    """Specs/speculative, the table of 1.2."""
    assert tuple(best_gamma(alpha, cost, 64) for cost in (0.01, 0.05, 0.1, 0.2)) == BEST[alpha]


def test_the_best_length_of_a_batch() -> None:
    """Specs/speculative, golden 16: many texts leave no room for drafts."""
    found = [[best_gamma(alpha, 0.05, 64, lambda tokens, b=batch: max(1, tokens * b / 153) / max(1, b / 153))
              for batch in (1, 8, 32, 64, 128)] for alpha in (0.8, 0.6)]
    assert found == [[8, 8, 4, 2, 1], [4, 4, 3, 1, 0]]


def test_length_policies() -> None:
    heuristic = Heuristic(4)
    lengths = []
    for drafted, accepted in ((4, 4), (6, 2), (5, 0), (4, 0), (3, 0), (2, 0), (1, 0)):
        heuristic.observe(drafted, accepted)
        lengths.append(heuristic.gamma)
    assert lengths == [6, 5, 4, 3, 2, 1, 1]
    assert Confidence(8, 0.4).stop(0.39)
    assert not Confidence(8, 0.4).stop(0.4)
    ema = Adaptive(8, 0.5)
    ema.observe(8, 4)
    assert (ema.rate, ema.threshold) == (pytest.approx(0.7), pytest.approx(0.501))
    for _ in range(3):
        ema.observe(4, 4)
    assert ema.rate == pytest.approx(0.9625)
    assert ema.threshold == pytest.approx(0.501 + 0.001 - 0.002)
    ema.observe(8, 8)
    assert ema.threshold == pytest.approx(0.5)
    cost = Cost(24, 0.05)
    assert cost.gamma == 3
    for _ in range(50):
        cost.observe(cost.gamma, cost.gamma)
    assert cost.gamma == 24
    hopeless = Cost(24, 0.05)
    for _ in range(100):
        hopeless.observe(hopeless.gamma, 0)
    assert hopeless.gamma == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_lossless(policy: str) -> None:
    for seed in (0, 1):
        strategy = Speculative(policy=policy, threshold=0.6)
        assert decode(strategy, model(), PROMPT, draft=model(seed)) == decode(Greedy(), model(), PROMPT)


def test_an_unsure_token_is_kept_and_ends_the_draft() -> None:
    for temperature in (0.0, 1.0):
        assert len(step(Speculative(policy="confidence", threshold=1.0, temperature=temperature), 9,
                        PhiloxStream(0))) == 1
        assert len(step(Speculative(policy="confidence", threshold=0.0, temperature=temperature), 9,
                        PhiloxStream(0))) == 4


def test_a_perfect_draft_gets_longer() -> None:
    _, work, _ = run(Speculative(policy="heuristic", gamma=1), 1 + 2 + 4 + 6 + 8, model())
    assert (work.forwards, work.drafted, work.accepted) == (5, 16, 16)


def test_stopping_at_unlikely_draws_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping the drawn token that was unlikely bends the law (specs/speculative 1.4, rule 1)."""
    class Careless(ModelChain):
        def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
            tree = super().draft(text, last, limit)
            likely = [float(tree.probs[i - 1][token]) >= 0.3 for i, token in enumerate(tree.tokens)]
            kept = likely.index(False) if False in likely else len(likely)
            return TokenTree.chain(tree.tokens[:kept], [tree.probs[i - 1] for i in range(kept)])
    monkeypatch.setattr(speculative, "ModelChain", Careless)
    assert p_value(Speculative(gamma=2, temperature=0.8, p=0.9), monkeypatch, 6000) < 1e-6


class Coin:
    """A model without memory: the same distribution after every text."""

    def __init__(self, law: Sequence[float], draft: "Coin | None" = None) -> None:
        self.log, self._draft, self.forwards = torch.tensor([law], dtype=torch.float64).log(), draft, 0

    @property
    def draft(self) -> "Coin":
        assert self._draft is not None
        return self._draft

    @property
    def logits(self) -> Tensor:
        return self.log.expand(1 + self.nodes, -1)

    def follow(self, text: Sequence[int]) -> None:
        pass

    def read(self, tree: TokenTree = EMPTY) -> "Coin":
        self.nodes = len(tree)
        self.forwards += 1
        return self

    def keep(self, path: Sequence[int]) -> None:
        pass


@pytest.mark.parametrize(("alpha", "gamma", "expected"), [(0.8, 5, 2.2832), (0.9, 5, 3.1272), (0.7, 4, 1.7351)])
def test_tokens_of_pearl_per_barrier(alpha: float, gamma: int, expected: float) -> None:
    """Specs/speculative, golden 14, with draws that are accepted independently; the law of the tokens is p."""
    small = Coin((alpha - 0.1, 1.1 - alpha))
    target = Coin((0.9, 0.1), small)
    written, barriers = list[int](), 3000
    blocks = Pearl(gamma=gamma, temperature=1.0).generate(cast(Session, target), Request((0,), 10**6, PhiloxStream(0)))
    assert len(next(blocks)) == 1
    for _ in range(barriers):
        written += next(blocks)
    assert len(written) / barriers == pytest.approx(expected, rel=0.04)
    assert written.count(0) / len(written) == pytest.approx(0.9, abs=0.015)
    assert (target.forwards, small.forwards) == (1 + barriers, gamma * barriers)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pearl_with_a_perfect_draft(temperature: float) -> None:
    """One token at the first barrier, gamma at each later one, and nothing is read twice."""
    tokens, work, small = run(Pearl(gamma=4, temperature=temperature), 1 + 1 + 4 * 5, model())
    assert len(tokens) == 22
    assert work.forwards == 1 + 1 + 5
    assert small.forwards <= 4 * 6
    assert work.accepted == 3 * 5


def test_staged_needs_fewer_draft_forwards_where_text_repeats() -> None:
    """The same tokens as speculative decoding, drafted alike; the n-grams save forwards of the draft model alone."""
    text = [5, 6, 7, 8, 9, 10] * 6
    for prompt in (PROMPT, text):
        plain = traced(Speculative(gamma=6), model(), prompt, draft=model(1), new=60, eos=None)
        staged = traced(Staged(gamma=6), model(), prompt, draft=model(1), new=60, eos=None)
        assert staged[0] == plain[0]
        assert staged[1] == plain[1]
        assert staged[2].forwards <= plain[2].forwards
    assert staged[2].forwards < plain[2].forwards


def test_staged_drafts_are_the_draft_models_own_draws() -> None:
    """Each q is the draft model's after the tokens before it, whatever proposed the token."""
    tree = step(Staged(gamma=6, temperature=1.0), 5, PhiloxStream(0))
    session = Session(model(1))
    for node in range(len(tree)):
        session.follow([*PROMPT, *tree.tokens[:node]])
        assert torch.allclose(tree.probs[node - 1], session.read().logits[0].double().softmax(-1), atol=1e-5)
    session.close()
    assert len(tree) == 5
