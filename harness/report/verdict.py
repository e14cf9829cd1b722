"""The verdict of a run in words: what to take, by how much it gains, how sure that is, and how to use it elsewhere."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pandas as pd

from harness import nano
from harness.backends.generate_options import as_text, generate_options
from harness.backends.vllm_options import call
from harness.errors import Unsupported, UserError
from harness.measure.summary import run_labels
from harness.plugins.registry import STRATEGIES
from harness.report.findings import Finding, findings, near
from harness.store.folder import Store
from harness.store.schema import Manifest

K = TypeVar("K")
MOST = 2  # strategies whose commands are printed


def verdicts(stores: Sequence[Store], summaries: Sequence[pd.DataFrame]) -> list[str]:
    """Return the verdict on every run, each sentence with the name of its run if there are several."""
    found = [(label, line) for label, store, summary in zip(run_labels(stores), stores, summaries, strict=True)
             for line in verdict(summary, store.manifest)]
    return [f"{label}: {line}" if len(stores) > 1 else line for label, line in found]


def verdict(summary: pd.DataFrame, manifest: Manifest) -> list[str]:
    """Return the verdict of a run as sentences, each on all tasks that it holds for, then commands for what to take."""
    found = list(findings(summary, manifest))
    told, taken = [one for one in found if not one.few], list[str]()
    lines = [*_few([one for one in found if one.few]), *_speed(told, taken), *_quality(told, taken)]
    return [*lines, *_commands(list(dict.fromkeys(taken)), manifest)]


def _few(found: Sequence[Finding]) -> Iterator[str]:
    for count, group in _grouped(found, lambda one: one.count):
        yield (f"{_tasks(group)}: {count} {'problem is' if count == 1 else 'problems are'} too few to tell methods "
               "apart; 20 or more would.")


def _speed(found: Sequence[Finding], taken: list[str]) -> Iterator[str]:
    """Yield which of the methods that keep the baseline's answers is faster; its spec is added to `taken`."""
    yield from _fastest([(one, one.proven) for one in found], "to keep {}'s answers take", taken)
    yield from _fastest([(one, one.alone) for one in found], "without a draft model take", taken)
    unproven = [one for one in found if len(one.keeping) and not len(one.proven)]
    for (count, hint), group in _grouped(unproven, lambda one: (one.count, _hint(one))):
        yield (f"{_tasks(group)}: no method that keeps {group[0].greedy}'s answers is proven faster on {count} "
               f"problems{hint}.")


def _fastest(proven: Sequence[tuple[Finding, pd.DataFrame]], advice: str, taken: list[str]) -> Iterator[str]:
    """Yield the first of each task's `proven` methods, and which others may be as fast."""
    rows = {one.task: frame for one, frame in proven if len(frame)}
    some = [one for one, frame in proven if len(frame)]
    for (label, others, ties), group in _grouped(some, lambda one: _best(rows[one.task])):
        best = [rows[one.task].iloc[0] for one in group]
        taken.append(str(best[0]["strategy"]))
        figures = [f"{row['speedup']:.2f}{' times as fast' if row is best[0] else ''} "
                   f"[{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]" for row in best]
        as_fast = f"; {_listed(others)} may be as fast" if others else ""
        yield f"{_tasks(group)}: {advice.format(group[0].greedy)} {label}: {_listed(figures)}{as_fast}{ties}."


def _best(proven: pd.DataFrame) -> tuple[str, list[str], str]:
    """Return the label of the first method, those that may be as fast, and a clause on its ties."""
    best = proven.iloc[0]
    ties = f"; {best['parted']} answers differ where two tokens tie" if best["parted"] else ""
    return str(best["label"]), near(proven), ties


def _hint(one: Finding) -> str:
    best = one.keeping.iloc[0]
    return (f"; {best['label']} looks {best['speedup']:.2f} times as fast, which about {one.needed:,} problems would "
            "prove") if one.needed else ""


def _quality(found: Sequence[Finding], taken: list[str]) -> Iterator[str]:
    """Yield which methods give better or worse answers than the baseline; the best ones' specs are added to `taken`."""
    scored = [one for one in found if len(one.scored)]
    for one in scored:
        if len(one.better):
            best, others = one.better.iloc[0], list(one.better["label"].iloc[1:])
            taken.append(str(best["strategy"]))
            yield (f"{one.task}: {best['label']} gives better answers, {best['quality']:.2f} instead of {one.score:.2f}"
                   f", at {best['speedup']:.2f} of {one.greedy}'s speed"
                   f"{f'; so do {_listed(others)}' if others else ''}.")
    for count, group in _grouped([one for one in scored if not len(one.better)], lambda one: one.count):
        unseen = max((one.unseen for one in group if not math.isnan(one.unseen)), default=0.0)
        hidden = f"; {count} problems may hide differences below {unseen:.2f}" if unseen else ""
        scores = ", ".join(f"{one.score:.2f}" for one in group)
        yield f"{_tasks(group)}: no method's answers are proven better than {group[0].greedy}'s ({scores}){hidden}."
    for labels, group in _grouped([one for one in scored if len(one.worse)], lambda one: list(one.worse["label"])):
        figures = zip(*(one.worse["quality"] for one in group), strict=True)
        named = ", ".join(f"{label} ({', '.join(f'{figure:.2f}' for figure in of_label)})"
                          for label, of_label in zip(labels, figures, strict=True))
        yield f"{_tasks(group)}: worse answers: {named}."


def _grouped(found: Sequence[Finding], key: Callable[[Finding], K]) -> Iterator[tuple[K, list[Finding]]]:
    """Yield the findings that have the same key together, in the order of the first of each."""
    groups = list[tuple[K, list[Finding]]]()
    for one in found:
        same = next((group for known, group in groups if known == key(one)), None)
        if same is None:
            groups.append((key(one), [one]))
        else:
            same.append(one)
    yield from groups


def _tasks(group: Sequence[Finding]) -> str:
    return _listed([one.task for one in group])


def _listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
