"""Judges a finished run: plans the missing verdicts, estimates their cost, and requests them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError, suggestion
from harness.judge import verdicts as disk
from harness.judge.endpoint import estimate_tokens, max_verdict_tokens
from harness.judge.prompts import Prompts, turns
from harness.judge.reply import Judge, Reply
from harness.judge.verdicts import Mode, Verdict
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import NO_JUDGE, Example, Message, data_hash
from harness.store.folder import Store
from harness.store.schema import Record, TaskEntry

EXPECTED = 300  # tokens of a typical verdict, to estimate the price
Answers = tuple[str, ...]


@dataclass(frozen=True)
class JudgeRequest:
    """One prompt, and all verdicts that its reply decides."""

    key: str
    messages: list[Message]
    slots: list[Verdict]


@dataclass(frozen=True)
class JudgePlan:
    """The verdicts to obtain: how many are `wanted` in all, `known` or `reused`, and the requests to send (`ask`)."""

    wanted: int
    known: int
    ready: list[Verdict]
    ask: list[JudgeRequest]

    @property
    def reused(self) -> int:
        """Return the number of verdicts that need no request, because prompts or answers are equal."""
        return len(self.ready) + sum(len(one.slots) - 1 for one in self.ask)

    def size(self, settings: Mapping[str, Any]) -> tuple[int, int, int]:
        """Estimate prompt tokens and output tokens, and return the maximum of output tokens."""
        limit = max_verdict_tokens(settings)
        count = len(self.ask)
        return sum(estimate_tokens(one.messages) for one in self.ask), count * min(EXPECTED, limit), count * limit


def examples_of(store: Store, data: DataSource, wanted: Sequence[str] = ()) -> dict[str, dict[str, Example]]:
    """Return the examples of a run's tasks that need a judge (only of `wanted`, if given), by spec and id.

    Raises `UserError` if there are none, or if the data differs from the run's.
    """
    open_tasks = {task.spec: task for task in store.manifest.tasks if task.unscored == NO_JUDGE}
    for spec in wanted:
        if spec not in open_tasks:
            raise UserError(f"{store.folder} has no task '{spec}' to judge.{suggestion(spec, open_tasks)}")
    if not open_tasks:
        raise UserError(f"{store.folder} has no task that needs a judge; run mt_bench or mt_bench_official.")
    return {spec: _examples(store, task, data) for spec, task in open_tasks.items() if not wanted or spec in wanted}


def _examples(store: Store, task: TaskEntry, data: DataSource) -> dict[str, Example]:
    examples = TASKS.build(task.spec).examples(data)[:store.manifest.config.get("limit")]
    if data_hash(examples) != task.data_hash:
        raise UserError(f"The questions of {task.spec} differ from those of the run in {store.folder}, which were read "
                        f"from {task.data}; pass the same data with --data.")
    return {one.id: one for one in examples}


def plan(store: Store, judge: Judge, mode: Mode, prompts: Prompts, examples: Mapping[str, Mapping[str, Example]], *,
         baseline: str = "", repeats: int = 1) -> JudgePlan:
    """Plan which verdicts to request, given those on disk; sends no request."""
    earlier = disk.load(store.folder)
    by_slot = {one.slot: one for one in earlier if one.by == _blank(judge, mode).by}
    by_key = {one.key: one for one in earlier if one.status != "failed" and not one.reused}
    wanted = known = 0
    ready, requests = list[Verdict](), dict[str, JudgeRequest]()
    for slot, messages in _slots(store, judge, mode, prompts, examples, baseline, repeats):
        wanted += 1
        done = by_slot.get(slot.slot)
        if done and done.key == slot.key and done.status != "failed":
            known += 1
        elif not messages:
            ready.append(changed(slot, status="ok", winner="tie", reused=True))
        elif slot.key in by_key:
            ready.append(_copy(slot, by_key[slot.key]))
        else:
            requests.setdefault(slot.key, JudgeRequest(slot.key, messages, [])).slots.append(slot)
    return JudgePlan(wanted, known, ready, list(requests.values()))


def request_verdicts(store: Store, judge: Judge, work: JudgePlan, on_verdict: Callable[[Verdict], None]) -> str | None:
    """Request the verdicts, append each to disk and pass it to `on_verdict`; returns why it stopped early, or None."""
    disk.begin(store.folder)
    disk.append(store.folder, work.ready)

    def save(number: int, reply: Reply) -> None:
        first, *others = work.ask[number].slots
        verdict = _judged(first, reply)
        disk.append(store.folder, [verdict, *(_copy(slot, verdict) for slot in others)])
        on_verdict(verdict)

    return judge.answer([one.messages for one in work.ask], save)


def changed(one: Verdict, **changes: Any) -> Verdict:
    """Return a copy of a verdict with changed fields."""
    return one.model_copy(update=changes)


def _slots(store: Store, judge: Judge, mode: Mode, prompts: Prompts, examples: Mapping[str, Mapping[str, Example]],
           baseline: str, repeats: int) -> Iterator[tuple[Verdict, list[Message]]]:
    """Yield every verdict to obtain and its prompt; the prompt is empty if both answers are equal."""
    kept = [one for one in store.records() if one.task in examples and one.status == "ok"]
    answers: dict[tuple[Any, ...], Answers] = {one.key: tuple(t.text.strip() for t in one.turns) for one in kept}
    blank = _blank(judge, mode)
    for record in kept:
        other = _baseline_answer(answers, record, baseline) if mode == "pairwise" else None
        if mode == "pairwise" and (other is None or record.strategy == baseline):
            continue
        example, own = examples[record.task][record.example], answers[record.key]
        for turn in turns(example)[:len(own)]:
            for again in range(repeats):
                for swapped in (False, True) if other is not None else (False,):
                    pair = (own[:turn],) if other is None else (own[:turn], other[:turn])
                    messages = prompts.messages(mode, example, turn, *(pair[::-1] if swapped else pair))
                    same = len(pair) == 2 and pair[0] == pair[1]
                    yield changed(
                        blank, key=_key(judge, mode, messages, again), task=record.task, example=record.example,
                        strategy=record.strategy, sample=record.sample, repeat=record.repeat, turn=turn,
                        category=record.category, against=baseline, swapped=swapped, again=again,
                    ), [] if same else messages


def _baseline_answer(answers: Mapping[tuple[Any, ...], Answers], record: Record, baseline: str) -> Answers | None:
    """Return the baseline's answer to the same prompt: of the same sample, otherwise of sample 0."""
    numbers = ((record.sample, record.repeat), (0, record.repeat))
    return next((answers[key] for number in numbers
                 if (key := (record.task, record.example, baseline, *number)) in answers), None)


