"""Computes scores of samples and of (task, strategy) cells from a judge's verdicts.

The score of an answer is the mean rating of its turns; the score of a strategy is the mean over all turns, as in
FastChat's `show_result.py`. Verdicts without a rating are counted but enter no mean. Several ratings of one turn are
averaged first.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import BaseModel
from scipy.stats import t

from harness.judge.verdicts import Mode, Verdict, latest, load
from harness.stats.bootstrap import NOTHING, Interval, mean_interval
from harness.store.folder import Store
from harness.store.schema import Key, Record, Sample, TaskEntry

SCORE = "mt_bench_score"  # the headline of a task that was judged; 1 to 10
BEST = 10
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
NAN = float("nan")
WORTH = {"strategy": 1.0, "tie": 0.5, "baseline": 0.0}


class AnyTurn(BaseModel):
    """A turn of which no field is used."""


class JudgedSample(Sample):
    """The fields of a record that are needed to count its turns."""

    turns: list[AnyTurn]


def records(store: Store, *wanted: Any) -> Iterator[Record]:
    """Yield the records of a run with the judge's ratings among their scores; `wanted` as in `Store.records`."""
    scores = _scores(latest(load(store.folder), "single"))
    for record in store.records(*wanted):
        ratings = scores.get(record.key)
        yield record.model_copy(update={"scores": record.scores | ratings}) if ratings else record


def tasks(store: Store) -> list[TaskEntry]:
    """Return the tasks of a run; the headline score of a judged task is the judge's."""
    judged = {one.task for one in latest(load(store.folder), "single") if one.status != "failed"}
    return [task.model_copy(update={"headline": SCORE, "unscored": None}) if task.spec in judged else task
            for task in store.manifest.tasks]


def score_interval(ok: pd.DataFrame) -> Interval:
    """Return the mean rating of all turns with its 95 % interval, which resamples whole questions."""
    turns = pd.concat([ok[["example"]].assign(value=ok[name]) for name in ok if str(name).startswith(_turn(""))] or
                      [pd.DataFrame({"example": [], "value": []})]).dropna()
    return mean_interval(turns["value"], turns["example"]) if len(turns) else NOTHING


def rating_table(store: Store, raw: object = None) -> pd.DataFrame:
    """Return one row per (task, strategy) with ratings of a judge; unknown values are NaN.

    `score` and its parts are means over turns. `noise` is the half width of the 95 % interval of the difference between
    two scores of the same texts, each with as many ratings as here. `verdicts`, `reused`, `unparsed`, `failed` and
    `odd` (ratings that are not from 1 to 10) count single ratings.
    """
    table = _table(store, "single", _rated)
    return table.reindex(columns=list(dict.fromkeys([*table, *CATEGORIES]))) if len(table) else table


def pair_table(store: Store, raw: object = None) -> pd.DataFrame:
    """Return one row per (task, strategy) whose answers a judge compared with a baseline's.

    `win_rate` covers turns with verdicts for both orders of the two answers; a tie counts one half. Orders that
    disagree are a tie (`disagreed` is their share). `verdicts`, `reused`, `unparsed` and `failed` count single
    verdicts.
    """
    return _table(store, "pairwise", _compared)


def judge_notes(store: Store, mode: Mode) -> Iterator[str]:
    """Yield notes on how a judge's figures were obtained, one sentence each."""
    verdicts = [one for one in load(store.folder) if one.mode == mode]
    turns, judges = _turns(store) if verdicts else {}, defaultdict[tuple[str, ...], list[Verdict]](list)
    for one in (current := latest(verdicts, mode)):
        judges[one.by].append(one)
    for verdicts_of_judge in judges.values():
        yield from _of_judge(verdicts_of_judge, turns, len(judges) > 1)
    shown = {(one.task, one.by) for one in current}
    if others := sorted({one.judge for one in verdicts if (one.task, one.by) not in shown}):
        yield f"earlier verdicts of {', '.join(others)} are kept, and not shown"


def _of_judge(verdicts: Sequence[Verdict], turns: Mapping[tuple[str, str], int], several: bool) -> Iterator[str]:
    """Yield the notes on one judge; they name its tasks if there are `several` judges."""
    last, count, tasks = verdicts[-1], 1 + max(one.again for one in verdicts), {one.task: None for one in verdicts}
    calls, reused = sum(not one.reused for one in verdicts), sum(one.reused for one in verdicts)
    yield (f"{', '.join(tasks) + ': ' if several else ''}"
           f"{'rated' if last.mode == 'single' else 'compared with ' + last.against} by {last.judge} ({last.where})"
           f"{f', {count} times' if count > 1 else ''}; {calls:,} verdicts asked for, {reused:,} taken from equal "
           "answers")
    for status, words in {"unparsed": "hold no verdict in the wanted form and count in no mean",
                          "failed": "could not be had: the same command asks again"}.items():
        if number := sum(one.status == status for one in verdicts):
            yield f"{number:,} of {len(verdicts):,} verdicts of {last.judge} {words}"
    if odd := sum(map(_odd, verdicts)):
        yield f"{odd:,} ratings of {last.judge} are not from 1 to {BEST}, and count as they are"
    wanted = count * sum(number for (task, _), number in turns.items() if task in tasks)
    if last.mode == "single" and len(verdicts) < wanted:
        yield f"{len(verdicts):,} of {wanted:,} verdicts of {last.judge} were requested: the same command resumes"


