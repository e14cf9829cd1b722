"""Plots of a task's samples: the speed-up of each prompt, and the acceptance of drafts by position."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from harness.report.plot_parts import INK, STYLE, log_scale, name_beside, new_axes, spread

DOTS = 400  # prompts of a strategy
LINE_HEIGHT = 0.18  # inches between names


def prompts(title: str, cells: Sequence[Mapping[str, Any]], all_cells: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Plot the speed-up of each prompt, a line of dots per strategy with the median; None if nothing is known.

    `cells` are those of one task, and `all_cells` of all tasks, in the index of a page.
    """
    rows = [(cell, found) for cell in cells if (found := speed_ups(cell, all_cells))]
    if not rows:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5, 0.3 * max(3, len(rows)))
        axes.set_title(f"{title}: speed-up of each prompt")
        axes.set_xlabel("tokens per second over the baseline's (log scale)")
        log_scale(axes)
        for height, (cell, found) in enumerate(rows[::-1]):
            axes.plot(found[:DOTS], np.full(len(found[:DOTS]), height), "o", color=cell["colour"], markersize=4,
                      alpha=0.5, markeredgewidth=0)
            axes.plot([np.median(found)] * 2, [height - 0.35, height + 0.35], color=INK, linewidth=1.5)
        axes.set_yticks(range(len(rows)), [cell["label"] for cell, _ in rows[::-1]])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.grid(False, axis="y")
        return figure


def positions(title: str, cells: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Plot the share of drafts of at least k tokens whose first k were accepted, a line per strategy; None without."""
    lines = [(cell, [accepted / drafts for drafts, accepted in cell["positions"]]) for cell in cells
             if cell["positions"]]
    if not lines:
        return None
    with matplotlib.rc_context(STYLE):
        height = max(3.0, LINE_HEIGHT * len(lines))
        figure, axes = new_axes(5, height)
        axes.set_title(f"{title}: acceptance by position")
        axes.set_xlabel("tokens of a draft, k")
        axes.set_ylabel("drafts whose first k were accepted")
        for cell, shares in lines:
            axes.plot(range(1, len(shares) + 1), shares, "o-", color=cell["colour"], markersize=4)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        places = spread([shares[-1] / 1.03 for _, shares in lines], LINE_HEIGHT / height, 1)
        name_beside(axes, [cell["label"] for cell, _ in lines], [(len(shares), shares[-1]) for _, shares in lines],
                    places)
        return figure


def speed_ups(cell: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the ratio of each sample's tokens per second to the baseline's for the same prompt, where both are known.
    """
    base = None if cell["baseline"] is None else cells[cell["baseline"]]
    if base is None or base is cell:
        return []
    known = {key: rate for key, rate in _rates(base) if rate}
    pairs = [(rate, known.get((example, repeat, sample)) or known.get((example, repeat, 0)))
             for (example, repeat, sample), rate in _rates(cell)]
    return [rate / other for rate, other in pairs if rate and other]


def _rates(cell: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int, int], float | None]]:
    """Yield (example, repeat, sample) and tokens per second of each sample."""
    rows, count = cell["rows"], len(cell["rows"]["examples"])
    repeats, samples = (rows.get(name, [0] * count) for name in ("repeat", "sample"))
    yield from zip(zip(rows["examples"], repeats, samples, strict=True), rows["rates"], strict=True)
