"""Who runs the forwards that sessions request: each alone, or all of a batch together, and the former afterwards."""

from functools import partial

import pytest
import torch

from harness.engine.batching import BatchedExecutor, run_batched
from harness.engine.engine import Engine
from harness.engine.executor import SerialExecutor
from harness.engine.session import Session
from tests.decode import engine
from tests.models import prompts, tiny_model

MODEL, SMALL = tiny_model("llama"), tiny_model("llama", seed=1)


def first_token(target: Engine, prompt: list[int]) -> int:
    session = Session(target)
    try:
        session.follow(prompt)
        return session.read().best[0]
    finally:
        session.close()


def test_an_engine_runs_every_forward_at_once_unless_told_otherwise() -> None:
    target = engine(MODEL)
    assert isinstance(target.executor, SerialExecutor)
    assert not target.merging
    tokens = [first_token(target, prompt) for prompt in prompts(3, 97, 4)]
    assert target.forwards == 3
    assert run_batched([target], [partial(first_token, target, prompt) for prompt in prompts(3, 97, 4)]) == tokens
    assert target.forwards < 3 + 3


def test_a_batch_is_the_executor_of_all_its_engines_until_it_ends() -> None:
    target, draft = engine(MODEL), engine(SMALL)
    before, during = (target.executor, draft.executor), list[object]()

    def job(prompt: list[int]) -> int:
        during.extend([target.executor, draft.executor])
        return first_token(target, prompt) + first_token(draft, prompt)
    run_batched([target, draft], [partial(job, prompt) for prompt in prompts(2, 97, 4)])
    assert isinstance(during[0], BatchedExecutor)
    assert len({id(executor) for executor in during}) == 1
    assert (target.executor, draft.executor) == before


@pytest.mark.parametrize("failing", [0, 1, 2])
@torch.inference_mode()
def test_an_error_gives_the_former_executor_back(failing: int) -> None:
    target, texts = engine(MODEL), prompts(3, 97, 4)
    before = target.executor

    def job(number: int) -> int:
        token = first_token(target, texts[number])
        if number == failing:
            raise ValueError("no more")
        return token
    with pytest.raises(ValueError, match="no more"):
        run_batched([target], [partial(job, number) for number in range(3)])
    assert (target.executor, target.open_rows) == (before, 0)


@torch.inference_mode()
def test_one_job_needs_no_batch() -> None:
    target = engine(MODEL)
    assert run_batched([target], [lambda: target.merging]) == [False]
    assert run_batched([target], [lambda: target.merging] * 2) == [True, True]
