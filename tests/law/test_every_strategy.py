"""Every registered strategy with a guarantee of tokens or distribution keeps it, on tiny models of four classes."""

from contextlib import closing
from functools import cache, partial

import pytest
import torch

from harness.backends.trace import trace
from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from strategies.greedy import Greedy
from tests.chances import MASS, TEMPERATURE, VOCAB, PValue, draft
from tests.decode import built, decode, engine, traced, words
from tests.models import prompts, tiny_model
from tests.pair import tokenizer
from tests.scale import scaled

EVERY = sorted(STRATEGIES.built_in())
PROMISING = [name for name in EVERY if STRATEGIES.get(name).guarantee != "changes-output"]
LAWFUL = [name for name in PROMISING if STRATEGIES.get(name).guarantee == "distribution-preserving"]


@cache
def model(arch: str, seed: int = 0) -> Engine:
    return engine(tiny_model(arch, seed=seed))


def with_draft(strategy: Strategy, arch: str, seed: int) -> Engine | None:
    return model(arch, seed) if "draft" in strategy.needs else None


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
@pytest.mark.parametrize("name", PROMISING)
def test_greedy_tokens_at_temperature_zero(name: str, arch: str) -> None:
    """With a draft that is mostly wrong, with one that is always right, and where the text repeats itself."""
    strategy, target, new = built(name), model(arch), scaled(20, 30)
    for seed, prompt in zip((1, 0, 1), prompts(3, 97, 1), strict=True):
        expected = decode(Greedy(), target, prompt * 2, new=new)
        assert decode(strategy, target, prompt * 2, draft=with_draft(strategy, arch, seed), new=new) == expected


@pytest.mark.parametrize("name", EVERY)
def test_what_ran_before_changes_neither_tokens_nor_counts(name: str) -> None:
    strategy, target = built(name), model("llama")
    first, second = (prompt * 2 for prompt in prompts(2, 97, 3))
    runs = [traced(strategy, target, prompt, draft=with_draft(strategy, "llama", 0), new=scaled(8, 16))
            for prompt in (first, second, first)]
    assert runs[0] == runs[2]


@pytest.mark.slow  # in `make test`, tests/harness/engine/test_batching.py has all strategies in one batch
@pytest.mark.parametrize("name", EVERY)
@torch.inference_mode()
def test_texts_side_by_side_get_the_tokens_they_have_alone(name: str) -> None:
    strategy, target = built(name), model("llama")
    draft = with_draft(strategy, "llama", 1)
    jobs = [partial(decode, strategy, target, prompt * 2, draft=draft, new=16) for prompt in prompts(9, 97, 5)]
    alone = [job() for job in jobs]
    assert len({tuple(tokens) for tokens in alone}) > 1
    assert run_batched([target, draft] if draft else [target], jobs, 8) == alone
    assert target.open_rows == 0


@pytest.mark.parametrize("name", LAWFUL)
def test_the_distribution_is_preserved(name: str, p_value: PValue) -> None:
    strategy = built(name, VOCAB, f"temperature={TEMPERATURE},p={MASS}")
    assert p_value(strategy, draft if "draft" in strategy.needs else None) > 1e-3


@cache
def broken() -> Engine:
    """A model whose embedding of the first token of the prompt is NaN."""
    weights = tiny_model("llama")
    with torch.no_grad():
        weights.get_input_embeddings().weight[prompts(1, 97, 3)[0][0]] = torch.nan
    return engine(weights)


@pytest.mark.parametrize("name", EVERY)
@torch.inference_mode()
def test_no_token_is_chosen_from_nan(name: str) -> None:
    strategy, prompt = built(name), prompts(1, 97, 3)[0] * 2
    session = open_session(strategy, [broken(), model("llama", 1)])
    request = Request(tuple(prompt), 3, PhiloxStream(0), frozenset(), 0, text=words(prompt, 97))
    with closing(session), pytest.raises(FloatingPointError, match="the model's logits are NaN"):
        trace(strategy, session, request, StopRule(tokenizer(), prompt, frozenset(), ()), lambda: 0.0)
