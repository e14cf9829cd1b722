"""How much of what was drafted a model accepted: every published definition, from the steps themselves.

docs/measuring.md has the table of the names that other tools give to these figures.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.measure.raw import NAN, Cell, Raw
from harness.store.folder import Store
from harness.store.schema import StrategyEntry

DEEPEST = 32  # places of a draft that have columns of their own


def drafts(strategy: StrategyEntry) -> bool:
    """Whether the nodes that a strategy has read are drafts, and not the branches of a search."""
    return strategy.guarantee in ("lossless", "distribution-preserving") or strategy.family == "speculative"


def acceptance_table(store: Store, raw: Raw) -> pd.DataFrame:
    """One row a (task, strategy) cell that drafted something; what is unknown is NaN.

    The first step of an answer reads the prompt and drafts nothing, so it is left out unless a name ends in `_first`.
    A step counts the tokens that were kept of it, after the stop rule; `accepted` counts what the model accepted.
    `drafts` are the steps that drafted. `drafted_mean` and `drafted_max` are the nodes of a draft: the K of a chain,
    the size of a tree.
    """
    rows = []
    for task in store.manifest.tasks:
        for strategy in filter(drafts, store.manifest.strategies):
            cell = raw.cell(task.spec, strategy.spec)
            if (cell.steps["drafted"] > 0).any():
                questions = raw.samples["example"].iloc[cell.turns["sample"]]
                rows.append({"task": task.spec, "strategy": strategy.spec, **_lengths(cell, questions),
                             **_drafts(cell)})
    return pd.DataFrame(rows)


def _lengths(cell: Cell, questions: "pd.Series[Any]") -> dict[str, float]:
    """Tokens a step, pooled in different ways; a question is an example with all its turns, samples and repeats."""
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
    """Figures of the steps that drafted, and of the places of their drafts."""
    steps = cell.steps[(cell.steps["drafted"] > 0) & cell.steps["accepted"].notna()]
    drafted, accepted = (steps[name].to_numpy() for name in ("drafted", "accepted"))
    found = {
        "drafts": len(steps), "drafted": drafted.sum(), "accepted": accepted.sum(),
        "tau_drafts": tau_drafts(accepted.sum(), len(steps)), "draft_accept_rate": accepted.sum() / drafted.sum(),
        "drafted_mean": drafted.mean(), "drafted_max": drafted.max(), "accepted_max": accepted.max(),
    }
    for place in range(1, min(int(drafted.max()), DEEPEST) + 1):
        reached = int((accepted >= place).sum())
        tried = int(((accepted >= place - 1) & (drafted >= place)).sum())
        found[f"accept_pos_uncond_{place}"] = reached / len(steps)
        found[f"accept_pos_cond_{place}"] = ratio(reached, tried)
    return found


def tau_pooled(tokens: float, steps: float) -> float:
    """Tokens a decode step, over all steps together (Spec-Bench's mean accepted tokens); NaN without a step.

    Both count what comes after the first step of each turn, which is the prefill.
    """
    return ratio(tokens, steps)


def tau_drafts(accepted: float, drafts: float) -> float:
    """Tokens a step that drafted, from accepted tokens and the number of drafts: vLLM's mean acceptance length."""
    return 1 + ratio(accepted, drafts)


def ratio(above: float, below: float) -> float:
    """`above` / `below`, NaN when `below` is 0."""
    return float(above / below) if below else NAN


def mean_ratio(above: NDArray[Any], below: NDArray[Any]) -> float:
    """The mean of the ratios of those pairs whose `below` is not 0; NaN without any."""
    some = below > 0
    return float((above[some] / below[some]).mean()) if some.any() else NAN
