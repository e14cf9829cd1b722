"""Acceptance of drafts under every published definition, computed from the decode steps.

docs/measuring.md lists the names of these figures in other tools.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.measure.loops import loop_figures
from harness.measure.raw import NAN, Cell, Raw
from harness.store.folder import Store
from harness.store.schema import StrategyEntry

DEEPEST = 32  # draft positions with a column of their own
SHOWN = 0.005  # difference of two means that two decimals show


def drafts(strategy: StrategyEntry) -> bool:
    """Return whether a strategy's candidate tokens are drafts rather than the branches of a search."""
    return strategy.guarantee in ("lossless", "distribution-preserving") or strategy.family == "speculative"


def acceptance_table(store: Store, raw: Raw) -> pd.DataFrame:
    """Return one row per (task, strategy) cell with drafts; unknown values are NaN.

    The first step of a turn is the prefill without a draft; only columns that end in `_first` include it. The tokens of
    a step are counted after the stop rule, `accepted` before it. `drafts` is the number of steps with a draft.
    `drafted_mean` and `drafted_max` are tokens per draft: the length K of a chain, or the size of a tree. `loops` is
    the share of answers that end in a loop, `tau_unlooped` is over the others.
    """
    rows = []
    for task in store.manifest.tasks:
        for strategy in filter(drafts, store.manifest.strategies):
            cell = raw.cell(task.spec, strategy.spec)
            if (cell.steps["drafted"] > 0).any():
                questions = raw.samples["example"].iloc[cell.turns["sample"]]
                rows.append({"task": task.spec, "strategy": strategy.spec, **_lengths(cell, questions),
                             **loop_figures(cell, raw), **_drafts(cell)})
    return pd.DataFrame(rows)


def _lengths(cell: Cell, questions: "pd.Series[Any]") -> dict[str, float]:
    """Return tokens per step, averaged in several ways; a question is an example with its turns and samples."""
    ones, later = pd.Series(1, index=cell.steps.index), cell.later
    tokens, steps = cell.per_turn(later["tokens"]), cell.per_turn(ones[later.index])
    all_tokens, all_steps = cell.per_turn(cell.steps["tokens"]), cell.per_turn(ones)
    codes = pd.factorize(questions)[0]
    return {
        "questions": len(np.unique(codes)), "turns": len(cell.turns), "steps": steps.sum(),
        "tau_pooled": tau_pooled(tokens.sum(), steps.sum()),
        "tau_turn_mean": mean_ratio(tokens, steps),
        "tau_question_mean": mean_ratio(np.bincount(codes, tokens), np.bincount(codes, steps)),
        "tau_turn_mean_first": mean_ratio(all_tokens, all_steps),
        "tau_question_mean_first": mean_ratio(np.bincount(codes, all_tokens), np.bincount(codes, all_steps)),
        "tau_verify": ratio(all_tokens.sum(), steps.sum()),
    }


def _drafts(cell: Cell) -> dict[str, float]:
    """Return figures of the steps with a draft, in total and per draft position."""
    steps = cell.steps[(cell.steps["drafted"] > 0) & cell.steps["accepted"].notna()]
    drafted, accepted = (steps[name].to_numpy() for name in ("drafted", "accepted"))
    figures = {
        "drafts": len(steps), "drafted": drafted.sum(), "accepted": accepted.sum(),
        "tau_drafts": tau_drafts(accepted.sum(), len(steps)), "draft_accept_rate": accepted.sum() / drafted.sum(),
        "drafted_mean": drafted.mean(), "drafted_max": drafted.max(), "accepted_max": accepted.max(),
    }
    for position in range(1, min(int(drafted.max()), DEEPEST) + 1):
        reached = int((accepted >= position).sum())
        tried = int(((accepted >= position - 1) & (drafted >= position)).sum())
        figures[f"accept_pos_uncond_{position}"] = reached / len(steps)
        figures[f"accept_pos_cond_{position}"] = ratio(reached, tried)
    return figures


def flips(summary: pd.DataFrame) -> list[tuple["pd.Series[Any]", "pd.Series[Any]"]]:
    """Return the pairs of rows of a task and run of which the first has the higher `tau_pooled`, and the second the
    higher `tau_answer_mean`; only strategies that draft are compared.
    """
    found = []
    for _, rows in summary[summary["accept_rate"].notna()].groupby(
            [name for name in ("run", "task") if name in summary], sort=False):
        ordered = [row for _, row in rows.sort_values("tau_pooled", ascending=False, kind="stable").iterrows()]
        found += [(one, other) for one, other in combinations(ordered, 2)
                  if one["tau_pooled"] - other["tau_pooled"] > SHOWN
                  and other["tau_answer_mean"] - one["tau_answer_mean"] > SHOWN]
    return found


def tau_pooled(tokens: float, steps: float) -> float:
    """Return tokens per decode step over all steps (Spec-Bench's mean accepted tokens); NaN without a step.

    Neither count includes the first step of a turn, which is the prefill.
    """
    return ratio(tokens, steps)


def tau_drafts(accepted: float, drafts: float) -> float:
    """Return tokens per step with a draft, vLLM's mean acceptance length."""
    return 1 + ratio(accepted, drafts)


def ratio(numerator: float, denominator: float) -> float:
    """Return `numerator` / `denominator`, NaN if the denominator is 0."""
    return float(numerator / denominator) if denominator else NAN


def mean_ratio(numerators: NDArray[Any], denominators: NDArray[Any]) -> float:
    """Return the mean of ratios over pairs with a positive denominator; NaN without such a pair."""
    some = denominators > 0
    return float((numerators[some] / denominators[some]).mean()) if some.any() else NAN
