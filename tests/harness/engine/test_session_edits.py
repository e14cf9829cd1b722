"""Edits of a computed sequence: which tokens are computed, what the cache holds then, and that edits can be undone."""

from collections.abc import Sequence
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import HIDDEN
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from strategies.streaming import Ends
from tests.decode import engine
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt][:40]
Edits = Sequence[tuple[int, int, list[int]]]
ONE = ((10, 14, [5, 6]), (10, 14, [5, 6, 7, 8, 9, 11]), (10, 10, [3, 4]), (10, 13, []), (10, 12, [8, 9]), (0, 2, [7]))


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def opened(text: Sequence[int] = TEXT, on: Engine | None = None) -> Session:
    """A session that has read a text."""
    session = Session(on or target(), remember=(HIDDEN,))
    session.follow(text)
    session.read()
    return session


def contents(session: Session) -> list[Tensor]:
    """The keys and values (2, G, S, D) of the sequence, by layer."""
    return [torch.stack(pair) for pair in session.engine.cache.contents(session.row.index, len(session.tokens))]


def changed(text: Sequence[int], edits: Edits) -> list[int]:
    tokens = list(text)
    for first, last, new in edits:
        tokens[first:last] = new
    return tokens


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize("edit", ONE)
def test_the_first_layer_is_that_of_the_new_text(arch: str, edit: tuple[int, int, list[int]]) -> None:
    """Its keys and values do not depend on other tokens; what is before the end of the edit is exact in all layers."""
    first, last, new = edit
    session, other = opened(on=target(arch)), opened(changed(TEXT, [edit]), target(arch))
    before = session.work.positions
    session.edit(first, last, new)
    assert session.work.positions == before + len(new)
    assert session.tokens == other.tokens
    found, wanted, end = contents(session), contents(other), first + len(new)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1][:, :, :end], wanted[1][:, :, :end], rtol=1e-3, atol=1e-4)
    assert (found[1][:, :, end:] - wanted[1][:, :, end:]).abs().max() > 1e-3, "later tokens still know the old text"
    torch.testing.assert_close(session.memory[:end], other.memory[:end], rtol=1e-3, atol=1e-3)
    session.read()
    assert session.work.positions == before + len(new) + 1
    session.close()
    other.close()


def test_keys_that_are_not_turned_have_the_positions_of_the_old_text() -> None:
    session, old = opened(), contents(opened())
    session.edit(10, 14, [5, 6], turned=False)
    for found, before in zip(contents(session), old, strict=True):
        torch.testing.assert_close(found[:, :, 12:], before[:, :, 14:], rtol=0, atol=0)
    session.close()


def test_an_edit_at_the_end_is_exact() -> None:
    session = opened()
    session.edit(36, 40, [5, 6, 7])
    found = session.read().logits[0]
    torch.testing.assert_close(found, opened(session.tokens).read().logits[0], rtol=1e-4, atol=1e-4)
    session.edit(39, 39, [9, 4])
    torch.testing.assert_close(session.read().logits[0], opened([*TEXT[:36], 5, 6, 7, 9, 4]).read().logits[0],
                               rtol=1e-4, atol=1e-4)


def test_the_inverse_edit_gives_back_the_cache() -> None:
    session, before = opened(), contents(opened())
    for edit in ONE:
        old = session.tokens[edit[0]:edit[1]]
        session.edit(*edit)
        session.edit(edit[0], edit[0] + len(edit[2]), old)
        assert session.tokens == TEXT
        for found, wanted in zip(contents(session), before, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_equal_tokens_change_nothing() -> None:
    session, before = opened(), contents(opened())
    session.edit(10, 14, TEXT[10:14])
    for found, wanted in zip(contents(session), before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_an_edit_goes_on_beside_longer_reads() -> None:
    """Padding behind the new tokens does not reach what follows the edit."""
    def job(number: int) -> list[float]:
        session = opened(TEXT[number:])
        if number % 2:
            session.edit(5, 8, [3, 4, 5, 6, 7])
        else:
            session.follow([*TEXT[number:], *TEXT[:20 + number]])
        found = session.read().logits[0].tolist()
        session.close()
        return found

    jobs = [partial(job, number) for number in range(6)]
    side_by_side = run_batched([target()], jobs)
    torch.testing.assert_close(torch.tensor(side_by_side), torch.tensor([each() for each in jobs]), rtol=1e-4,
                               atol=1e-4)


def test_the_sequence_goes_on_as_usual() -> None:
    """Rolling back behind the edit leaves a plain sequence, and a copy continues like the original."""
    session = opened()
    session.edit(10, 14, [5, 6])
    copy = session.fork()
    for each in (session, copy):
        each.follow([*changed(TEXT, [(10, 14, [5, 6])]), 9])
    torch.testing.assert_close(session.read().logits, copy.read().logits)
    session.follow([*TEXT[:10], 8])
    torch.testing.assert_close(session.read().logits, opened([*TEXT[:10], 8]).read().logits, rtol=1e-4, atol=1e-4)


def test_what_an_edit_needs() -> None:
    session = Session(target())
    session.follow(TEXT)
    with pytest.raises(ValueError, match="call read first"):
        session.edit(3, 4, [5])
    with session.with_cache_policy(Ends(2, 9, True)):
        session.read()
        with pytest.raises(Unsupported, match="another strategy"):
            session.edit(3, 4, [5])
    learnt = opened(on=target("gpt2"))
    learnt.edit(3, 4, [5])
    with pytest.raises(Unsupported, match="rotary"):
        learnt.edit(3, 4, [5, 6])


@torch.inference_mode()
def test_a_filled_sequence_is_like_one_that_was_read() -> None:
    """In a new cache and between two sequences, whose padding may not be written over it; long ones make room."""
    for text in (TEXT, TEXT * 8):
        known = opened(text)
        states = target().cache.contents(known.row.index, len(text))
        on = engine(tiny_model("llama", layers=2))
        before, filled, behind = (Session(on) for _ in range(3))
        before.follow(TEXT[:3])
        behind.follow(TEXT[:9])
        filled.follow(TEXT[5:9])
        filled.read()
        filled.fill(text, states)
        run_batched([on], [partial(session.read) for session in (before, behind)], 2)
        assert filled.read(TokenTree.chain([5])).best == known.read(TokenTree.chain([5])).best
        filled.keep([0])
        assert filled.tokens == [*text, 5]
        wanted = opened([*text, 5])
        for found, read in zip(contents(filled), contents(wanted), strict=True):
            assert torch.allclose(found, read, atol=1e-4)
        for session in (known, wanted):
            session.close()
        assert (filled.work.compute.fills, filled.work.compute.fills_read) == (2 * len(text), 2)
    with pytest.raises(Unsupported, match="hidden states"):
        opened().fill(TEXT, states)
