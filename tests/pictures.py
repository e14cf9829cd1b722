"""Artificial reports for the tests of pictures: runs by batch size, loops, many and long names."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from harness.report import detail
from harness.report.detail import Contents
from harness.report.texts import TEXTS, Section
from harness.store.folder import Store
from tests.runs import manifest, record, strategy, task, turn, write

MANY = {f"prompt_lookup:k={k},ngram={n},temperature=0": (1.1 + k / 20 + n / 9, 0.8 - k / 50)
        for k in (3, 10) for n in (1, 2, 3, 4, 5)}  # speed-up at batch size 1, and its factor at each doubling


def by_batch(folder: Path, speeds: Mapping[str, Mapping[int, float]]) -> list[Store]:
    """Write a run for each batch size, of greedy and of strategies with these speed-ups on two prompts."""
    entries = [strategy("greedy", "baseline"), *(strategy(spec, "speculative") for spec in speeds)]
    described, stores = manifest(entries, [task("math")]), []
    for size in sorted({size for sizes in speeds.values() for size in sizes}):
        times = {"greedy": 0.4} | {spec: 0.4 / sizes[size] for spec, sizes in speeds.items() if size in sizes}
        records = [record("math", example, spec, [turn([4], [seconds * noise])], 1)
                   for example, noise in (("a", 1), ("b", 1.1)) for spec, seconds in times.items()]
        of_size = described.model_copy(update={"config": {"concurrency": size}})
        stores.append(write(folder / f"b{size}", of_size, records))
    return stores


def many(folder: Path) -> list[Store]:
    """Write runs at four batch sizes of ten strategies with long names."""
    return by_batch(folder, {spec: {size: start * factor ** power for power, size in enumerate((1, 2, 4, 32))}
                             for spec, (start, factor) in MANY.items()})


def looping(stores: list[Store], shares: Mapping[str, tuple[float, float]], run: str = "") -> Contents:
    """Return the contents of a report on which strategies have these shares of loops and rep-4 on math."""
    contents, named = detail.collect(stores), f" ({run})" if run else ""
    rows = pd.DataFrame([{"task": "math", "strategy": spec, "label": spec.replace(",temperature=0", "") + named,
                          "loops": share, "rep_4": rep} for spec, (share, rep) in shares.items()])
    return Contents(contents.summaries, contents.summary, [*contents.sections, Section(TEXTS, rows)],
                    contents.verdict)
