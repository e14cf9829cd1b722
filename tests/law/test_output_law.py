"""Sampling on a tiny model follows its distribution, and a planted bug does not."""

import pytest

from harness.decoding import accept
from strategies.speculative import Speculative
from strategies.top_p import TopP
from tests.chances import MASS, TEMPERATURE, PValue, draft


def test_the_distribution_of_nucleus_sampling(p_value: PValue) -> None:
    assert p_value(TopP(p=MASS, temperature=TEMPERATURE), None) > 1e-3


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch, p_value: PValue) -> None:
    """Sampling from p instead of the residual after a rejection is the classic mistake."""
    monkeypatch.setattr(accept, "_normal", lambda rest, p: p)
    assert p_value(Speculative(gamma=2, temperature=TEMPERATURE, p=MASS), draft) < 1e-6
