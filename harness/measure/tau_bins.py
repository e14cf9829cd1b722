"""Tokens per step by the length of the context and by the entropy of the target's distribution."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.measure.acceptance import drafts, tau_pooled
from harness.measure.raw import NAN, Cell, Raw
from harness.store.folder import Store
from harness.store.schema import Key

CONTEXTS = tuple(128 << power for power in range(10))  # upper ends of the bins in tokens, before the open one
ENTROPIES = (0.25, 0.5, 1.0, 2.0)  # the same in nats

Bins = NDArray[np.int64]


def tau_bins(store: Store, raw: Raw) -> pd.DataFrame:
    """Return one row per (task, strategy) cell with drafts: tokens per step, and steps, in each bin with a step.

    `tau_context_N` is over the steps whose context, that is prompt and answer so far, has up to N tokens and more than
    the bin before. `tau_entropy_E` is over the answers whose mean entropy before a token, by the text metrics of the
    run, is up to E nats; it is unknown without text metrics. The last bins, `_more`, are open.
    """
    texts = store.text_metrics()
    entropies = {one.key: one.entropy for one in texts.scores if one.entropy is not None} if texts else {}
    rows = []
    for task in store.manifest.tasks:
        for strategy in filter(drafts, store.manifest.strategies):
            cell = raw.cell(task.spec, strategy.spec)
            if (cell.steps["drafted"] > 0).any():
                rows.append({"task": task.spec, "strategy": strategy.spec,
                             **_figures(cell, _contexts(cell), names("context", CONTEXTS)),
                             **_figures(cell, _entropies(cell, raw, entropies), names("entropy", ENTROPIES))})
    return pd.DataFrame(rows)


def names(what: str, ends: Sequence[float]) -> list[str]:
    """Return the names of the bins with these upper ends and of the open one."""
    return [*(f"{what}_{end:g}" for end in ends), f"{what}_more"]


def _figures(cell: Cell, bins: Bins, named: Sequence[str]) -> dict[str, float]:
    """Return tau and steps of each bin that has a step after the first; bin -1 is unknown."""
    tokens, figures = cell.later["tokens"].to_numpy(), dict[str, float]()
    for place, name in enumerate(named):
        if steps := int((inside := bins == place).sum()):
            figures |= {f"tau_{name}": tau_pooled(float(tokens[inside].sum()), steps), f"steps_{name}": steps}
    return figures


def _contexts(cell: Cell) -> Bins:
    """Return the bin of each step after the first by the tokens of the prompt and of the steps before it."""
    steps = cell.steps
    before = steps["tokens"].groupby(steps["turn"]).cumsum() - steps["tokens"]
    prompts = cell.turns["prompt_tokens"].to_numpy()[steps["turn"].to_numpy()]
    context = (before.to_numpy() + prompts)[(steps["place"] > 0).to_numpy()]
    bins: Bins = np.searchsorted(CONTEXTS, context)
    return bins


def _entropies(cell: Cell, raw: Raw, entropies: Mapping[Key, float]) -> Bins:
    """Return the bin of each step after the first by the mean entropy of its answer."""
    keys = raw.samples[["task", "example", "strategy", "sample", "repeat"]].iloc[cell.turns["sample"]]
    means = np.array([entropies.get((str(task), str(example), str(strategy), int(sample), int(repeat)), NAN)
                      for task, example, strategy, sample, repeat in keys.itertuples(index=False)])
    of_step = means[cell.later["turn"].to_numpy()]
    bins: Bins = np.where(np.isnan(of_step), -1, np.searchsorted(ENTROPIES, of_step))
    return bins
