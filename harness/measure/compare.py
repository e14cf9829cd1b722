"""Compares two runs of the same strategies on the same prompts, sample by sample."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from harness.errors import UserError
from harness.measure.judged import tasks as judged_tasks
from harness.measure.raw import COUNTS
from harness.measure.significance import gain, repeats
from harness.measure.summary import first_difference, pair_with_baseline, run_labels, samples
from harness.stats.bootstrap import Interval, ratio_interval
from harness.stats.multiple import holm
from harness.stats.paired import mean_test
from harness.stats.power import smallest_effect
from harness.store.folder import Store
from harness.store.schema import Manifest

KEY = ["task", "example", "strategy", "sample", "repeat"]
COUNTED = ("tokens", *COUNTS)
MACHINE = ("hardware", "threads")  # fields of the environment that determine speed
NAN = float("nan")


class ComparisonPart(BaseModel):
    """Base of all parts of a comparison; NaN (unknown) is written as null."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")


class Effect(ComparisonPart):
    """A change from A to B with its 95 % interval over examples: a ratio of speeds, or a difference of scores.

    `p_value` tests the hypothesis of no change, `p_holm` is Holm's correction over all cells. `findable` is the
    smallest change that would be detected with a probability of 80 % (of speed as a share: 0.05 is 5 % faster).
    """

    value: float
    low: float
    high: float
    p_value: float
    p_holm: float = NAN
    findable: float


class CellChange(ComparisonPart):
    """One strategy on one task in both runs, over the `samples` that succeeded in both.

    `changed` is the number of answers with other tokens, `recounted` that with other counts; `counts` are the totals in
    A and B. `speed` is tokens per second relative to the run's own baseline (None for the baseline), `absolute` is
    tokens per second. `unsteady` is the largest ratio by which speeds differ between repeats of one run (p below 0.05),
    else NaN.
    """

    task: str
    strategy: str
    samples: int
    failed: tuple[int, int]
    changed: int
    recounted: int
    counts: dict[str, tuple[int, int]]
    quality: tuple[float, float]
    score: Effect | None
    speed: Effect | None
    absolute: Effect | None
    unsteady: float


class PromptChange(ComparisonPart):
    """One sample that differs between the runs: index of the first different token (`at`), scores, and changed counts.

    Only the first samples include their texts (`compare`).
    """

    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    at: int | None
    scores: tuple[float, float]
    counts: dict[str, tuple[int, int]]
    texts: tuple[str, str] | None = None


class Comparison(ComparisonPart):
    """The changes from run `a` to run `b`.

    `forced` lists differences that are an error without `force`, `settings` all others. `machine` is the speed of B's
    baseline divided by A's. `only_a` and `only_b` are the (task, strategy) cells of one run.
    """

    a: str
    b: str
    baseline: str
    forced: list[str]
    settings: list[str]
    machine: Effect | None
    cells: list[CellChange]
    only_a: list[tuple[str, str]]
    only_b: list[tuple[str, str]]
    prompts: list[PromptChange]


def compare(a: Store, b: Store, *, force: bool = False, texts: int = 0) -> Comparison:
    """Compare two runs, and include the texts of the first `texts` changed samples.

    Samples are paired by task, example, strategy, sample and repeat. Raises `UserError` when data, model, precision,
    baseline or hardware differ, unless `force`, and when the runs have no sample in common.
    """
    labels = run_labels([a, b])
    forced = list(refusals(a.manifest, b.manifest))
    if forced and not force:
        raise UserError(f"{labels[0]} and {labels[1]} cannot be compared, because they differ in {'; '.join(forced)}: "
                        "--force compares them nevertheless.")
    frames = [relative(store) for store in (a, b)]
    present = [dict.fromkeys(zip(frame["task"], frame["strategy"], strict=True)) for frame in frames]
    pairs = frames[0].merge(frames[1], on=KEY, suffixes=("_a", "_b"))
    if pairs.empty:
        raise UserError(f"{labels[0]} and {labels[1]} have no sample in common: give two runs with a task, its "
                        "examples and a strategy in common.")
    both = pairs[(pairs["status_a"] == "ok") & (pairs["status_b"] == "ok")].reset_index(drop=True)
    parted = [first_difference(one, other) for one, other in zip(both["ids_a"], both["ids_b"], strict=True)]
    both = both.assign(at=pd.Series(parted, dtype=float), recounted=_recounted(both))
    base = both[both["strategy"] == a.manifest.baseline]
    return Comparison(
        a=labels[0], b=labels[1], baseline=a.manifest.baseline, forced=forced,
        settings=list(settings(a.manifest, b.manifest)),
        machine=_speed(base["log_speed_b"] - base["log_speed_a"], base["task"] + " " + base["example"]),
        cells=_corrected(_cells(pairs, both, a.manifest, a.manifest.precision or b.manifest.precision)),
        only_a=[cell for cell in present[0] if cell not in present[1]],
        only_b=[cell for cell in present[1] if cell not in present[0]], prompts=_prompts(a, b, both, texts))


