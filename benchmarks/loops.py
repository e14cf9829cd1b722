"""Print what keeps a text from running in circles: a table for each run and task, a row for each strategy.

    python -m benchmarks.loops RUN [RUN …]

A text counts as a loop when it ends with words that were repeated directly before (arXiv 1904.09751). `loops` are the
share of such answers, `ended` that of answers that the strategy ended itself, `saved` the tokens that it needs less
than the baseline on average, and `speed-up` compares tokens a second, with a 95 % interval. Texts are the first answers
to each prompt, all turns together.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.readme import interval, share, table
from harness.errors import UserError
from harness.measure.summary import run_labels, summarise
from harness.measure.texts import Answer, answers_of
from harness.report.tables import row_labels
from harness.scoring import variety
from harness.store.folder import Store


def loop_tables(stores: Sequence[Store]) -> str:
    """Return the tables of all tasks of the runs, each below a line that names both."""
    parts = []
    for name, store in zip(run_labels(stores), stores, strict=True):
        summary, cells = summarise(store), first_answers(store)
        for task, rows in summary.groupby("task", sort=False):
            parts += [f"**{name}: {task}**", loop_table(store.manifest.baseline, rows, cells)]
    return "\n\n".join(parts)


def loop_table(baseline: str, summary: pd.DataFrame, cells: dict[tuple[str, str], list[Answer]]) -> str:
    """Return the table of one task, given its rows of the summary and the first answers of each task and strategy."""
    tokens, rows = {row["strategy"]: row["tokens_mean"] for _, row in summary.iterrows()}, []
    for label, (_, row) in zip(row_labels(summary), summary.iterrows(), strict=True):
        answers = cells.get((row["task"], row["strategy"]), [])
        texts = [tuple(" ".join(answer.texts).split()) for answer in answers]
        figures = variety.figures(texts)
        ended = [any(stop == "ended" for stop in answer.stops) for answer in answers]
        rows.append([f"`{label}`", share(figures["loops"]), share(sum(ended) / len(ended) if ended else None),
                     _number(row["tokens_mean"], 0), share(1 - row["tokens_mean"] / tokens[baseline]),
                     interval(row, "quality"), *(_number(figures[f"distinct_{n}"], 2) for n in (1, 2)),
                     interval(row, "speedup")])
    quality = summary["quality_metric"].iloc[0]
    return table(["strategy", "loops", "ended", "tokens", "saved", str(quality), "distinct-1", "distinct-2",
                  "speed-up"], rows)


def first_answers(store: Store) -> dict[tuple[str, str], list[Answer]]:
    """Return the first answer to each prompt, by task and strategy."""
    cells = dict[tuple[str, str], list[Answer]]()
    for (task, _, strategy, sample, repeat), answer in answers_of(store).items():
        if not (sample or repeat):
            cells.setdefault((task, strategy), []).append(answer)
    return cells


def _number(value: Any, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


if __name__ == "__main__":
    try:
        if not sys.argv[1:]:
            raise UserError("Name at least one run folder: python -m benchmarks.loops RUN.")
        print(loop_tables([Store.open(Path(place)) for place in sys.argv[1:]]))
    except UserError as error:
        sys.exit(str(error))
