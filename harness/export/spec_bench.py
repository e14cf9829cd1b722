"""Answer files of Spec-Bench (github.com/hemingkx/Spec-Bench): one per strategy, with one row per question.

Its `speed.py` uses the first choice's `new_tokens` and `wall_time`, one entry per turn, and `accept_lengths`, one entry
per step of all turns. The prefill is not a step there, so our step 0 counts in tokens and time only.
"""

import datetime
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from harness.errors import UserError
from harness.export import ExportedFiles, file_names, left_out
from harness.export.imported import ImportedRun, Source, record, rows
from harness.plugins.spec import labels
from harness.store.files import replace_file
from harness.store.folder import Store
from harness.store.foreign import Count, Row, Seconds, checked, equally_long
from harness.store.schema import Manifest, Record, Turn
from harness.store.steps import fitted, steps


def write(store: Store, folder: Path) -> ExportedFiles:
    """Write one STRATEGY.jsonl per strategy (in one folder per repeat if there are several), without failed samples.

    Each row also has our `task` and `example`. Raises `UserError` for a run without times.
    """
    records, order = list(store.records()), [entry.spec for entry in store.manifest.strategies]
    succeeded = [one for one in records if one.status == "ok"]
    if untimed := next((one for one in succeeded if not one.seconds > 0), None):
        raise UserError(f"{store.folder} has answers without a time (such as {untimed.example} by {untimed.strategy}); "
                        "the format of Spec-Bench needs one for each answer.")
    numbers, files = _question_ids(succeeded), dict[tuple[int, str], dict[tuple[str, str], list[Record]]]()
    for one in succeeded:
        answers = files.setdefault((one.repeat, one.strategy), {})
        answers.setdefault((one.task, one.example), []).append(one)
    names, several = file_names(labels(order)), any(repeat for repeat, _ in files)
    paths = []
    for (repeat, spec), answers in sorted(files.items(), key=lambda item: (item[0][0], order.index(item[0][1]))):
        lines = (json.dumps(_row(choices, numbers[key], store.manifest), ensure_ascii=False) + "\n"
                 for key, choices in sorted(answers.items(), key=lambda item: numbers[item[0]]))
        parent = folder / f"run_{repeat + 1}" if several else folder
        paths.append(replace_file(parent / f"{names[spec]}.jsonl", "".join(lines)))
    return ExportedFiles(paths, left_out(len(records) - len(succeeded)))


def _question_ids(records: Iterable[Record]) -> dict[tuple[str, str], int]:
    """Return the numbers at the end of the examples' names if they are unique, otherwise positions from 1."""
    examples = list(dict.fromkeys((one.task, one.example) for one in records))
    ends = [re.search(r"\d+$", example) for _, example in examples]
    numbers = {int(end[0]) for end in ends if end}
    if len(numbers) == len(examples):
        return {key: int(end[0]) for key, end in zip(examples, ends, strict=True) if end}
    return {key: number for number, key in enumerate(examples, start=1)}


def _row(choices: Sequence[Record], number: int, manifest: Manifest) -> dict[str, Any]:
    first = choices[0]
    begun = datetime.datetime.fromisoformat(manifest.created).timestamp()
    return {
        "question_id": number, "category": first.category or first.task,
        "answer_id": hashlib.sha256(repr(first.key).encode()).hexdigest()[:22], "model_id": first.strategy,
        "choices": [_choice(one) for one in sorted(choices, key=lambda one: one.sample)],
        "tstamp": begun + first.started, "task": first.task, "example": first.example, "model": manifest.model.name,
    }


def _choice(one: Record) -> dict[str, Any]:
    return {
        "index": one.sample, "turns": [turn.text.strip() for turn in one.turns],
        "decoding_steps": [len(turn.steps.tokens[1:]) for turn in one.turns],
        "new_tokens": [sum(turn.steps.tokens) for turn in one.turns],
        "wall_time": _times(one), "accept_lengths": [n for turn in one.turns for n in turn.steps.tokens[1:]],
    }


