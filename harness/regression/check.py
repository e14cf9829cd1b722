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
from harness.store.schema import Divergence, StrategyEntry, TaskEntry
from harness.store.stored import Stored

NAN = float("nan")
COMPARED = [name for name in COLUMNS if name not in SAMPLE]
FEWEST = 6        # minimum number of examples: with fewer, a sign-flip test cannot be significant
NEAR = 1e-3       # a difference of logits that rounding in float32 can reverse
SCORE = 1e-5      # scores of a committed baseline have six digits
ROUNDING = 1e-9   # tolerance for a difference of two means
Status = Literal["kept", "broken", "unchecked"]


class Finding(Stored):
    """The result of one rule on one cell, with a message for the user.

    `by` is the change in the units of the rule. `p_value` is the probability of a fall at least this large if the
    rule holds (after Holm's correction over all cells of the kind), None for exact rules. If the status is `unchecked`,
    the message is the reason.
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
        return pair_with_baseline(_ok(self.now), _ok(self.was), COMPARED, "_was")


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
    for other, name in ((against, names[1]), *([(confirm, "the run of --confirm")] if confirm else [])):
        if words := difference(run.about, other.about):
            raise UserError(f"{names[0]} cannot be compared with {name}: {words}; check a run with the settings of the "
                            "baseline, or write a new baseline with --write.")
    findings = _findings(run, against, rules, differences)
    if confirm:
        second = {(one.task, one.strategy): one
                  for one in _findings(confirm, against, rules, ()) if one.kind == "speed"}
        findings = [_confirmed(one, second.get((one.task, one.strategy))) for one in findings]
    return Report(run=names[0], against=names[1], findings=findings, notes=_notes(run, against))


def _confirmed(finding: Finding, second: Finding | None) -> Finding:
    """Return a finding with the result of the second run: a broken speed rule is kept unless both runs break it."""
    if finding.kind != "speed" or finding.status != "broken" or second is None or second.status == "unchecked":
        return finding
    if second.status == "broken":
        return finding.model_copy(update={"message": f"{finding.message}; also in the second run: {second.message}"})
    return finding.model_copy(update={"status": "kept",
                                      "message": f"not confirmed by the second run: {finding.message}"})


def _findings(run: Snapshot, against: Snapshot, rules: Sequence[AnyRule], differences: Sequence[Divergence]
              ) -> list[Finding]:
    """Apply every rule to every cell; p-values are corrected within each kind of rule."""
    findings, cells = [], list(_cell_pairs(run, against, differences))
    for kind in KINDS:
        checks = [(cell, done) for cell in cells if (rule := applying(rules, kind, cell.task.spec, cell.strategy.spec))
                  and (done := _apply(rule, cell))]
        p_values = holm([NAN if done.p_value is None else done.p_value for _, done in checks])
        findings += [_finding(kind, cell, done, p_value)
                     for (cell, done), p_value in zip(checks, p_values, strict=True)]
    return findings


def _finding(kind: str, cell: CellPair, done: Check, corrected: float) -> Finding:
    p_value = None if np.isnan(corrected) else corrected
    broken = bool(done.wrong) and (done.level is None or (p_value is not None and p_value < done.level))
    message = done.wrong if p_value is None or not done.wrong else f"{done.wrong}; p = {p_value:.2g} (Holm)"
    return Finding(kind=kind, task=cell.task.spec, strategy=cell.strategy.spec, by=done.by, p_value=p_value,
                   status="unchecked" if done.unchecked else "broken" if broken else "kept",
                   message=done.unchecked or message)


def _cell_pairs(run: Snapshot, against: Snapshot, differences: Sequence[Divergence]) -> Iterator[CellPair]:
    """Yield every cell of the run or the baseline, in the order of the run."""
    tasks = {task.spec: task for task in (*run.about.tasks, *against.about.tasks)}
    strategies = {entry.spec: entry for entry in (*against.about.strategies, *run.about.strategies)}
    order = [entry.spec for entry in run.about.strategies]
    order += [spec for spec in strategies if spec not in order]
    due, base = against.samples_due() | run.samples_due(), run.about.baseline
    for task in tasks.values():
        for spec in order:
            if (task.spec, spec) in due:
                yield CellPair(task, strategies[spec], run.cell(task.spec, spec), against.cell(task.spec, spec),
                           run.cell(task.spec, base), against.cell(task.spec, base), base, due[task.spec, spec],
                           run.about.hardware == against.about.hardware,
                           tuple(d for d in differences if (d.task, d.strategy) == (task.spec, spec)))


def _notes(run: Snapshot, against: Snapshot) -> list[str]:
    """Return notes on strategies and tasks that are missing in the baseline."""
    new = [spec for spec in (entry.spec for entry in run.about.strategies)
           if spec not in {entry.spec for entry in against.about.strategies}]
    tasks = {task.spec for task in run.about.tasks} - {task.spec for task in against.about.tasks}
    return [f"{name} is not in the baseline" for name in (*new, *sorted(tasks))]


def _apply(rule: AnyRule, cell: CellPair) -> Check | None:
    """Apply a rule to a cell; None if the rule does not concern it."""
    if isinstance(rule, Complete):
        return _complete(rule, cell)
    if cell.now.empty:
        return None  # the rule `complete` reports this
    if isinstance(rule, Lossless):
        return _lossless(rule, cell)
    if isinstance(rule, Speed) and rule.worse_by is None:
        return _speed(rule, cell)
    if isinstance(rule, Tau) and rule.bounded:
        return _bounded_tau(rule, cell)
    if cell.was.empty:
        return None
    checks: dict[type[AnyRule], Callable[[Any, CellPair], Check | None]] = {
        Counts: _counts, Tokens: _tokens, Scores: _scores, Quality: _quality, Speed: _speed, Tau: _tau,
        Acceptance: _acceptance, Truncated: _truncated}
    return checks[type(rule)](rule, cell)


def _complete(rule: Complete, cell: CellPair) -> Check:
    if cell.now.empty:
        return Check(f"not run: {cell.strategy.unsupported}" if cell.strategy.unsupported else
                     "in the baseline, but not in the run")
    failed, done = int((cell.now["status"] == "failed").sum()), len(cell.now)
    if done < cell.due:
        return Check(f"the run has {done} of {cell.due} samples; repeat its `run` command to finish it",
                     by=done - cell.due)
    if failed > rule.failed:
        first = cell.now.loc[cell.now["status"] == "failed", "example"].iloc[0]
        return Check(f"{failed} of {done} samples failed, the first on {first}", by=failed)
    return Check(by=0)


def _counts(rule: Counts, cell: CellPair) -> Check:
    pairs = cell.pairs
    different = {name: pairs[pairs[name] != pairs[f"{name}_was"]] for name in rule.counts}
    changed = {name: rows for name, rows in different.items() if len(rows)}
    if not changed:
        return Check(by=0)
    name, rows = next(iter(changed.items()))
    first, now, was = rows.iloc[0], pairs[name].sum(), pairs[f"{name}_was"].sum()
    others = ", ".join(list(changed)[1:])
    return Check(f"{name} {first[name]:.0f} instead of {first[f'{name}_was']:.0f} on {_where(first)}; {len(rows)} of "
                 f"{len(pairs)} samples, {now:,.0f} instead of {was:,.0f} in all"
                 + (f" (also changed: {others})" if others else ""), by=float(now - was))


def _tokens(rule: Tokens, cell: CellPair) -> Check:
    rows = cell.pairs[cell.pairs["hash"] != cell.pairs["hash_was"]]
    return Check(f"different tokens on {_where(rows.iloc[0])}; {len(rows)} of {len(cell.pairs)} samples" if len(rows)
                 else "", by=len(rows))


def _lossless(rule: Lossless, cell: CellPair) -> Check | None:
    if not must_equal(cell.strategy) or cell.strategy.spec == cell.base:
        return None
    pairs = pair_with_baseline(_ok(cell.now), _ok(cell.greedy), COMPARED, "_base")
    margins = {(d.example, d.sample, d.repeat): d for d in cell.differences}
    rows = pairs[pairs["hash"] != pairs["hash_base"]]
    differences = [margins.get((row["example"], row["sample"], row["repeat"])) for _, row in rows.iterrows()]
    wrong = [index for index, d in enumerate(differences) if d is None or d.margin is None or d.margin > rule.tie]
    if not wrong:
        return Check(by=0)
    first = differences[wrong[0]]
    place = "" if first is None else f", turn {first.turn + 1}, token {first.at + 1}"
    gap = "" if first is None else ": one answer ends there" if first.margin is None else \
        f": logits {first.margin:.3g} apart" + (", a tie that rounding decides" if first.margin < NEAR else "")
    return Check(f"tokens differ from those of {cell.base} on {_where(rows.iloc[wrong[0]])}{place}{gap}; "
                 f"{len(wrong)} of {len(pairs)} samples", by=len(wrong))


def _scores(rule: Scores, cell: CellPair) -> Check | None:
    pairs = cell.pairs.dropna(subset=["quality", "quality_was"])
    same = pairs[pairs["hash"] == pairs["hash_was"]]
    rows = same[(same["quality"] - same["quality_was"]).abs() > SCORE]
    if rows.empty:
        return Check(by=0) if len(same) else None
    first = rows.iloc[0]
    return Check(f"{cell.task.headline} {first['quality']:.3g} instead of {first['quality_was']:.3g} for the same "
                 f"tokens on {_where(first)}; {len(rows)} of {len(same)} samples", by=len(rows))


def _quality(rule: Quality, cell: CellPair) -> Check | None:
    pairs = cell.pairs.dropna(subset=["quality", "quality_was"])
    if pairs.empty:
        return None
    gaps = pairs["quality"] - pairs["quality_was"]
    fall, examples = -float(gaps.mean()), pairs["example"].nunique()
    if rule.level and rule.tolerance is None and examples < FEWEST and gaps.any():
        return Check(unchecked=f"{examples} examples are too few for a test of quality; use at least {FEWEST}, or "
                               "a tolerance")
    p_value = _worse(paired_test(gaps, pairs["example"]), fall) if rule.level else None
    if fall <= (rule.tolerance or 0.0) + ROUNDING:
        return Check(by=-fall, p_value=p_value)
    now, was = pairs["quality"].mean(), pairs["quality_was"].mean()
    return Check(f"{cell.task.headline} {now:.3f} instead of {was:.3f} ({-fall:+.3f}); of {len(pairs)} samples "
                 f"{int((gaps < 0).sum())} are worse and {int((gaps > 0).sum())} better",
                 by=-fall, p_value=p_value, level=rule.level)


def _speed(rule: Speed, cell: CellPair) -> Check | None:
    if cell.strategy.spec == cell.base:
        return None
    now, was = (_logs(own, base) for own, base in ((cell.now, cell.greedy), (cell.was, cell.greedy_was)))
    checks = [] if rule.at_least is None else \
        [_slow(rule, now, now, rule.at_least, 0.0, f"the minimum is {rule.at_least:g}")]
    if rule.worse_by is not None:
        if not (cell.same_hardware or rule.other_hardware):
            return Check(unchecked="the baseline was timed on other hardware: write one on this machine, or set "
                                   "other_hardware = true")
        both = now.merge(was, on=SAMPLE, suffixes=("", "_was"))
        both["log"] -= both["log_was"]
        words = f"{np.exp(was['log'].mean()):.2f} before, at most {100 * rule.worse_by:g} % less is allowed"
        checks.append(_slow(rule, now, both, 1.0, rule.worse_by, words))
    return min(checks, key=lambda one: -1.0 if one.p_value is None else one.p_value)


def _slow(rule: Speed, now: pd.DataFrame, logs: pd.DataFrame, due: float, less: float, words: str) -> Check:
    """Test whether the mean ratio, given as `logs`, is below `due` * (1 - `less`); `now` are the log speed-ups."""
    if logs["example"].nunique() < FEWEST:
        return Check(unchecked=f"{logs['example'].nunique()} timed examples are too few for a test of speed; use "
                               f"at least {FEWEST}")
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


def _tau(rule: Tau, cell: CellPair) -> Check | None:
    if rule.allowed is None or cell.was.empty:
        return None
    now, was = (tau_pooled(cell.pairs[f"decode_tokens{end}"].sum(), cell.pairs[f"decode_steps{end}"].sum())
                for end in ("", "_was"))
    return _fallen("tau", now, was, rule.allowed * was)


def _bounded_tau(rule: Tau, cell: CellPair) -> Check | None:
    """Check the bounds of a rule on all samples of a strategy that drafts, then the fall from the baseline's."""
    ok = _ok(cell.now)
    if cell.strategy.family != "speculative" and not ok["drafted"].sum():
        return None
    tau = tau_pooled(ok["decode_tokens"].sum(), ok["decode_steps"].sum())
    for bound, sign, word in ((rule.at_least, 1, "minimum"), (rule.at_most, -1, "maximum")):
        if bound is not None and sign * (bound - tau) > ROUNDING:
            return Check(f"tau {tau:.3f}; the {word} is {bound:g}", by=tau - bound)
    fallen = _tau(rule, cell)
    return fallen or (Check(by=0) if tau == tau else None)


def _acceptance(rule: Acceptance, cell: CellPair) -> Check | None:
    now, was = (_ratio(cell.pairs, "accepted", "drafted", end) for end in ("", "_was"))
    return _fallen("accepted share of drafted tokens", now, was, rule.tolerance)


def _truncated(rule: Truncated, cell: CellPair) -> Check | None:
    if cell.pairs.empty:
        return None
    now, was = (float(cell.pairs[f"truncated{end}"].astype(float).mean()) for end in ("", "_was"))
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
