"""The n-gram pool: its hash, what it drafts, what empties it, and what sequences share."""

from functools import partial

import pytest
import torch

from harness.decoding.loop import Step
from harness.engine.batching import run_batched
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from strategies.ngram_pool import NgramPool, Pooled, slot
from tests.decode import decode, traced
from tests.draft_tables import PROMPTS, target, work

NOTHING = Step(EMPTY, None, (), 0)  # type: ignore[arg-type]
SHORT = NgramPool(n=2, n_min=1, n_max=8)


def test_the_hash() -> None:
    assert (slot((1, 2, 3), 4194304), slot((3, 2, 1), 4194304)) == (3845190, 1706006)
    assert NgramPool().slots == 4194304
    assert slot((2**31, 2**31 + 5) * 30, 2**32) == sum(
        token * 6364136223846793005**place for place, token in enumerate(((2**31, 2**31 + 5) * 30)[::-1])
    ) % 2**64 % 2**32


def test_periodic_text_is_drafted_whole() -> None:
    """Drafted tokens are part of the next n-gram, so that a period goes on as long as wanted."""
    text = [5, 6, 7, 8] * 3
    for n in (1, 2, 3, 4, 6):
        drafted = Pooled(NgramPool(n=n, n_min=1, n_max=32), {}).draft(text, NOTHING, 30)
        assert drafted == TokenTree.chain(([5, 6, 7, 8] * 8)[:30])
    assert len(Pooled(NgramPool(n=8, n_min=16, n_max=32), {}).draft(text, NOTHING, 30)) == 30
    assert Pooled(NgramPool(n=9, n_min=1, n_max=32), {}).draft(text, NOTHING, 30).tokens == ()  # it never ended before


def test_a_draft_follows_different_sources() -> None:
    """2-3 was followed by 4 at the end, and 3-4 by 9 in the beginning only; the last write wins."""
    text = [3, 4, 9, 1, 2, 3, 8, 1, 2, 3, 4, 1, 2]
    assert Pooled(SHORT, {}).draft(text, NOTHING, 9).tokens == (3, 4, 1, 2, 3, 4, 1, 2)
    assert Pooled(SHORT, {}).draft([*text[:-3], 7, 1, 2, 3], NOTHING, 9).tokens == (7, 1, 2, 3, 7, 1, 2, 3)
    assert Pooled(SHORT, {}).draft([3, 4, 9, 1, 2, 3, 5, 2, 3], NOTHING, 2).tokens == (5, 2)


def test_an_empty_table_and_a_short_draft() -> None:
    text = [1, 2, 3, 9, 8, 1, 2]
    assert Pooled(SHORT, {}).draft([1, 2], NOTHING, 9) is EMPTY
    assert Pooled(SHORT, {}).draft([1], NOTHING, 9) is EMPTY
    assert Pooled(NgramPool(n=3, n_min=1), {}).draft([4, 5, 6, 7, 8], NOTHING, 9) is EMPTY
    ended = [1, 2, 3, 4, 5, 6, 3]  # 6-3 is new
    assert Pooled(SHORT, {}).draft(ended, NOTHING, 9) is EMPTY
    table = {slot((1, 2), SHORT.slots): 3, slot((2, 3), SHORT.slots): 4}
    assert [len(Pooled(NgramPool(n=2, n_min=least, n_max=8), dict(table)).draft([1, 2], NOTHING, 9))
            for least in (1, 2, 3)] == [2, 2, 0]
    assert Pooled(SHORT, dict(table)).draft([1, 2], NOTHING, 1).tokens == (3,)
    assert Pooled(SHORT, {}).draft(text, NOTHING, 9).tokens == (3, 9, 8, 1, 2, 3, 9, 8)


def test_tokens_that_nothing_has_verified_are_read_but_not_written() -> None:
    drafter = Pooled(SHORT, {})
    assert drafter.extend([1, 2, 3, 9, 2], [3], 1).tokens == (9,)
    assert slot((9, 2), SHORT.slots) not in drafter.table
    assert drafter.extend([1, 2, 3, 9, 2, 8], [3], 9) is EMPTY
    assert drafter.table[slot((9, 2), SHORT.slots)] == 8


