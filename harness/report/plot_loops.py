"""The plot of loops: which share of a strategy's texts ends in one, and how often their 4-grams repeat."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from harness.measure.texts import REFERENCE
from harness.report.families import look
from harness.report.pictured import Bar
from harness.report.plot_parts import INK, STYLE, family_legend, new_axes

GREY = "#8A8A8A"  # of the references


def loops(title: str, bars: Sequence[Bar]) -> Figure:
    """Plot the share of texts that end in a loop as bars, most on top, and rep-4 as a mark on each."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5, 0.3 * max(3, len(bars)))
        axes.set_title(f"{title}: loops")
        axes.set_xlabel("texts that end in a loop")
        shown = {bar.family: GREY if bar.family == REFERENCE else look(bar.family).colour for bar in bars}
        heights = range(len(bars))[::-1]
        axes.barh(heights, [bar.loops for bar in bars], height=0.62, color=[shown[bar.family] for bar in bars])
        axes.plot([bar.rep_4 for bar in bars], heights, "D", color="white", markeredgecolor=INK, markersize=5,
                  clip_on=False, zorder=3)
        for height, bar in zip(heights, bars, strict=True):
            end = bar.loops if math.isnan(bar.rep_4) else max(bar.loops, bar.rep_4)
            axes.annotate(f"{100 * bar.loops:.0f} %", (end, height), (7, 0), textcoords="offset points", va="center")
        axes.set_yticks(heights, [bar.label for bar in bars])
        axes.grid(False, axis="y")
        axes.margins(x=0.1)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        mark = Line2D([], [], marker="D", color="white", markeredgecolor=INK, markersize=5, label="rep-4")
        family_legend(axes, shown, [mark])
        return figure
