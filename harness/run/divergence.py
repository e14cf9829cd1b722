"""Divergences: answers that should equal the baseline's but differ, with the first different token and its margin."""

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
from harness.models.prompts import placed
from harness.plugins.task import Example, Task
from harness.run.plan import Plan
from harness.run.prepared_prompt import recorded_ids
from harness.store.folder import Store
from harness.store.schema import Divergence, Record, Sample, StrategyEntry

BATCH = 8  # minimum batch size for margins, even if the run decodes fewer sequences at a time


class AnswerTurn(BaseModel):
    """The fields of a turn that a comparison of tokens needs."""

    prompt_tokens: int
    text: str
    tokens: list[int]


class Answer(Sample):
    """The fields of a record that a comparison of tokens needs."""

    turns: list[AnswerTurn]


class Difference(NamedTuple):
    """An answer, the baseline's answer, and the turn and index in it of the first token that differs."""

    answer: Answer
    baseline: Answer
    turn: int
    at: int


def must_equal(strategy: StrategyEntry) -> bool:
    """Return whether a strategy must give the baseline's tokens: it is lossless and decodes at temperature 0."""
    return strategy.guarantee != "changes-output" and not strategy.knobs.get("temperature", 0)


@torch.inference_mode()
def divergences(plan: Plan, store: Store) -> Iterator[Divergence]:
    """Yield every answer that must equal the baseline's but differs, with the margin of the two tokens.

    Each margin comes from a forward pass over the answer's sequence; several sequences share a batch.
    """
    examples = {(task.spec(), example.id): (task, example) for task, all_ in plan.tasks for example in all_}

    def job(difference: Difference) -> float | None:
        answer, baseline, turn, at = difference
        return margin(plan, *examples[answer.task, answer.example], answer, baseline, turn, at)
    differences = _differences(plan, store)
    while batch := list(islice(differences, 64)):
        margins = _batched(plan, [partial(job, difference) for difference in batch])
        for (answer, _, turn, at), gap in zip(batch, margins, strict=True):
            yield Divergence(task=answer.task, example=answer.example, strategy=answer.strategy, sample=answer.sample,
                             repeat=answer.repeat, turn=turn, at=at, margin=gap)


def _batched(plan: Plan, jobs: list[Callable[[], float | None]]) -> Iterator[float | None]:
    """Yield the results of the jobs; raises `CacheFull` when a single sequence does not fit into the KV cache."""
    for gap in run_batched([plan.target.engine], jobs, max(BATCH, plan.config.concurrency)):
        if isinstance(gap, CacheFull):
            raise gap
        yield gap


def _differences(plan: Plan, store: Store) -> Iterator[Difference]:
    """Yield the answers that differ from the baseline's; only the baseline's answers are held in memory."""
    exact = {entry.spec for entry in plan.manifest.strategies if must_equal(entry)}
    if plan.manifest.baseline not in exact or len(exact) < 2:
        return
    baselines = {(answer.task, answer.example, answer.sample, answer.repeat): answer
                 for answer in store.parts_of_records(Answer)
                 if answer.strategy == plan.manifest.baseline and answer.status == "ok"}
    for answer in store.parts_of_records(Answer):
        if answer.strategy not in exact or answer.status != "ok":
            continue
        key = answer.task, answer.example
        baseline = baselines.get((*key, answer.sample, answer.repeat)) or baselines.get((*key, 0, answer.repeat))
        if baseline is not None and (difference := first_difference(answer, baseline)):
            yield Difference(answer, baseline, *difference)


def first_difference(one: Record | Answer, other: Record | Answer) -> tuple[int, int] | None:
    """Return turn and index of the first token that differs between two answers; None if they are equal."""
    for turn, (a, b) in enumerate(zip(_tokens(one), _tokens(other), strict=True)):
        if a != b:
            pairs = enumerate(zip(a, b, strict=False))
            return turn, next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
    return None


def _tokens(answer: Record | Answer) -> list[list[int]]:
    return [turn.tokens for turn in answer.turns]


def margin(plan: Plan, task: Task, example: Example, one: Record | Answer, other: Record | Answer, turn: int,
           at: int) -> float | None:
    """Return the difference of the two tokens' logits; None without weights, or when one answer has ended."""
    answer, baseline = one.turns[turn], other.turns[turn]
    if at >= min(len(answer.tokens), len(baseline.tokens)) or not plan.target.has_weights:
        return None
    prompt, source = placed(plan.target, recorded_ids(plan.target, task, example, one.turns, turn))
    with closing(Session(plan.target.engine)) as session:
        session.begin(source)
        session.follow([*prompt, *answer.tokens[:at]])
        logits = session.read().logits[0]
        return abs(float(logits[answer.tokens[at]] - logits[baseline.tokens[at]]))
