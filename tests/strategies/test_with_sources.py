"""Every strategy on models whose encoder reads the prompt: it decodes, exactly if it promises to, or says why not."""

from functools import cache

import pytest

from harness.engine.offers import missing
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from harness.run.selection import needs
from strategies.greedy import Greedy
from strategies.input_copy import InputCopy
from strategies.ngram_pool import NgramPool
from strategies.prompt_lookup import PromptLookup
from strategies.staged import Staged
from strategies.suffix_automaton import SuffixAutomatonDecoding
from strategies.suffix_decoding import SuffixDecoding
from tests.decode import built
from tests.models import prompts
from tests.seq2seq import EOS, decode, engine, traced

NEW = 10
SOURCE = [*prompts(3, 97, 1)[0] * 2, EOS]
PROMPT_CHANGING = {"read_twice", "guidance", "instructive", "pie", "icn", "set_based_prompting", "window", "h2o",
                   "trlm_rerank", "kv_prediction", "extended_decoding", "dynamic_evaluation"}


@cache
def expected(kind: str) -> list[int]:
    return decode(Greedy(), engine(kind), SOURCE, new=NEW)


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("name", sorted(STRATEGIES.built_in()))
def test_every_strategy_decodes_or_says_why_not(name: str, kind: str) -> None:
    strategy, target = built(name), engine(kind)
    reason = missing(needs(strategy), target.offers)
    assert bool(reason) >= (name in PROMPT_CHANGING)
    if reason:
        return
    draft = engine(kind, 1) if "draft" in strategy.needs else None
    try:
        found = decode(strategy, target, SOURCE, draft=draft, new=NEW)
    except Unsupported:
        return
    assert found
    assert strategy.guarantee == "changes-output" or found == expected(kind)


def test_drafts_are_copied_from_the_source() -> None:
    """A decoder that repeats its source: its answer is given, and each method copies it in few steps."""
    target, source = engine("bart"), [*range(20, 40), EOS]
    for strategy in (PromptLookup(), InputCopy(), NgramPool(n=2, n_min=1), SuffixDecoding(),
                     SuffixAutomatonDecoding(len_threshold=2)):
        steps = traced(strategy, target, source, new=len(source), given=source * 2).steps
        assert len(steps.tokens) < len(source) / 2, strategy.name
    staged = traced(Staged(gamma=8), target, source, draft=engine("bart", 1), new=len(source), given=source * 2).steps
    assert sum(staged.drafted) > 2 * sum(staged.draft_forwards)
    assert not sum(traced(Greedy(), target, SOURCE, new=NEW).steps.drafted)
