"""The plot of speed-up by batch size, with the batch size at which a strategy is as fast as the baseline."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from harness.report.families import look
from harness.report.pictured import Line
from harness.report.plot_parts import FAR, INK, STYLE, log_scale, name_beside, new_axes, spread

NARROW = 4  # highest over lowest speed-up: below it, 1, 2 and 5 are too few numbers on the axis
LINE_HEIGHT = 0.18  # inches between names


def batches(title: str, lines: Sequence[Line]) -> Figure:
    """Plot speed-up against batch size, a named line per strategy with 95 % intervals and a ring where it crosses 1."""
    with matplotlib.rc_context(STYLE):
        height = max(3.4, LINE_HEIGHT * len(lines))
        figure, axes = new_axes(5, height)
        axes.set_title(f"{title}: speed-up by batch size")
        axes.set_xlabel("batch size (log scale)")
        axes.set_ylabel("speed-up (log scale)")
        _scales(axes, lines)
        for line in lines:
            sizes, speeds, lows, highs = np.array(line.points, dtype=float).T
            colour = look(line.family).colour
            axes.plot(sizes, speeds, "o-", color=colour, markersize=5)
            axes.vlines(sizes, lows, highs, color=colour, linewidth=1, alpha=0.45)
            axes.plot(line.crossing, 1, "o", color="white", markeredgecolor=colour, markersize=8, zorder=3)
        axes.axhline(1, color=INK, linewidth=1)
        handles = [Patch(color=look(family).colour, label=family) for family in sorted({line.family for line in lines})]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.5 / height), ncols=4, frameon=False)
        _label(axes, lines, LINE_HEIGHT / height)
        return figure


def _scales(axes: Axes, lines: Sequence[Line]) -> None:
    """Make both axes logarithmic, to the ends of the intervals, and number the batch sizes where there is room."""
    speeds = [speed for line in lines for _, speed, _, _ in line.points]
    ends = [min(max(end, min(speeds) / FAR), max(speeds) * FAR) for line in lines for point in line.points
            for end in point[1:] if not math.isnan(end)]
    low, high = min(0.9, *ends) / 1.05, max(1.1, *ends) * 1.05
    log_scale(axes, "y")
    axes.set_ylim(low, high)
    if high / low < NARROW:
        axes.yaxis.set_major_locator(FixedLocator(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xscale("log", base=2)
    sizes = sorted({size for line in lines for size, *_ in line.points})
    room, numbered = math.log2(sizes[-1] / sizes[0]) / 16, sizes[:1]
    for size in sizes:
        if math.log2(size / numbered[-1]) >= room:
            numbered.append(size)
    axes.set_xticks(numbered, list(map(str, numbered)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.03)


def _label(axes: Axes, lines: Sequence[Line], gap: float) -> None:
    """Write the name of each line right of the axes, beside its end, with the batch size at which it crosses 1."""
    low, high = map(math.log, axes.get_ylim())
    ends = [(math.log(line.points[-1][1]) - low) / (high - low) for line in lines]
    crossings = ["" if math.isnan(line.crossing) else f" (even at {line.crossing:.1f})" for line in lines]
    name_beside(axes, [line.label + crossing for line, crossing in zip(lines, crossings, strict=True)],
                [line.points[-1][:2] for line in lines], spread(ends, gap, 1))