def test_a_collision_drafts_a_wrong_token() -> None:
    everything_collides = NgramPool(n=2, n_min=1, n_max=3, slots=1)
    assert Pooled(everything_collides, {}).draft([1, 2, 3, 4, 5], NOTHING, 9).tokens == (5, 5, 5)
    for prompt in PROMPTS:
        assert decode(everything_collides, target(), prompt) == decode(Greedy(), target(), prompt)


def test_poor_drafts_empty_the_table_and_the_sequence_is_written_again() -> None:
    own, foreign = slot((1, 2), SHORT.slots), slot((90, 91), SHORT.slots)
    drafter, text = Pooled(SHORT, {foreign: 92}), [1, 2, 3, 1, 2]

    def tested(accepted: int) -> Step:
        return Step(TokenTree.chain([3] * 8), None, tuple(range(accepted)), 0)  # type: ignore[arg-type]
    for accepted in (1, 1, 1, 1, 2, 0, 1, 1, 1):  # 2 of 8 is not low
        drafter.draft(text, tested(accepted), 9)
    assert drafter.table[foreign] == 92
    drafter.draft(text, NOTHING, 9)  # a step without a draft ends no row of poor ones
    assert drafter.low == 4
    assert len(drafter.draft(text, tested(1), 9)) == 8
    assert foreign not in drafter.table
    assert drafter.table[own] == 3
    never = Pooled(NgramPool(n=2, n_min=1, n_max=8, reset=0.0), {foreign: 92})
    for _ in range(20):
        never.draft(text, tested(0), 9)
    assert never.table[foreign] == 92


def test_each_token_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies import ngram_pool

    drafter, text, hashed = Pooled(NgramPool(n=3, n_min=1), {}), PROMPTS[0] * 5, list[int]()
    monkeypatch.setattr(ngram_pool, "slot", lambda tokens, slots: hashed.append(1) or tuple(tokens))
    for end in range(1, len(text)):
        drafter.write(text[:end])
    assert len(hashed) == len(text) - 1 - 3


@torch.inference_mode()
def test_sequences_of_a_batch_share_a_warm_table_only() -> None:
    """A warm table changes counts, never tokens; a cold one not even counts."""
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    expected = [decode(Greedy(), target(), prompt, new=30, eos=None) for prompt in prompts]
    for warm in (False, True):
        target().learnt.clear()
        strategy = NgramPool(n=2, n_min=1, n_max=8, warm=warm)
        alone = [traced(strategy, target(), prompt, new=30, eos=None) for prompt in prompts]
        assert [tokens for tokens, _, _ in alone] == expected
        assert (alone[1][1].forwards < alone[0][1].forwards) == warm
        target().learnt.clear()
        jobs = [partial(traced, strategy, target(), prompt, new=30, eos=None) for prompt in prompts]
        batched = run_batched([target()], jobs, 4)
        assert [tokens for tokens, _, _ in batched] == expected  # type: ignore[misc]
        assert warm or batched == alone
    target().learnt.clear()


def test_periodic_prompts_save_forwards() -> None:
    prompt, plain = [5, 6, 7, 8, 9] * 6, Greedy()
    drafted, tokens = work(SHORT, prompt, 30)
    written, expected = work(plain, prompt, 30)
    assert tokens == expected
    assert drafted.accepted > 0
    assert drafted.forwards < written.forwards
    assert work(NgramPool(), prompt, 30)[0].drafted == 0  # 24 tokens and 48 more are llama.cpp's for long texts


def test_bounds() -> None:
    with pytest.raises(UserError, match="n_min=48 is more than n_max=16"):
        NgramPool(n_max=16)
    session = Session(target())
    cold, warm = (NgramPool(warm=warm).drafter(session, Request((5,), 9, PhiloxStream(0))) for warm in (False, True))
    session.close()
    assert list(target().learnt.values()) == [warm.table]
    assert cold.table is not warm.table
    target().learnt.clear()
