"""Drafts that read a part of the KV cache: the law of the mask, full budgets, and the distribution."""

from functools import partial

import pytest
import torch
import transformers

from harness.engine.attention_hooks import AttendToEnds
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.session import Session, Work
from harness.engine.tree import additive
from strategies.windowed_self import WindowedSelf
from tests.chances import MASS, TEMPERATURE, VOCAB, PValue
from tests.models import MAX_POSITIONS, prompts
from tests.scale import scaled
from tests.self_drafting import PROMPTS, as_greedy, deep, steps

TEXT = [token for prompt in prompts(8, 97, 7) for token in prompt]


def by_mask(on: Engine, text: list[int], first: int, last: int) -> torch.Tensor:
    """The logits (V,) after `text` where its last token sees both ends, and every other token all before it."""
    size = len(text)
    seen = torch.ones(size, size, dtype=torch.bool).tril_()
    seen[-1, first:size - last] = False
    mask = additive(seen, torch.float32, on.device)[None, None]
    output = on.model(input_ids=torch.tensor([text]), attention_mask=mask, use_cache=False,
                      position_ids=torch.arange(size)[None])
    logits: torch.Tensor = output.logits[0, -1]
    return logits


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "qwen2"])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 5), (4, 9), (3, 12), (20, len(TEXT) - 20)])
@torch.inference_mode()
def test_a_draft_reads_both_ends_of_the_sequence(arch: str, first: int, last: int) -> None:
    on = deep(arch)
    session = Session(on)
    session.follow(TEXT[:-1])
    session.read()
    found = session.draft_read(TEXT[-1:], AttendToEnds(first, last)).logits[0]
    session.follow(TEXT)
    whole = session.read().logits[0]
    session.close()
    torch.testing.assert_close(found, by_mask(on, TEXT, first, last), rtol=1e-4, atol=1e-4)
    assert torch.allclose(found, whole, atol=1e-4) == (first + last >= len(TEXT))


@torch.inference_mode()
def test_sequences_of_any_length_read_their_own_ends() -> None:
    """In one forward, where short sequences have tokens at both of their ends, or fewer than the first ones."""
    on, hook = deep(), AttendToEnds(6, 8)

    def job(text: list[int]) -> torch.Tensor:
        session = Session(on)
        session.follow(text[:-1])
        session.read()
        logits = session.draft_read(text[-1:], hook).logits[0]
        session.close()
        return logits
    texts = [TEXT[:size] for size in (2, 5, 9, 14, 15, 30, len(TEXT))]
    before = on.cache.row_range
    for text, found in zip(texts, run_batched([on], [partial(job, text) for text in texts]), strict=True):
        torch.testing.assert_close(found, by_mask(on, text, 6, min(8, len(text))) if len(text) > 14
                                   else by_mask(on, text, 0, len(text)), rtol=1e-4, atol=1e-4)
    assert on.cache.row_range != before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_budget_for_the_whole_sequence_makes_every_draft_right(temperature: float) -> None:
    strategy = WindowedSelf(sinks=3, window=len(TEXT) + 31 - 3, gamma=4, temperature=temperature)
    session, blocks = steps(strategy, TEXT, 31, deep())
    assert [len(block) for block in blocks] == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (24, 24, 7)
    assert (session.draft_work.forwards, session.draft_work.positions) == (24, 24)
    _, blocks = steps(WindowedSelf(sinks=1, window=2, gamma=4, temperature=temperature), TEXT, 31, deep())
    assert len(blocks) > 7


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_tokens_are_those_of_greedy(arch: str) -> None:
    done = as_greedy(WindowedSelf(sinks=1, window=4, gamma=3), deep(arch))
    assert any(session.work.accepted < session.work.drafted for session, _ in done)
    assert any(session.work.accepted for session, _ in done)


@torch.inference_mode()
def test_drafts_in_a_batch_are_those_of_each_alone() -> None:
    on, strategy, new = deep(), WindowedSelf(sinks=2, window=6, gamma=3), scaled(12, 20)

    def job(text: list[int]) -> tuple[list[list[int]], Work, Work]:
        session, blocks = steps(strategy, text, new, on)
        return blocks, session.work, session.draft_work
    jobs = [partial(job, TEXT[:size]) for size in (3, 7, 12, 25, len(TEXT))]
    alone = [go() for go in jobs]
    assert run_batched([on], jobs) == alone


def test_the_distribution_is_preserved_where_little_is_read(p_value: PValue) -> None:
    strategy = WindowedSelf(sinks=1, window=2, gamma=2, temperature=TEMPERATURE, p=MASS)
    assert p_value(strategy, None, deep("llama", VOCAB, 0.8, 4)) > 1e-3


def test_a_sliding_window_stays_a_limit() -> None:
    """What a layer does not attend to is not read either, however much the draft may read."""
    torch.manual_seed(0)
    on = Engine(transformers.MistralForCausalLM(transformers.MistralConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, sliding_window=8)).eval(), MAX_POSITIONS)
    session, found = Session(on), list[torch.Tensor]()
    for last in (8, 4):
        session.follow(TEXT[:-1])
        session.read()
        found.append(session.draft_read(TEXT[-1:], AttendToEnds(4, last)).logits[0])
    session.follow(TEXT)
    whole = session.read().logits[0]
    session.close()
    torch.testing.assert_close(found[0], whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[1], whole, atol=1e-2)


def test_several_tokens_at_once_are_refused() -> None:
    session = Session(deep())
    session.follow(PROMPTS[0])
    session.read()
    with pytest.raises(ValueError, match="one token per sequence"):
        session.draft_read([5, 6], AttendToEnds(1, 2))
    session.close()