def _blank(judge: Judge, mode: Mode) -> Verdict:
    return Verdict(judge=judge.judge, where=judge.where, settings=judge.settings, mode=mode, key="", task="",
                   example="", strategy="", sample=0, repeat=0, turn=1, status="failed")


def _key(judge: Judge, mode: Mode, messages: list[Message], again: int) -> str:
    request = [judge.judge, judge.where, judge.settings, mode, messages, again]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]


def _judged(slot: Verdict, reply: Reply) -> Verdict:
    counts = {"tries": reply.tries, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
    if reply.text is None:
        return changed(slot, status="failed", error=reply.error or "no answer", **counts)
    parsed: dict[str, Any] = {"rating": disk.rating(reply.text)} if slot.mode == "single" else \
        {"winner": disk.winner(reply.text, slot.swapped)}
    status = "unparsed" if None in parsed.values() else "ok"
    return changed(slot, status=status, text=reply.text, **parsed, **counts)


def _copy(slot: Verdict, of: Verdict) -> Verdict:
    """Copy a verdict to another answer with the same prompt; failures are not marked as reused."""
    winner = of.winner if of.swapped == slot.swapped or of.winner in (None, "tie") else \
        "strategy" if of.winner == "baseline" else "baseline"
    return changed(slot, status=of.status, rating=of.rating, winner=winner, error=of.error,
                           reused=of.status != "failed")
