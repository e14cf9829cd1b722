"""The verdict of a run in words: what to take, by how much it gains, how sure that is, and how to use it elsewhere.

Only what Holm's corrected p-values carry is called faster, better or worse.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from harness import nano
from harness.backends.generate_options import as_text, generate_options
from harness.backends.vllm_options import call
from harness.errors import Unsupported, UserError
from harness.measure.significance import SURE
from harness.measure.summary import run_labels
from harness.plugins.registry import STRATEGIES
from harness.plugins.task_names import task_names
from harness.report.badges import kept, tie
from harness.report.tables import row_labels
from harness.stats.power import clusters_needed
from harness.store.folder import Store
from harness.store.schema import Manifest

FEW = 5          # problems below which nothing is said
LOOKS = 1.05     # speed-ups from which an unproven one is worth more problems
MOST = 2         # strategies whose commands are printed


def verdicts(stores: Sequence[Store], summaries: Sequence[pd.DataFrame]) -> list[str]:
    """Return the verdict on every run, each sentence with the name of its run if there are several."""
    found = [(label, line) for label, store, summary in zip(run_labels(stores), stores, summaries, strict=True)
             for line in verdict(summary, store.manifest)]
    return [f"{label}: {line}" if len(stores) > 1 else line for label, line in found]


def verdict(summary: pd.DataFrame, manifest: Manifest) -> list[str]:
    """Return the verdict on each task of a run as sentences, then the commands for what they advise to take."""
    names, problems = task_names(summary["task"].unique()), {task.spec: task.examples for task in manifest.tasks}
    lines, taken, same = list[str](), list[str](), tie(manifest.model.dtype)
    for task, cells in summary.assign(label=row_labels(summary)).groupby("task", sort=False):
        rows = cells[(cells["samples"] > 0) & (cells["unsupported"] == "")]
        others = rows[rows["strategy"] != manifest.baseline]
        base = rows[rows["strategy"] == manifest.baseline]
        if others.empty or base.empty:
            continue
        count = min(problems[str(task)], int(base["samples"].iloc[0]))  # a run may be unfinished
        name, greedy = names[str(task)], str(base["label"].iloc[0])
        if count < FEW:
            lines.append(f"{name}: {count} {'problem is' if count == 1 else 'problems are'} too few to tell methods "
                         "apart; 20 or more would.")
            continue
        lines += [f"{name}: {text}" for text in (*_speed(others, greedy, count, same, taken),
                                                 *_quality(others, base.iloc[0], greedy, count, taken))]
    return [*lines, *_commands(list(dict.fromkeys(taken)), manifest)]


def _speed(others: pd.DataFrame, greedy: str, count: int, same: float, taken: list[str]) -> Iterator[str]:
    """Yield which of the methods that keep the baseline's answers is faster; its spec is added to `taken`.

    An answer is kept if it differs only where two tokens' logits were at most `same` apart.
    """
    keeping = others[kept(others, same)]
    if keeping.empty:
        return
    keeping = keeping.sort_values("speedup", ascending=False)
    proven = keeping[(keeping["speedup_p_holm"] < SURE) & (keeping["speedup"] > 1)]
    if proven.empty:
        best = keeping.iloc[0]
        hint = ""
        if best["speedup"] >= LOOKS and not math.isnan(best["speedup_findable"]):
            needed = clusters_needed(count, best["speedup_findable"], best["speedup"] - 1)
            hint = (f"; {best['label']} looks {best['speedup']:.2f} times as fast, which about "
                    f"{max(needed, count + 1):,} problems would prove")
        yield f"no method that keeps {greedy}'s answers is proven faster on {count} problems{hint}."
        return
    best = proven.iloc[0]
    taken.append(str(best["strategy"]))
    near = proven.iloc[1:]
    near = near[near["speedup_high"] >= best["speedup_low"]]
    as_fast = f"; {_listed(near['label'].tolist())} may be as fast" if len(near) else ""
    ties = f"; {best['parted']} answers differ where two tokens tie" if best["parted"] else ""
    yield (f"to keep {greedy}'s answers take {best['label']}: {best['speedup']:.2f} times as fast "
           f"[{best['speedup_low']:.2f}, {best['speedup_high']:.2f}]{as_fast}{ties}.")


def _listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _quality(others: pd.DataFrame, base: "pd.Series[Any]", greedy: str, count: int, taken: list[str]
             ) -> Iterator[str]:
    """Yield which methods give better or worse answers than the baseline; the best one's spec is added to `taken`."""
    scored = others.dropna(subset=["quality", "quality_p_holm"])
    if scored.empty:
        return
    before = float(base["quality"])
    differ = scored[scored["quality_p_holm"] < SURE].sort_values("quality", ascending=False)
    better, worse = differ[differ["quality"] > before], differ[differ["quality"] < before]
    if len(better):
        best = better.iloc[0]
        taken.append(str(best["strategy"]))
        also = f"; so do {', '.join(better['label'].iloc[1:])}" if len(better) > 1 else ""
        yield (f"{best['label']} gives better answers, {best['quality']:.2f} instead of {before:.2f}, at "
               f"{best['speedup']:.2f} of {greedy}'s speed{also}.")
    else:
        unseen = scored["quality_findable"].max()
        limit = "" if math.isnan(unseen) else f"; {count} problems may hide differences below {unseen:.2f}"
        yield f"no method's answers are proven better than {greedy}'s ({before:.2f}){limit}."
    if len(worse):
        yield f"worse answers: {', '.join(f'{row.label} ({row.quality:.2f})' for row in worse.itertuples())}."


def _commands(specs: list[str], manifest: Manifest) -> Iterator[str]:
    """Yield how transformers and vLLM decode like these strategies, for the first few."""
    for spec in () if manifest.model.name in nano.NAMES else specs[:MOST]:
        try:
            strategy = STRATEGIES.build(spec)
        except UserError:  # of a run that was imported, or of an older version
            continue
        options = generate_options(strategy)
        if options is not None:
            yield f"{strategy.name} in transformers: {as_text(options)}"
        try:
            native = call(strategy, manifest.draft.name if manifest.draft else None)
        except Unsupported:
            continue
        if native.speculative:
            yield (f"{strategy.name} in vLLM: vllm serve {manifest.model.name} --speculative-config "
                   f"'{json.dumps(dict(native.speculative))}'")
        elif native.sampling and not native.warps:
            yield f"{strategy.name} in vLLM: SamplingParams(" + ", ".join(
                f"{name}={value!r}" for name, value in native.sampling.items()) + ")"