def _turns(store: Store) -> dict[tuple[str, str], int]:
    """Return the number of turns to judge of each (task, strategy)."""
    counts = defaultdict[tuple[str, str], int](int)
    for record in store.parts_of_records(JudgedSample):
        counts[record.task, record.strategy] += min(2, len(record.turns))
    return counts


def _turn(number: int | str) -> str:
    return f"score_{SCORE}_turn_{number}"


def _values(verdicts: Sequence[Verdict]) -> dict[tuple[Key, int], list[float]]:
    """Return the ratings of each turn of each sample."""
    ratings = defaultdict[tuple[Key, int], list[float]](list)
    for one in verdicts:
        if one.rating is not None:
            ratings[(one.task, one.example, one.strategy, one.sample, one.repeat), one.turn].append(one.rating)
    return ratings


def _scores(verdicts: Sequence[Verdict]) -> dict[Key, dict[str, float]]:
    turns = defaultdict[Key, dict[int, float]](dict)
    for (key, turn), ratings in _values(verdicts).items():
        turns[key][turn] = statistics.fmean(ratings)
    return {key: {SCORE: statistics.fmean(means.values()),
                  **{_turn(turn).removeprefix("score_"): means[turn] for turn in sorted(means)}}
            for key, means in turns.items()}


def _table(store: Store, mode: Mode, row: Callable[[Sequence[Verdict]], dict[str, float]]) -> pd.DataFrame:
    cells = defaultdict[tuple[str, str], list[Verdict]](list)
    for one in latest(load(store.folder), mode):
        cells[one.task, one.strategy].append(one)
    order = ((task.spec, strategy.spec) for task in store.manifest.tasks for strategy in store.manifest.strategies)
    return pd.DataFrame([{"task": task, "strategy": strategy, **row(cells[task, strategy]),
                          **_counted(cells[task, strategy])} for task, strategy in order if (task, strategy) in cells])


def _odd(one: Verdict) -> bool:
    return one.rating is not None and not 1 <= one.rating <= BEST


def _rated(verdicts: Sequence[Verdict]) -> dict[str, float]:
    ratings = _values(verdicts)
    flat = [(key[1], turn, statistics.fmean(values)) for (key, turn), values in ratings.items()]
    kinds = {one.example: one.category for one in verdicts}
    whole = mean_interval([value for *_, value in flat], [example for example, *_ in flat])
    return {
        "score": whole.mean, "score_low": whole.low, "score_high": whole.high,
        **{f"turn_{n}": _mean([value for _, turn, value in flat if turn == n]) for n in (1, 2)},
        **{kind: _mean([value for example, _, value in flat if kinds[example] == kind])
           for kind in sorted(set(kinds.values()) - {""})},
        "noise": _noise(list(ratings.values())), "odd": sum(map(_odd, verdicts)),
    }


def _counted(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {"verdicts": len(verdicts), "reused": sum(one.reused for one in verdicts),
            **{status: sum(one.status == status for one in verdicts) for status in ("unparsed", "failed")}}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else NAN


def _noise(ratings: Sequence[Sequence[float]]) -> float:
    """Return half of the 95 % interval of the difference of two means over the same prompts, from repeated ratings.

    Student's t with the pooled variance within a prompt; NaN if no prompt was judged twice.
    """
    again = [one for one in ratings if len(one) > 1]
    freedom = sum(len(one) - 1 for one in again)
    if not freedom:
        return NAN
    within = sum(statistics.variance(one) * (len(one) - 1) for one in again) / freedom
    spread = within * sum(1 / len(one) for one in ratings) / len(ratings) ** 2
    return float(t.ppf(0.975, freedom)) * math.sqrt(2 * spread)


def _compared(verdicts: Sequence[Verdict]) -> dict[str, float]:
    games = defaultdict[tuple[Any, ...], list[Verdict]](list)
    for one in verdicts:
        games[one.example, one.sample, one.repeat, one.turn, one.again].append(one)
    played = [(one[0].example, {verdict.winner for verdict in one}) for one in games.values()
              if len(one) == 2 and None not in {verdict.winner for verdict in one}]
    results = [(example, str(next(iter(winners))) if len(winners) == 1 else "tie") for example, winners in played]
    rate = mean_interval([WORTH[result] for _, result in results], [example for example, _ in results])
    return {"win_rate": rate.mean, "win_rate_low": rate.low, "win_rate_high": rate.high,
            **{name: sum(result == kind for _, result in results)
               for name, kind in {"wins": "strategy", "ties": "tie", "losses": "baseline"}.items()},
            "disagreed": _mean([float(len(winners) > 1) for _, winners in played])}
