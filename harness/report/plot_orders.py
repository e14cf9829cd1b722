"""The plot of an answer with masks: which forward filled which place, for each strategy."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.plot_parts import STYLE, new_axes

COLUMNS, HEIGHT = 2, 1.9  # panels in a row, and inches of one with its title


def orders(title: str, cells: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Plot the first answer of each strategy, a dot for each token: its place, and the forward that filled it.

    All panels have the same scale, so that fewer forwards are a lower panel. None if no strategy fills masks.
    """
    found = [(cell["label"], cell["colour"], cell["order"]) for cell in cells if cell["order"]]
    if not found:
        return None
    with matplotlib.rc_context(STYLE):
        figure, frame = new_axes(7, HEIGHT * -(-len(found) // COLUMNS))
        frame.set_axis_off()
        frame.set_title(f"{title}: order of decoding, {found[0][2]['example']}", pad=22)
        wide, high = max(len(one["filled"]) for *_, one in found), max(max(one["filled"]) for *_, one in found)
        rows = -(-len(found) // COLUMNS)
        for number, (label, colour, one) in enumerate(found):
            row, column = divmod(number, COLUMNS)
            box = (column / COLUMNS + 0.02 * column, 1 - (row + 0.72) / rows, 0.46, 0.56 / rows)
            axes = figure.add_axes(box)
            axes.set_title(f"{label}: {len(one['filled'])} tokens, {max(one['filled'])} forwards", fontsize=8)
            axes.plot(range(1, 1 + len(one["filled"])), one["filled"], "s", color=colour, markersize=3)
            axes.set(xlim=(0, wide + 1), ylim=(0, high + 1))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, integer=True))
            if not column:
                axes.set_ylabel("forward")
            if row == rows - 1 or number + COLUMNS >= len(found):
                axes.set_xlabel("place in the answer")
        return figure
