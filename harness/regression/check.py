"""Checks a run against a baseline under rules, and reports each broken rule with its cell, size and p-value."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.errors import UserError
from harness.measure.acceptance import tau_pooled
from harness.measure.summary import pair_with_baseline
from harness.regression.rules import (
    KINDS,
    Acceptance,
    AnyRule,
    Complete,
    Counts,
    Lossless,
    Quality,
    Scores,
    Speed,
    Tau,
    Tokens,
    Truncated,
    applying,
)
from harness.regression.snapshot import COLUMNS, SAMPLE, Snapshot, difference
from harness.run.divergence import must_equal
from harness.stats.bootstrap import ratio_interval
from harness.stats.multiple import holm
from harness.stats.paired import paired_test, sign_flip
from harness.store.schema import Divergence, Stored, StrategyEntry, TaskEntry

NAN = float("nan")
WANTED = [name for name in COLUMNS if name not in SAMPLE]
FEWEST = 6        # examples below which no p-value of signs is small
NEAR = 1e-3       # logits that are no further apart may swap places in float32
SCORE = 1e-5      # scores of a committed baseline have six digits
ROUNDING = 1e-9   # of a difference of two means
Status = Literal["kept", "broken", "unchecked"]


class Finding(Stored):
    """The result of one rule on one cell, with a message in words.

    `by` is the change in the units of the rule. `p_value` is the probability of a fall at least this large if the rule
    is kept (Holm's correction over all cells of the kind), None for exact rules. If the status is `unchecked`, the
    message is the reason.
    """

    kind: str
    task: str
    strategy: str
    status: Status
    message: str = ""
    by: float | None = None
    p_value: float | None = None


class Report(Stored):
    """The results of all rules on all cells of a run, and notes on what they do not cover."""

    run: str
    against: str
    findings: list[Finding]
    notes: list[str]

    @property
    def broken(self) -> list[Finding]:
        """Return the results of broken rules."""
        return [finding for finding in self.findings if finding.status == "broken"]


@dataclass(frozen=True)
class CellPair:
    """A cell of the run (`now`) and the same cell of the baseline file (`was`).

    `greedy` and `greedy_was` are the same for the run's own baseline strategy, `base`, on the same task.
    """

    task: TaskEntry
    strategy: StrategyEntry
    now: pd.DataFrame
    was: pd.DataFrame
    greedy: pd.DataFrame
    greedy_was: pd.DataFrame
    base: str
    due: int
    same_hardware: bool
    differences: tuple[Divergence, ...] = ()

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Return the samples that succeeded in both; the baseline file's columns end in `_was`."""
        return pair_with_baseline(_ok(self.now), _ok(self.was), WANTED, "_was")


@dataclass(frozen=True)
class Check:
    """The comparison of one rule on one cell: `wrong` describes a violation if there is one; `by` is its size."""

    wrong: str = ""
    by: float | None = None
    p_value: float | None = None
    level: float | None = None
    unchecked: str = ""


def check(run: Snapshot, against: Snapshot, rules: Sequence[AnyRule], names: tuple[str, str],
          differences: Sequence[Divergence] = (), confirm: Snapshot | None = None) -> Report:
    """Compare `run` with the baseline `against` under `rules`; the report calls the two by `names`.

    `differences` lists first differences from the baseline strategy's answers. A broken speed rule counts only if
    `confirm`, a repetition of the run, breaks it too. Raises `UserError` when the runs cannot be compared.
    """
    for other, name in ((against, names[1]), *([(confirm, "the run that confirms")] if confirm else [])):
        if words := difference(run.about, other.about):
            raise UserError(f"{names[0]} cannot be held against {name}: {words}; check the run that the baseline was "
                            "made for, or make a new baseline with --write.")
    findings = _findings(run, against, rules, differences)
    if confirm:
        again = {(one.task, one.strategy): one for one in _findings(confirm, against, rules, ()) if one.kind == "speed"}
        findings = [_confirmed(one, again.get((one.task, one.strategy))) for one in findings]
    return Report(run=names[0], against=names[1], findings=findings, notes=_notes(run, against))


def _confirmed(one: Finding, again: Finding | None) -> Finding:
    if one.kind != "speed" or one.status != "broken" or again is None or again.status == "unchecked":
        return one
    if again.status == "broken":
        return one.model_copy(update={"message": f"{one.message}; again in the second run: {again.message}"})
    return one.model_copy(update={"status": "kept", "message": f"not confirmed by the second run: {one.message}"})


def _findings(run: Snapshot, against: Snapshot, rules: Sequence[AnyRule], differences: Sequence[Divergence]
              ) -> list[Finding]:
    """Apply every rule to every cell; p-values are corrected within each kind of rule."""
    findings, cases = [], list(_cell_pairs(run, against, differences))
    for kind in KINDS:
        found = [(case, one) for case in cases
                 if (rule := applying(rules, kind, case.task.spec, case.strategy.spec)) and (one := _apply(rule, case))]
        values = holm([NAN if one.p_value is None else one.p_value for _, one in found])
        findings += [_finding(kind, case, one, value) for (case, one), value in zip(found, values, strict=True)]
    return findings


def _finding(kind: str, case: CellPair, found: Check, p_value: float) -> Finding:
    sure = None if np.isnan(p_value) else p_value
    wrong = bool(found.wrong) and (found.level is None or (sure is not None and sure < found.level))
    message = found.wrong if sure is None or not found.wrong else f"{found.wrong}; p = {sure:.2g}"
    return Finding(kind=kind, task=case.task.spec, strategy=case.strategy.spec, by=found.by, p_value=sure,
                   status="unchecked" if found.unchecked else "broken" if wrong else "kept",
                   message=found.unchecked or message)


def _cell_pairs(run: Snapshot, against: Snapshot, differences: Sequence[Divergence]) -> Iterator[CellPair]:
    """Yield every cell of the run or the baseline, in the order of the run."""
    tasks = {task.spec: task for task in (*run.about.tasks, *against.about.tasks)}
    strategies = {entry.spec: entry for entry in (*against.about.strategies, *run.about.strategies)}
    order = [entry.spec for entry in run.about.strategies]
    order += [spec for spec in strategies if spec not in order]
    due, base = run.samples_due() | against.samples_due(), run.about.baseline
    for task in tasks.values():
        for spec in order:
            if (task.spec, spec) in due:
                yield CellPair(task, strategies[spec], run.cell(task.spec, spec), against.cell(task.spec, spec),
                           run.cell(task.spec, base), against.cell(task.spec, base), base, due[task.spec, spec],
                           run.about.hardware == against.about.hardware,
                           tuple(d for d in differences if (d.task, d.strategy) == (task.spec, spec)))


def _notes(run: Snapshot, against: Snapshot) -> list[str]:
    """Return notes on cells that only the run has, and on limits of the comparison."""
    new = [spec for spec in (entry.spec for entry in run.about.strategies)
           if spec not in {entry.spec for entry in against.about.strategies}]
    tasks = {task.spec for task in run.about.tasks} - {task.spec for task in against.about.tasks}
    return [f"{name} is not in the baseline" for name in (*new, *sorted(tasks))]


def _apply(rule: AnyRule, case: CellPair) -> Check | None:
    """Apply a rule to a cell; None if the rule does not concern it."""
    if isinstance(rule, Complete):
        return _complete(rule, case)
    if case.now.empty:
        return None  # the rule `complete` reports this
    if isinstance(rule, Lossless):
        return _lossless(rule, case)
    if isinstance(rule, Speed) and rule.worse_by is None:
        return _speed(rule, case)
    if case.was.empty:
        return None
    judge: dict[type[AnyRule], Callable[[Any, CellPair], Check | None]] = {
        Counts: _counts, Tokens: _tokens, Scores: _scores, Quality: _quality, Speed: _speed, Tau: _tau,
        Acceptance: _acceptance, Truncated: _truncated}
    return judge[type(rule)](rule, case)


def _complete(rule: Complete, case: CellPair) -> Check:
    if case.now.empty:
        return Check(f"not run: {case.strategy.unsupported}" if case.strategy.unsupported else
                     "in the baseline, but not in the run")
    failed, done = int((case.now["status"] == "failed").sum()), len(case.now)
    if done < case.due:
        return Check(f"{done} of {case.due} samples are there; run the same command again to finish it",
                     by=done - case.due)
    if failed > rule.failed:
        first = case.now.loc[case.now["status"] == "failed", "example"].iloc[0]
        return Check(f"{failed} of {done} samples failed, the first on {first}", by=failed)
    return Check(by=0)


def _counts(rule: Counts, case: CellPair) -> Check:
    pairs = case.pairs
    other = {name: pairs[pairs[name] != pairs[f"{name}_was"]] for name in rule.counts}
    changed = {name: rows for name, rows in other.items() if len(rows)}
    if not changed:
        return Check(by=0)
    name, rows = next(iter(changed.items()))
    first, now, was = rows.iloc[0], pairs[name].sum(), pairs[f"{name}_was"].sum()
    more = "".join(f", {each}" for each in list(changed)[1:])
    return Check(f"{name} {first[name]:.0f} instead of {first[f'{name}_was']:.0f} on {_where(first)}; {len(rows)} of "
                 f"{len(pairs)} samples, {now:,.0f} instead of {was:,.0f} in all"
                 + (f" (also other: {more[2:]})" if more else ""), by=float(now - was))


def _tokens(rule: Tokens, case: CellPair) -> Check:
    rows = case.pairs[case.pairs["hash"] != case.pairs["hash_was"]]
    return Check(f"other tokens on {_where(rows.iloc[0])}; {len(rows)} of {len(case.pairs)} samples" if len(rows)
                 else "", by=len(rows))


def _lossless(rule: Lossless, case: CellPair) -> Check | None:
    if not must_equal(case.strategy) or case.strategy.spec == case.base:
        return None
    pairs = pair_with_baseline(_ok(case.now), _ok(case.greedy), WANTED, "_base")
    margins = {(d.example, d.sample, d.repeat): d for d in case.differences}
    rows = pairs[pairs["hash"] != pairs["hash_base"]]
    found = [margins.get((row["example"], row["sample"], row["repeat"])) for _, row in rows.iterrows()]
    wrong = [place for place, one in enumerate(found) if one is None or one.margin is None or one.margin > rule.tie]
    if not wrong:
        return Check(by=0)
    one = found[wrong[0]]
    place = "" if one is None else f", turn {one.turn + 1}, token {one.at + 1}"
    gap = "" if one is None else ": one answer ends there" if one.margin is None else \
        f": logits {one.margin:.2g} apart" + (", a tie that rounding decides" if one.margin < NEAR else "")
    return Check(f"parts from the tokens of {case.base} on {_where(rows.iloc[wrong[0]])}{place}{gap}; "
                 f"{len(wrong)} of {len(pairs)} samples", by=len(wrong))


def _scores(rule: Scores, case: CellPair) -> Check | None:
    pairs = case.pairs.dropna(subset=["quality", "quality_was"])
    same = pairs[pairs["hash"] == pairs["hash_was"]]
    rows = same[(same["quality"] - same["quality_was"]).abs() > SCORE]
    if rows.empty:
        return Check(by=0) if len(same) else None
    first = rows.iloc[0]
    return Check(f"{case.task.headline} {first['quality']:.3g} instead of {first['quality_was']:.3g} for the same "
                 f"tokens on {_where(first)}; {len(rows)} of {len(same)} samples", by=len(rows))


def _quality(rule: Quality, case: CellPair) -> Check | None:
    pairs = case.pairs.dropna(subset=["quality", "quality_was"])
    if pairs.empty:
        return None
    gaps = pairs["quality"] - pairs["quality_was"]
    fall, examples = -float(gaps.mean()), pairs["example"].nunique()
    if rule.level and rule.tolerance is None and examples < FEWEST and gaps.any():
        return Check(unchecked=f"{examples} examples are too few for a statement about quality; {FEWEST} are needed, "
                               "or a tolerance")
    p_value = _worse(paired_test(gaps, pairs["example"]), fall) if rule.level else None
    if fall <= (rule.tolerance or 0.0) + ROUNDING:
        return Check(by=-fall, p_value=p_value)
    now, was = pairs["quality"].mean(), pairs["quality_was"].mean()
    return Check(f"{case.task.headline} {now:.3f} instead of {was:.3f} ({-fall:+.3f}); of {len(pairs)} samples "
                 f"{int((gaps < 0).sum())} are worse and {int((gaps > 0).sum())} better",
                 by=-fall, p_value=p_value, level=rule.level)


def _speed(rule: Speed, case: CellPair) -> Check | None:
    if case.strategy.spec == case.base:
        return None
    now, was = (_logs(own, base) for own, base in ((case.now, case.greedy), (case.was, case.greedy_was)))
    asked = [] if rule.at_least is None else [_slow(rule, now, now, rule.at_least, 0.0, f"{rule.at_least:g} is asked")]
    if rule.worse_by is not None:
        if not (case.same_hardware or rule.other_hardware):
            return Check(unchecked="the baseline was timed on other hardware; make one here, or allow it with "
                                   "other_hardware = true")
        both = now.merge(was, on=SAMPLE, suffixes=("", "_was"))
        both["log"] -= both["log_was"]
        words = f"{np.exp(was['log'].mean()):.2f} before, {100 * rule.worse_by:g} % less is allowed"
        asked.append(_slow(rule, now, both, 1.0, rule.worse_by, words))
    return min(asked, key=lambda one: -1.0 if one.p_value is None else one.p_value)


def _slow(rule: Speed, now: pd.DataFrame, logs: pd.DataFrame, due: float, less: float, words: str) -> Check:
    """Test whether the mean ratio, given as `logs`, is below `due` * (1 - `less`); `now` are the log speed-ups."""
    if logs["example"].nunique() < FEWEST:
        return Check(unchecked=f"{logs['example'].nunique()} timed examples are too few for a statement about speed; "
                               f"{FEWEST} are needed")
    least = float(np.log(due) + np.log1p(-less))
    fall, change = least - float(logs["log"].mean()), float(np.exp(logs["log"].mean()) / due - 1)
    p_value = _worse(sign_flip(logs["log"] - least, logs["example"]), fall)
    ratio = ratio_interval(now["log"], now["example"])
    text = f"speed-up {ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] ({100 * change:+.1f} %); {words}"
    return Check(text if fall > 0 else "", by=change, p_value=p_value, level=rule.level)


def _logs(own: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Return the log speed-up of each sample over the baseline strategy."""
    pairs = pair_with_baseline(_ok(own), _ok(base), ["tokens", "seconds"], "_base")
    numbers = pairs[["tokens", "seconds", "tokens_base", "seconds_base"]].astype(float)
    timed = pairs[(numbers > 0).all(axis=1)]
    logs = np.log(numbers.loc[timed.index])
    return timed[SAMPLE].assign(log=logs["tokens"] - logs["seconds"] - logs["tokens_base"] + logs["seconds_base"])


def _tau(rule: Tau, case: CellPair) -> Check | None:
    now, was = (tau_pooled(case.pairs[f"decode_tokens{end}"].sum(), case.pairs[f"decode_steps{end}"].sum())
                for end in ("", "_was"))
    return _fallen("tau", now, was, rule.tolerance * was)


def _acceptance(rule: Acceptance, case: CellPair) -> Check | None:
    now, was = (_ratio(case.pairs, "accepted", "drafted", end) for end in ("", "_was"))
    return _fallen("accepted share of drafted tokens", now, was, rule.tolerance)


def _truncated(rule: Truncated, case: CellPair) -> Check | None:
    if case.pairs.empty:
        return None
    now, was = (float(case.pairs[f"truncated{end}"].astype(float).mean()) for end in ("", "_was"))
    risen = now - was > rule.tolerance + ROUNDING
    return Check(f"{100 * now:.0f} % of the answers are truncated instead of {100 * was:.0f} %" if risen else "",
                 by=now - was)


def _fallen(name: str, now: float, was: float, allowed: float) -> Check | None:
    if now != now or was != was:
        return None
    fallen = was - now > allowed + ROUNDING
    return Check(f"{name} {now:.3f} instead of {was:.3f} ({now - was:+.3f})" if fallen else "", by=now - was)


def _worse(two_sided: float, fall: float) -> float:
    """Return the one-sided p-value of a fall, given the p-value of a symmetric two-sided test."""
    return two_sided / 2 if fall > 0 else 1 - two_sided / 2 if fall < 0 else 1.0


def _ratio(pairs: pd.DataFrame, above: str, below: str, end: str) -> float:
    total = float(pairs[f"{below}{end}"].sum())
    return float(pairs[f"{above}{end}"].sum()) / total if total else NAN


def _ok(cell: pd.DataFrame) -> pd.DataFrame:
    return cell[cell["status"] == "ok"]


def _where(row: "pd.Series[Any]") -> str:
    """Name a sample in words: its example, and its sample and repeat number if not the first."""
    more = [f"{name} {row[name] + 1}" for name in ("sample", "repeat") if row[name]]
    return ", ".join([str(row["example"]), *more])