def _times(one: Record) -> list[float]:
    """Return the seconds of each turn: the sample's time, divided by the turns' times or else tokens."""
    turn_seconds: list[float] = [sum(turn.steps.seconds) for turn in one.turns]
    if not (math.isfinite(sum(turn_seconds)) and sum(turn_seconds) > 0):
        turn_seconds = [1 + sum(turn.steps.tokens) for turn in one.turns]
    return [seconds * (one.seconds / sum(turn_seconds)) for seconds in turn_seconds]


class Choice(Row):
    """One answer to all turns of a question; older files call the steps `idxs`, and have no `accept_lengths`."""

    index: int = 0
    turns: list[str] = Field(min_length=1)
    decoding_steps: list[Count] = Field(validation_alias=AliasChoices("decoding_steps", "idxs"))
    new_tokens: list[Count]
    wall_time: list[Seconds]
    accept_lengths: list[Count] = Field(default_factory=list)


class Answer(Row):
    """One row; `task`, `example` and `model` are in our own files only."""

    question_id: int
    category: str = ""
    model_id: str = ""
    choices: list[Choice] = Field(min_length=1)
    task: str = "spec_bench"
    example: str = ""
    model: str = "unknown"


def read(source: Source) -> list[ImportedRun]:
    """Import the answers of one file; raises `UserError` with the line of an invalid row.

    The strategy is the given name, or the `model_id`. Prompts, and times and counts of steps, are unknown.
    """
    runs, lines = dict[str, ImportedRun](), dict[int, str]()
    for where, value in rows(source.path):
        row = checked(Answer, value, where)
        if (number := row.question_id) in lines:
            raise UserError(f"{where}: the question {number} already has an answer in {lines[number]}.")
        lines[number] = where
        run = runs.setdefault(row.task, ImportedRun(row.task, source.name or row.model_id or source.path.stem,
                                                    model=row.model))
        example = row.example or f"{row.task}/{number}"
        run.identity[example] = json.dumps([number, row.category])
        run.records += [_record(choice, example, row.category, where) for choice in row.choices]
    for run in runs.values():
        run.warnings = ["Spec-Bench's answers have no prompts, token ids, times of steps, counts of forward passes or "
                        "stop reasons: figures that need them are empty."]
    return list(runs.values())


def _record(choice: Choice, example: str, category: str, where: str) -> Record:
    equally_long({name: getattr(choice, name) for name in ("turns", "decoding_steps", "new_tokens", "wall_time")},
                 f"{where}, choice {choice.index}")
    about: dict[str, Any] = {"sample": choice.index, "category": category}
    if "ERROR" in choice.turns:  # its counts and times repeat those of the previous turn
        return record(example, status="failed", error="Spec-Bench noted a RuntimeError", **about)
    turns = [Turn(prompt="", prompt_tokens=0, text=text, raw=text, tokens=[], stop="unknown",
                  steps=steps([tokens - sum(kept), *kept]))
             for text, tokens, kept in zip(choice.turns, choice.new_tokens, map(fitted, _of_turns(choice),
                                                                                choice.new_tokens), strict=True)]
    return record(example, seconds=sum(choice.wall_time), turns=turns, **about)


def _of_turns(choice: Choice) -> list[list[int]]:
    """Split the accepted lengths by turn."""
    steps, lengths = choice.decoding_steps, choice.accept_lengths
    known = (counts for counts in (steps, [count + 1 for count in steps]) if sum(counts) == len(lengths))
    ends = list(accumulate(next(known, _filled(choice)), initial=0))  # some methods record one step too few
    return [lengths[start:end] for start, end in pairwise(ends)]


def _filled(choice: Choice) -> list[int]:
    """Assign steps to each turn until they cover its tokens, the rest to the last turn; returns counts of steps."""
    left, counts = list(choice.accept_lengths), list[int]()
    for tokens in choice.new_tokens[:-1]:
        counts.append(next((n for n, sofar in enumerate(accumulate(left, initial=0)) if sofar >= tokens), len(left)))
        left = left[counts[-1]:]
    return [*counts, len(left)]
