"""PEARL with two workers: the tokens and counts of one worker, and a thread that always ends."""

import gc
import threading
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from strategies.pearl import Pearl
from tests.decode import decode, traced
from tests.drafting import PROMPT, model
from tests.models import prompts
from tests.scale import scaled


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() == before


def readers(engine: Engine) -> list[str]:
    """Record the name of the thread of every forward."""
    plain, names = engine.run, list[str]()

    def run(requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        names.append(threading.current_thread().name)
        return plain(requests)
    engine.run = run  # type: ignore[method-assign]
    return names


@pytest.mark.parametrize("inference", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("seed", [0, 1])  # a draft that is always right, and one that is mostly wrong
def test_two_workers_write_the_tokens_of_one_with_its_counts(seed: int, temperature: float, inference: bool) -> None:
    small, big, new = model(seed), model(), scaled(20, 40)
    for sample, prompt in enumerate([PROMPT, *prompts(scaled(1, 3), 97, 2)]):
        with torch.inference_mode(inference):
            one, two = (traced(Pearl(gamma=3, temperature=temperature, p=0.95, workers=workers), big, prompt,
                               draft=small, new=new, sample=sample, eos=None) for workers in (1, 2))
        assert two == one
        assert temperature or two[0] == decode(Greedy(), big, prompt, new=new, eos=None)


def test_each_model_is_read_by_its_own_worker() -> None:
    for workers, wanted in (1, set[str]()), (2, {"draft_0"}):
        small, big = model(1), model()
        drafts, checks = readers(small), readers(big)
        decode(Pearl(workers=workers), big, PROMPT, draft=small, eos=None)
        here = threading.current_thread().name
        assert (set(drafts), set(checks)) == (wanted or {here}, {here})


@torch.inference_mode()
def test_the_draft_is_written_while_the_target_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side waits in its first forward after the prefill for the other one."""
    small, big, both = model(1), model(), threading.Barrier(2)

    def meeting(engine: Engine, when: int) -> None:
        plain, turn = engine.run, iter(range(10**6))

        def run(requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
            if next(turn) == when:
                both.wait(timeout=30)
            return plain(requests)
        monkeypatch.setattr(engine, "run", run)
    expected = decode(Pearl(), big, PROMPT, draft=small, eos=None)
    meeting(small, 0)
    meeting(big, 1)
    assert decode(Pearl(workers=2), big, PROMPT, draft=small, eos=None) == expected


def test_one_model_is_not_read_twice_at_once() -> None:
    big = model()
    names = readers(big)
    perfect = traced(Pearl(workers=2), big, PROMPT, draft=big, eos=None)
    assert set(names) == {threading.current_thread().name}
    assert perfect == traced(Pearl(), big, PROMPT, draft=big, eos=None)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@torch.inference_mode()
def test_texts_side_by_side_stay_in_their_thread(temperature: float) -> None:
    small, big = model(1), model()
    jobs = [partial(traced, Pearl(workers=2, temperature=temperature), big, prompt, draft=small, new=scaled(10, 20))
            for prompt in prompts(scaled(4, 5), 97, 5)]
    alone = [job() for job in jobs]
    names = readers(small)
    assert run_batched([big, small], jobs, 3) == alone
    assert set(names) == {threading.current_thread().name}
    assert not big.merging
    assert run_batched([big, small], jobs[:1]) == alone[:1]
    assert names[-1] == "draft_0"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("side", ["draft", "target"])
@torch.inference_mode()
def test_what_either_side_raises_is_raised_here(side: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small, big, new = model(1), model(), scaled(12, 30)
    engine, turn = small if side == "draft" else big, iter(range(10**6))
    plain = engine.run

    def failing(requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        if next(turn) == 6:
            raise UserError(f"the {side} is broken")
        return plain(requests)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "run", failing)
        with pytest.raises(UserError, match=f"the {side} is broken"):
            decode(Pearl(workers=workers), big, PROMPT, draft=small, new=new, eos=None)
    assert (small.open_rows, big.open_rows) == (0, 0)
    after = decode(Pearl(workers=workers), big, PROMPT, draft=small, new=new, eos=None)
    assert after == decode(Greedy(), big, PROMPT, new=new, eos=None)


def test_closing_early_leaves_no_thread() -> None:
    session = Session(model(), Session(model(1)))
    before = threading.active_count()
    blocks = Pearl(workers=2).generate(session, Request(tuple(PROMPT), 40, PhiloxStream(0)))
    assert len(next(blocks)) == 1
    assert threading.active_count() == before, "the prompt needs no second thread"
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    session.close()


def test_there_are_one_or_two_workers() -> None:
    with pytest.raises(UserError, match="'workers' must be one of 1, 2"):
        Pearl(workers=3)
