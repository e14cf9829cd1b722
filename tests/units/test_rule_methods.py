"""Methods that differ from speculative decoding in the acceptance rule: counts, and settings that make them equal."""

import pytest

from harness.decoding.draw import PhiloxStream
from harness.decoding.session import Session
from harness.strategy import Request, Strategy
from strategies.greedy import Greedy
from strategies.spectr import SpecTr
from strategies.speculative import Speculative
from tests.chances import MASS, TEMPERATURE, draft, p_value, target
from tests.decode import decode
from tests.units.test_strategies import PROMPTS, steps
from tests.units.test_strategies import target as large


def counted(strategy: Strategy, new: int = 60) -> Session:
    """The session after one text on the small pair of models, for its counts."""
    session, written = Session(target(), Session(draft())), 0
    for block in strategy.generate(session, Request((3, 4, 5), new, PhiloxStream(1))):
        written += len(block)
        if written >= new:
            break
    session.close()
    return session


@pytest.mark.parametrize("strategy", [Speculative(verify="block", temperature=TEMPERATURE, p=MASS, gamma=2),
                                      SpecTr(chains=2, length=2, temperature=TEMPERATURE, p=MASS)])
def test_the_law_is_kept(strategy: Strategy) -> None:
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


def test_spectr_reads_all_chains_together() -> None:
    session, sizes = steps(SpecTr(chains=3, length=4, temperature=1.0), PROMPTS[0], 31, large())
    assert sizes == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (72, 24, 7)
    assert session.draft_work.forwards == 24


def test_better_rules_take_fewer_forwards() -> None:
    token = counted(Speculative(gamma=8, temperature=1.0), 200).work.forwards
    assert counted(Speculative(gamma=8, temperature=1.0, verify="block"), 200).work.forwards < token
    assert counted(SpecTr(chains=8, length=8, temperature=1.0), 200).work.forwards < token
