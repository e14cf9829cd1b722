"""Answers that should equal the baseline's and do not: where they part, and how close the two tokens were there."""

from collections.abc import Iterable, Iterator

import torch

from harness.engine.session import Session
from harness.models.prompts import encode
from harness.plugins.task import Example, Task
from harness.run.plan import Plan
from harness.store.schema import Divergence, Record, StrategyEntry


def must_equal(strategy: StrategyEntry) -> bool:
    """Whether a strategy promises the baseline's own tokens: it is exact, and draws nothing."""
    return strategy.guarantee != "changes-output" and not strategy.knobs.get("temperature", 0)


@torch.inference_mode()
def divergences(plan: Plan, records: Iterable[Record]) -> Iterator[Divergence]:
    """Every answer that parts from the baseline's against its strategy's promise, with the margin of the two tokens.

    The margin comes from a fresh reading of the text by itself, so it does not depend on what ran beside the answer.
    """
    exact = {entry.spec for entry in plan.manifest.strategies if must_equal(entry)}
    found = {record.key: record for record in records if record.strategy in exact and record.status == "ok"}
    examples = {(task.spec(), example.id): (task, example) for task, all_ in plan.tasks for example in all_}
    for record in found.values():
        base = [found.get((record.task, record.example, plan.manifest.baseline, sample, record.repeat))
                for sample in (record.sample, 0)]
        other = base[0] or base[1]
        if other is not None and (place := parting(record, other)):
            gap = margin(plan, *examples[record.task, record.example], record, other, *place)
            yield Divergence(task=record.task, example=record.example, strategy=record.strategy, sample=record.sample,
                             repeat=record.repeat, turn=place[0], at=place[1], margin=gap)


def parting(one: Record, other: Record) -> tuple[int, int] | None:
    """Turn and token at which two answers part; None when they are the same."""
    for turn, (a, b) in enumerate(zip(one.turns, other.turns, strict=True)):
        if a.tokens != b.tokens:
            pairs = enumerate(zip(a.tokens, b.tokens, strict=False))
            return turn, next((i for i, (x, y) in pairs if x != y), min(len(a.tokens), len(b.tokens)))
    return None


def margin(plan: Plan, task: Task, example: Example, one: Record, other: Record, turn: int, at: int) -> float | None:
    """How far apart the logits of the two next tokens are; None without weights, or when one answer had ended."""
    mine, theirs = one.turns[turn], other.turns[turn]
    if at >= min(len(mine.tokens), len(theirs.tokens)) or not plan.target.here:
        return None
    prompt = encode(plan.target, task.prompt(example, [t.text for t in one.turns[:turn]]))[-mine.prompt_tokens:]
    session = Session(plan.target.engine)
    session.follow([*prompt, *mine.tokens[:at]])
    logits = session.read().logits[0]
    session.close()
    return abs(float(logits[mine.tokens[at]] - logits[theirs.tokens[at]]))