def refusals(a: Manifest, b: Manifest) -> Iterator[str]:
    """Yield the differences that make two runs incomparable, in words."""
    tasks = {task.spec: task for task in a.tasks}
    shared = [(tasks[other.spec], other) for other in b.tasks if other.spec in tasks]
    yield from (f"the version of {one.spec} ({one.version} and {two.version})" for one, two in shared
                if one.version != two.version)
    if other := [(one, two) for one, two in shared if one.data_hash != two.data_hash]:
        counts = sorted({(one.examples, two.examples) for one, two in other})
        yield f"the data of {', '.join(one.spec for one, _ in other)} (" + "; ".join(
            f"{one} and {two} examples" if one != two else f"{one} other examples" for one, two in counts) + ")"
    for name, one, two in (("model", a.model, b.model), ("draft model", a.draft, b.draft)):
        if one and two and one.fingerprint != two.fingerprint:
            yield f"the {name} ({one.name} {one.fingerprint[:8]} and {two.name} {two.fingerprint[:8]})"
        if one and two and one.tokenizer and two.tokenizer and one.tokenizer != two.tokenizer:
            yield (f"the tokenizer, chat template or EOS of the {name} ({one.tokenizer[:8]} and "
                   f"{two.tokenizer[:8]})")
        if one and two and one.dtype != two.dtype:
            yield f"the precision of the {name} ({one.dtype} and {two.dtype})"
    if a.baseline != b.baseline:
        yield f"the baseline ({a.baseline} and {b.baseline})"
    for key in MACHINE:
        yield from _unequal(a.environment.get(key), b.environment.get(key), key)


def settings(a: Manifest, b: Manifest) -> Iterator[str]:
    """Yield the other differences between two runs, in words: settings, versions, the commit."""
    reported = {"limit", "dtype", *MACHINE}
    for one, two in ((a.config, b.config), (a.environment, b.environment)):
        yield from _unequal({key: value for key, value in one.items() if key not in reported},
                            {key: value for key, value in two.items() if key not in reported}, "")


def relative(store: Store) -> pd.DataFrame:
    """Return `samples` with the headline `score` and `log_relative`, the log of speed divided by the baseline's."""
    frame, scores = samples(store), {task.spec: f"score_{task.headline}" for task in judged_tasks(store)}
    frame = frame.assign(score=NAN)
    for task, column in scores.items():
        if column in frame:
            frame.loc[frame["task"] == task, "score"] = frame[column]
    paired = []
    for _, of_task in frame.groupby("task", sort=False):
        ok = of_task[of_task["status"] == "ok"]
        pairs = pair_with_baseline(ok, ok[ok["strategy"] == store.manifest.baseline])
        paired.append(pairs.assign(log_relative=pairs["log_speed"] - pairs["log_speed_base"]))
    if not paired:
        return frame.assign(log_relative=NAN)
    return frame.merge(pd.concat(paired)[[*KEY, "log_relative"]], on=KEY, how="left")


def _cells(pairs: pd.DataFrame, both: pd.DataFrame, manifest: Manifest, precision: float | None
           ) -> Iterator[CellChange]:
    fine, every = (dict(iter(frame.groupby(["task", "strategy"], sort=False))) for frame in (both, pairs))
    for task, strategy in product([task.spec for task in manifest.tasks], [one.spec for one in manifest.strategies]):
        if (all_ := every.get((task, strategy))) is None:
            continue
        cell = fine.get((task, strategy), both.iloc[:0])
        scores = (cell["score_b"] - cell["score_a"]).dropna()
        yield CellChange(
            task=task, strategy=strategy, samples=len(cell),
            failed=(int((all_["status_a"] != "ok").sum()), int((all_["status_b"] != "ok").sum())),
            changed=int(cell["at"].notna().sum()), recounted=int(cell["recounted"].sum()),
            counts={name: (int(cell[f"{name}_a"].sum()), int(cell[f"{name}_b"].sum())) for name in COUNTED},
            quality=(float(cell.loc[scores.index, "score_a"].mean()), float(cell.loc[scores.index, "score_b"].mean())),
            score=_score(scores, cell.loc[scores.index, "example"], precision),
            speed=None if strategy == manifest.baseline else _speed(cell["log_relative_b"] - cell["log_relative_a"],
                                                                     cell["example"]),
            absolute=_speed(cell["log_speed_b"] - cell["log_speed_a"], cell["example"]),
            unsteady=_unsteady(cell))


