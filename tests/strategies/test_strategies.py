"""Every strategy at its degenerate setting is greedy or beam, and its counts are what its algorithm says."""

from collections.abc import Sequence
from functools import cache

import pytest

from harness.backends.transformers import open_session
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from strategies.beam import Beam
from strategies.contrastive_search import ContrastiveSearch
from strategies.diverse_beam import DiverseBeam
from strategies.drafters.ngram import NgramLookup
from strategies.greedy import Greedy
from strategies.momentum import Momentum
from strategies.prompt_lookup import PromptLookup
from strategies.speculative import Speculative
from strategies.top_p import TopP
from tests.decode import decode, engine
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

PROMPTS = prompts(scaled(3, 5), 97, 1)


@cache
def target() -> Engine:
    return engine(tiny_model("llama"))


@pytest.mark.parametrize("strategy", [
    TopP(temperature=0.0), TopP(p=0.0), ContrastiveSearch(alpha=0.0), ContrastiveSearch(k=1), Momentum(alpha=0.0),
    Momentum(k=1), Beam(width=1), DiverseBeam(width=1, groups=1), PromptLookup(), Speculative(gamma=3),
], ids=lambda s: s.spec())
def test_degenerate_settings_are_greedy(strategy: Strategy) -> None:
    for prompt in PROMPTS:
        expected = decode(Greedy(), target(), prompt)
        assert decode(strategy, target(), prompt, draft=target() if "draft" in strategy.needs else None) == expected


@pytest.mark.parametrize("stopping", ["false", "true", "never"])
def test_one_group_is_beam_search(stopping: str) -> None:
    for prompt in PROMPTS:
        beam = Beam(width=4, length_penalty=0.6, early_stopping=stopping)
        one = DiverseBeam(width=4, groups=1, diversity=3.0, length_penalty=0.6, early_stopping=stopping)
        for sample in range(0, 4, scaled(3, 1)):  # the best and the last
            assert decode(one, target(), prompt, sample=sample) == decode(beam, target(), prompt, sample=sample)


def test_no_diversity_gives_copies_of_the_smaller_beam() -> None:
    for prompt in PROMPTS:
        copies = [decode(DiverseBeam(width=4, groups=2, diversity=0.0), target(), prompt, sample=i) for i in range(4)]
        small = [decode(Beam(width=2), target(), prompt, sample=i) for i in range(2)]
        assert copies == [small[0], small[0], small[1], small[1]]


def steps(strategy: Strategy, prompt: Sequence[int], new: int, draft: Engine | None = None
          ) -> tuple[Session, list[int]]:
    """The session and the number of tokens of each step, without EOS."""
    session = open_session(strategy, [target(), *([draft] if draft else [])])
    sizes: list[int] = []
    for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0))):
        sizes.append(len(block))
        if sum(sizes) >= new:
            break
    session.close()
    return session, sizes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_perfect_draft_gives_gamma_plus_one(temperature: float) -> None:
    session, sizes = steps(Speculative(gamma=4, temperature=temperature), PROMPTS[0], 31, target())
    assert sizes == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (24, 24, 7)
    assert session.draft_work.forwards == 24


def test_drafts_never_pass_the_limit() -> None:
    session, sizes = steps(Speculative(gamma=4), PROMPTS[0], 9, target())
    assert sum(sizes) == 9
    assert session.work.drafted == 6


def test_counts_of_greedy_and_contrastive_search() -> None:
    length = len(PROMPTS[0])
    session, _ = steps(Greedy(), PROMPTS[0], 10)
    assert (session.work.forwards, session.work.positions) == (10, length + 9)
    session, _ = steps(ContrastiveSearch(k=3), PROMPTS[0], 10)
    assert (session.work.forwards, session.work.positions, session.work.accepted) == (11, length + 30, 10)


def test_samples() -> None:
    assert len({tuple(decode(TopP(), target(), PROMPTS[0], sample=i)) for i in range(6)}) > 3
    assert decode(TopP(), target(), PROMPTS[0], sample=2) == decode(TopP(), target(), PROMPTS[0], sample=2)
    assert len({tuple(decode(Beam(width=5), target(), PROMPTS[0], sample=i)) for i in range(5)}) == 5


def test_prompt_lookup_matches() -> None:
    """Specs/speculative, golden 11."""
    text = [5, 1, 2, 9, 1, 2, 7, 1, 2]
    assert NgramLookup(2, 3).lookup(text) == [9, 1, 2]
    assert NgramLookup(2, 3, latest=True).lookup(text) == [7, 1, 2]
    assert NgramLookup(2, 3).lookup([1, 2, 3]) == []
    assert NgramLookup(3, 5).lookup([4, 4, 4]) == [4]


def test_needs_and_limits() -> None:
    session = Session(target())
    with pytest.raises(Unsupported, match="--draft"):
        next(iter(Speculative().generate(session, Request((5,), 4, PhiloxStream(0)))))
    session.close()
    with pytest.raises(UserError, match="do not divide"):
        DiverseBeam(width=5, groups=2)
    with pytest.raises(UserError, match="at most 1"):
        TopP(p=1.5)


def test_every_built_in_strategy_is_documented() -> None:
    for name in STRATEGIES.built_in():
        cls = STRATEGIES.get(name)
        assert STRATEGIES.idea(name).endswith(".")
        assert cls.paper
        assert cls.family
        assert all(about.help for about in cls.knobs().values()), name
        spec = STRATEGIES.build(name).spec()
        assert STRATEGIES.build(spec).spec() == spec


def test_eos_ends_a_hypothesis() -> None:
    ends = [decode(Beam(width=4), target(), prompt, new=40) for prompt in prompts(12, 97, 4)]
    assert any(EOS in tokens for tokens in ends)
