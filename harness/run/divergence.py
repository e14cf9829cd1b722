"""Answers that should equal the baseline's and differ: the first different token, and the margin of its logits."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from pydantic import BaseModel

from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.session import Session
from harness.models.prompts import encode
from harness.plugins.task import Example, Task
from harness.run.plan import Plan
from harness.store.folder import Store
from harness.store.schema import Divergence, Record, Sample, StrategyEntry

BATCH = 8  # sequences whose margins are computed together, when the run decodes fewer at a time


class AnswerTurn(BaseModel):
    """The fields of a turn that a comparison of tokens needs."""

    prompt_tokens: int
    text: str
    tokens: list[int]


class Answer(Sample):
    """The fields of a record that a comparison of tokens needs."""

    turns: list[AnswerTurn]


class Difference(NamedTuple):
    """An answer, the baseline's, and the first token that differs: its turn, and its position there from 0."""

    answer: Answer
    baseline: Answer
    turn: int
    at: int


def must_equal(strategy: StrategyEntry) -> bool:
    """Whether a strategy promises the baseline's own tokens: it is lossless, and draws nothing."""
    return strategy.guarantee != "changes-output" and not strategy.knobs.get("temperature", 0)


@torch.inference_mode()
def divergences(plan: Plan, store: Store) -> Iterator[Divergence]:
    """Every answer that differs from the baseline's against its strategy's promise, with the margin of the two tokens.

    Each margin comes from a forward pass over the answer's own sequence, several sequences in a batch.
    """
    examples = {(task.spec(), example.id): (task, example) for task, all_ in plan.tasks for example in all_}

    def job(one: Difference) -> float | None:
        task, example = examples[one.answer.task, one.answer.example]
        return margin(plan, task, example, one.answer, one.baseline, one.turn, one.at)
    differences = _differences(plan, store)
    while batch := list(islice(differences, 64)):
        margins = _batched(plan, [partial(job, one) for one in batch])
        for (answer, _, turn, at), gap in zip(batch, margins, strict=True):
            yield Divergence(task=answer.task, example=answer.example, strategy=answer.strategy, sample=answer.sample,
                             repeat=answer.repeat, turn=turn, at=at, margin=gap)


def _batched(plan: Plan, jobs: list[Callable[[], float | None]]) -> Iterator[float | None]:
    """What the jobs return; raises `CacheFull` when the sequence of one does not fit into the KV cache by itself."""
    for gap in run_batched([plan.target.engine], jobs, max(BATCH, plan.config.concurrency)):
        if isinstance(gap, CacheFull):
            raise gap
        yield gap


def _differences(plan: Plan, store: Store) -> Iterator[Difference]:
    """The answers that differ from the baseline's; only the baseline's answers are held in memory."""
    exact = {entry.spec for entry in plan.manifest.strategies if must_equal(entry)}
    if plan.manifest.baseline not in exact or len(exact) < 2:
        return
    baselines = {(one.task, one.example, one.sample, one.repeat): one for one in store.parts_of_records(Answer)
                 if one.strategy == plan.manifest.baseline and one.status == "ok"}
    for one in store.parts_of_records(Answer):
        if one.strategy not in exact or one.status != "ok":
            continue
        place = one.task, one.example
        baseline = baselines.get((*place, one.sample, one.repeat)) or baselines.get((*place, 0, one.repeat))
        if baseline is not None and (where := parting(one, baseline)):
            yield Difference(one, baseline, *where)


def parting(one: Record | Answer, other: Record | Answer) -> tuple[int, int] | None:
    """Turn and position of the first token that differs between two answers; None when they are the same."""
    for turn, (a, b) in enumerate(zip(_tokens(one), _tokens(other), strict=True)):
        if a != b:
            pairs = enumerate(zip(a, b, strict=False))
            return turn, next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
    return None


def _tokens(answer: Record | Answer) -> list[list[int]]:
    return [turn.tokens for turn in answer.turns]


def margin(plan: Plan, task: Task, example: Example, one: Record | Answer, other: Record | Answer, turn: int,
           at: int) -> float | None:
    """How far apart the logits of the two next tokens are; None without weights, or when one answer had ended."""
    answer, baseline = one.turns[turn], other.turns[turn]
    if at >= min(len(answer.tokens), len(baseline.tokens)) or not plan.target.here:
        return None
    prompt = encode(plan.target, task.prompt(example, [t.text for t in one.turns[:turn]]))[-answer.prompt_tokens:]
    with closing(Session(plan.target.engine)) as session:
        session.follow([*prompt, *answer.tokens[:at]])
        logits = session.read().logits[0]
        return abs(float(logits[answer.tokens[at]] - logits[baseline.tokens[at]]))
