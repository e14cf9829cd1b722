"""Every strategy on a model that reads images: it decodes, exactly if it promises to, or says why not."""

from functools import cache

import pytest

from harness.engine.offers import missing
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from harness.run.selection import needs
from strategies.greedy import Greedy
from tests.decode import built
from tests.vision import blind, decode, engine, prompt_with

NEW = 10
BEFORE, AFTER = [5, 11, 3], [7, 20, 9, 41, 7, 20]


def prompt() -> list[int]:
    return prompt_with(0, BEFORE, AFTER)


@cache
def expected() -> list[int]:
    return decode(Greedy(), engine(), prompt(), new=NEW)


@pytest.mark.parametrize("name", sorted(STRATEGIES.built_in()))
def test_every_strategy_decodes_or_says_why_not(name: str) -> None:
    strategy, target = built(name), engine()
    if missing(needs(strategy), target.offers):
        assert "canvas" in strategy.needs or "source" in strategy.needs
        return
    draft = blind() if "draft" in strategy.needs else None
    try:
        found = decode(strategy, target, prompt(), draft=draft, new=NEW)
    except Unsupported:
        return
    assert found
    assert strategy.guarantee == "changes-output" or found == expected()
