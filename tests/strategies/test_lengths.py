"""Draft lengths, staged drafts and PEARL: golden numbers, counts, and a planted bug that the distribution catches."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.plugins.strategy import Request
from strategies import speculative
from strategies.drafters.chain import ModelChain
from strategies.drafters.length import Adaptive, Confidence, Cost, Heuristic, best_gamma
from strategies.drafters.policies import POLICIES
from strategies.greedy import Greedy
from strategies.pearl import Pearl
from strategies.speculative import Speculative
from strategies.staged import Staged
from tests.chances import by_token, draft
from tests.decode import decode, traced
from tests.drafting import PROMPT, model, run, step
from tests.scale import scaled

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
    """Dropping an unlikely drafted token changes the distribution (specs/speculative 1.4, rule 1)."""
    class Careless(ModelChain):
        def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
            tree = super().draft(text, last, limit)
            likely = [float(tree.probs[i - 1][token]) >= 0.3 for i, token in enumerate(tree.tokens)]
            kept = likely.index(False) if False in likely else len(likely)
            return TokenTree.chain(tree.tokens[:kept], [tree.probs[i - 1] for i in range(kept)])
    monkeypatch.setattr(speculative, "ModelChain", Careless)
    assert by_token(Speculative(gamma=2, temperature=0.8, p=0.9), draft, draws=300) < 1e-6


class Coin:
    """A model without memory: the same distribution after every sequence."""

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
    """Specs/speculative, golden 14, with draws that are accepted independently; the distribution of the tokens is p."""
    small = Coin((alpha - 0.1, 1.1 - alpha))
    target = Coin((0.9, 0.1), small)
    written, barriers = list[int](), scaled(1000, 3000)
    blocks = Pearl(gamma=gamma, temperature=1.0).generate(cast(Session, target), Request((0,), 10**6, PhiloxStream(0)))
    assert len(next(blocks)) == 1
    for _ in range(barriers):
        written += next(blocks)
    assert len(written) / barriers == pytest.approx(expected, rel=0.04)
    assert written.count(0) / len(written) == pytest.approx(0.9, abs=0.015)
    assert (target.forwards, small.forwards) == (1 + barriers, gamma * barriers)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pearl_with_a_perfect_draft(temperature: float) -> None:
    """One token at the first barrier, gamma at each later one, and no token has two forwards."""
    tokens, work, small = run(Pearl(gamma=4, temperature=temperature), 1 + 1 + 4 * 5, model())
    assert len(tokens) == 22
    assert work.forwards == 1 + 1 + 5
    assert small.forwards <= 4 * 6
    assert work.accepted == 3 * 5


def test_staged_needs_fewer_draft_forwards_where_text_repeats() -> None:
    """The same tokens as speculative decoding, drafted alike; the n-grams save forwards of the draft model alone."""
    text, big, small, new = [5, 6, 7, 8, 9, 10] * 6, model(), model(1), scaled(30, 60)
    for prompt in (PROMPT, text):
        plain = traced(Speculative(gamma=6), big, prompt, draft=small, new=new, eos=None)
        staged = traced(Staged(gamma=6), big, prompt, draft=small, new=new, eos=None)
        assert staged[0] == plain[0]
        assert staged[1] == plain[1]
        assert staged[2].forwards <= plain[2].forwards
    assert staged[2].forwards < plain[2].forwards


def test_staged_drafts_are_the_draft_models_own_draws() -> None:
    """Each q is the draft model's after the tokens before it, whichever drafter proposed the token."""
    tree = step(Staged(gamma=6, temperature=1.0), 5, PhiloxStream(0))
    session = Session(model(1))
    for node in range(len(tree)):
        session.follow([*PROMPT, *tree.tokens[:node]])
        assert torch.allclose(tree.probs[node - 1], session.read().logits[0].double().softmax(-1), atol=1e-5)
    session.close()
    assert len(tree) == 5
