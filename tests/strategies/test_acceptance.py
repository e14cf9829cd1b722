"""Methods that differ from speculative decoding in the acceptance rule: counts, and settings at which they agree."""

from dataclasses import replace

import pytest

from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from strategies.ensemble_acceptance import EnsembleAcceptance
from strategies.fly import FLy
from strategies.greedy import Greedy
from strategies.kl_acceptance import KLAcceptance
from strategies.lenience import Lenience
from strategies.near_best_acceptance import NearBestAcceptance
from strategies.spectr import SpecTr
from strategies.speculative import Speculative
from strategies.synthetic_acceptance import SyntheticAcceptance
from strategies.top_k_acceptance import TopKAcceptance
from strategies.typical_acceptance import TypicalAcceptance
from tests.chances import MASS, TEMPERATURE, PValue, draft, target
from tests.decode import decode
from tests.scale import scaled
from tests.strategies.test_strategies import PROMPTS, steps
from tests.strategies.test_strategies import target as large


def counted(strategy: Strategy, new: int = 60) -> Session:
    """Return the session after one sequence on the small pair of models, for its counts."""
    session, written = Session(target(), Session(draft())), 0
    for block in strategy.generate(session, Request((3, 4, 5), new, PhiloxStream(1))):
        written += len(block)
        if written >= new:
            break
    session.close()
    return session


@pytest.mark.parametrize("strategy", [Speculative(verify="block", temperature=TEMPERATURE, p=MASS, gamma=2),
                                      SpecTr(chains=2, length=2, temperature=TEMPERATURE, p=MASS)])
def test_the_distribution_is_preserved(strategy: Strategy, p_value: PValue) -> None:
    assert p_value(strategy, draft) > 1e-3


@pytest.mark.parametrize("strategy", [Speculative(verify="block"), SpecTr(chains=3, length=3)])
def test_greedy_at_temperature_zero(strategy: Strategy) -> None:
    for prompt in PROMPTS:
        assert decode(strategy, large(), prompt, draft=large()) == decode(Greedy(), large(), prompt)
        assert decode(strategy, target(), [3, 4], draft=draft()) == decode(Greedy(), target(), [3, 4])


def test_one_chain_of_spectr_is_speculative() -> None:
    for sample in range(5):
        one = decode(SpecTr(chains=1, length=4, temperature=1.0), target(), [3, 4], draft=draft(), sample=sample)
        assert one == decode(Speculative(gamma=4, temperature=1.0), target(), [3, 4], draft=draft(), sample=sample)


def test_spectr_verifies_all_chains_in_one_forward() -> None:
    session, sizes = steps(SpecTr(chains=3, length=4, temperature=1.0), PROMPTS[0], 31, large())
    assert sizes == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (72, 24, 7)
    assert session.draft_work.forwards == 24


def test_better_rules_take_fewer_forwards() -> None:
    new = scaled(100, 200)
    token = counted(Speculative(gamma=8, temperature=1.0), new).work.forwards
    assert counted(Speculative(gamma=8, temperature=1.0, verify="block"), new).work.forwards < token
    assert counted(SpecTr(chains=8, length=8, temperature=1.0), new).work.forwards < token


LOSSY = [TypicalAcceptance(temperature=0.0), TopKAcceptance(k=1), TopKAcceptance(criterion="distance", epsilon=0),
         NearBestAcceptance(beta=1), EnsembleAcceptance(weight=1.0), Lenience(share=1.0), KLAcceptance(kappa=0.0),
         FLy(entropy=1000.0, over="speculative"), SyntheticAcceptance(rates="0")]


@pytest.mark.parametrize("strategy", LOSSY, ids=lambda s: s.name)
def test_exact_settings_are_greedy(strategy: Strategy) -> None:
    for prompt in ([3, 4], [5, 3, 4], [4, 4, 5]):
        assert decode(strategy, target(), prompt, draft=draft()) == decode(Greedy(), target(), prompt)


@pytest.mark.parametrize("strategy", [s for s in LOSSY if s.name in ("ensemble_acceptance", "lenience",
                                                                     "kl_acceptance", "fly")], ids=lambda s: s.name)
def test_exact_settings_are_speculative(strategy: Strategy) -> None:
    for sample in range(6):
        warm = replace(strategy, temperature=TEMPERATURE, p=MASS)  # type: ignore[call-arg]
        plain = Speculative(temperature=TEMPERATURE, p=MASS)
        assert decode(warm, target(), [3, 4], draft=draft(), sample=sample) == \
            decode(plain, target(), [3, 4], draft=draft(), sample=sample)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("loose", [
    TopKAcceptance(k=6), TopKAcceptance(criterion="distance", epsilon=6), NearBestAcceptance(beta=6, tau=100.0),
    EnsembleAcceptance(weight=0.0), Lenience(share=0.0), KLAcceptance(kappa=100.0), SyntheticAcceptance(rates="1"),
    TypicalAcceptance(epsilon=0.0)], ids=lambda s: s.name)
def test_loosest_settings_keep_every_draft(loose: Strategy, temperature: float) -> None:
    if temperature or loose.name != "typical_acceptance":
        work = counted(replace(loose, temperature=temperature), 31).work  # type: ignore[call-arg]
        assert (work.drafted, work.accepted, work.forwards) == (24, 24, 7)


def test_fly_keeps_more() -> None:
    loose = FLy(entropy=0.0, k=6, window=1, temperature=1.0)
    new = scaled(80, 200)
    assert counted(loose, new).work.forwards < counted(replace(loose, entropy=1000.0), new).work.forwards


def test_synthetic_rates_set_the_steps() -> None:
    """Golden 9, 2.864 tokens a step, within four standard errors (1.6 each, over about 140 steps)."""
    work = counted(SyntheticAcceptance(rates="0.8;0.7;0.6;0.5"), scaled(200, 400)).work
    assert (work.accepted + work.forwards) / work.forwards == pytest.approx(2.864, abs=0.55)
    with pytest.raises(UserError, match="from 0 to 1"):
        SyntheticAcceptance(rates="0.8;x")


def test_needs_follow_the_drafter() -> None:
    assert Lenience().needs == {"draft"}
    assert Lenience(over="prompt_lookup").needs == frozenset()
    assert Lenience.needs == {"draft"}
    for over in ("top_p", "lenience"):
        with pytest.raises(UserError, match="drafts and verifies"):
            Lenience(over=over)
    with pytest.raises(UserError, match="no strategy"):
        Lenience(over="nothing")
    assert STRATEGIES.build(Lenience(over="speculative:gamma=2;verify=block").spec()).needs == {"draft"}


@pytest.mark.parametrize("strategy", [Lenience(share=1.0, over="prompt_lookup"), FLy(over="prompt_lookup", window=1),
                                      EnsembleAcceptance(over="prompt_lookup", weight=1.0),
                                      KLAcceptance(over="spectr:chains=2;length=2", kappa=0.0)], ids=lambda s: s.name)
def test_other_drafters(strategy: Strategy) -> None:
    for prompt in ([3, 4, 5, 3, 4], [4, 5, 4]):
        plain = decode(Greedy(), target(), prompt)
        found = decode(strategy, target(), prompt, draft=draft() if strategy.needs else None)
        assert found == plain or strategy.name == "fly"
