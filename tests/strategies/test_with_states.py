"""Every strategy on models that carry a state: it decodes, exactly if it promises to, or says why not."""

from functools import cache

import pytest

from harness.engine.offers import MISSING, missing
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from strategies.greedy import Greedy
from tests.canvases import random_canvas
from tests.decode import built, decode
from tests.models import prompts
from tests.recurrent import engine

NEW = 10
KINDS = ("Mamba2", "GraniteMoeHybrid")
ATTENTIVE = {"window", "streaming", "h2o", "tova", "snapkv", "quest", "alisa", "kv_quant", "infllm",
             "extended_mind", "hidden_state_search", "pie", "set_based_prompting", "kv_prediction"}
SAID = ("layers of this one carry a state", "needs a trained head")
OTHERWISE = {"clamp"}  # the file has states of another width
PROMPT = prompts(3, 97, 1)[0] * 2


@cache
def expected(kind: str) -> list[int]:
    return decode(Greedy(), engine(kind), PROMPT, new=NEW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(STRATEGIES.built_in()))
def test_every_strategy_decodes_or_says_why_not(name: str, kind: str) -> None:
    strategy, target = built(name), engine(kind)
    reason = missing(strategy.needs, target.offers)
    assert (reason == MISSING["attention"]) == (name in ATTENTIVE)
    if reason:
        return
    draft = random_canvas() if strategy.drafts_with == "canvas" else engine(kind, 1)
    found = list[int]()
    try:
        found = decode(strategy, target, PROMPT, draft=draft if "draft" in strategy.needs else None, new=NEW)
    except Unsupported as error:
        reason = str(error)
    if reason:
        assert any(words in reason for words in SAID) or name in OTHERWISE
        return
    assert found
    assert strategy.guarantee == "changes-output" or found == expected(kind)