def _speed(logs: "pd.Series[float]", examples: "pd.Series[str]") -> Effect | None:
    logs = logs.dropna()
    examples = examples.loc[logs.index]
    return _effect(ratio_interval(logs, examples), mean_test(logs, examples),
                   float(np.expm1(smallest_effect(logs, examples)))) if len(logs) else None


def _score(differences: "pd.Series[float]", examples: "pd.Series[str]", precision: float | None) -> Effect | None:
    return _effect(*gain(differences, examples, precision), smallest_effect(differences, examples)) \
        if len(differences) else None


def _effect(interval: Interval, p_value: float, findable: float) -> Effect:
    return Effect(value=interval.mean, low=interval.low, high=interval.high, p_value=p_value, findable=findable)


def _corrected(cells: Iterator[CellChange]) -> list[CellChange]:
    """Correct the p-values over all cells, separately for speed and for quality.

    In two equal runs, the probability that any cell is reported as faster or slower is then one in twenty.
    """
    done = list(cells)
    for name in ("speed", "score"):
        effects = [getattr(cell, name) for cell in done]
        values = holm([effect.p_value if effect else NAN for effect in effects])
        done = [cell.model_copy(update={name: effect.model_copy(update={"p_holm": value})}) if effect else cell
                for cell, effect, value in zip(done, effects, values, strict=True)]
    return done


def _unsteady(cell: pd.DataFrame) -> float:
    """Return the largest significant ratio of relative speeds between repeats of a run; NaN without one."""
    ratios = []
    for run in ("a", "b"):
        shift = repeats(cell, f"log_relative_{run}")
        ratios += [abs(shift.shift.mean)] if shift and shift.p_value < 0.05 else []
    return float(np.exp(max(ratios))) if ratios else NAN


def _recounted(both: pd.DataFrame) -> Any:
    return np.logical_or.reduce([both[f"{name}_a"] != both[f"{name}_b"] for name in COUNTED])


def _prompts(a: Store, b: Store, both: pd.DataFrame, texts: int) -> list[PromptChange]:
    """Yield every sample that differs: first those with another score, then those with other tokens."""
    scored = (both["score_a"] != both["score_b"]) & both[["score_a", "score_b"]].notna().any(axis=1)
    rows = both.assign(scored=scored, worded=both["at"].notna())[scored | both["at"].notna() | both["recounted"]]
    rows = rows.sort_values(["scored", "worded"], ascending=False, kind="stable").drop(columns=["ids_a", "ids_b"])
    keys = list(rows[KEY].itertuples(index=False, name=None))
    answers = [_texts(store, set(keys[:texts])) for store in (a, b)]
    return [PromptChange(
        **dict(zip(KEY, key, strict=True)), at=None if pd.isna(row["at"]) else int(row["at"]),
        scores=(float(row["score_a"]), float(row["score_b"])),
        counts={name: (int(row[f"{name}_a"]), int(row[f"{name}_b"])) for name in COUNTED
                if row[f"{name}_a"] != row[f"{name}_b"]},
        texts=(answers[0][key], answers[1][key]) if key in answers[0] and key in answers[1] else None)
        for key, row in zip(keys, rows.to_dict("records"), strict=True)]


def _texts(store: Store, keys: set[Any]) -> dict[Any, str]:
    """Return the answers of the samples in `keys`; turns are joined by line breaks."""
    if not keys:
        return {}
    return {record.key: "\n".join(turn.text for turn in record.turns) for record in store.records()
            if record.key in keys}


def _unequal(one: Any, two: Any, name: str) -> Iterator[str]:
    """Yield the settings that differ, each with both values."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in {**one, **two}:
            yield from _unequal(one.get(key), two.get(key), f"{name} {key}".strip().replace("_", " "))
    elif one != two:
        yield f"{name} ({'none' if one is None else one} and {'none' if two is None else two})"
