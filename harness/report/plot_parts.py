"""What all plots share: fonts and lines, empty figures, logarithmic axes and the legend of families."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

INK = "#303132"
FAR = 4  # an interval is drawn up to this many times the highest speed-up: with two problems it has no end
STYLE: Any = {
    "svg.hashsalt": "decodebench", "svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False, "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#8A8A8A", "grid.alpha": 0.25, "axes.titlesize": 11, "axes.titlelocation": "left",
}


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure and its axes of this size in inches; names around them widen the saved figure."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0, 0, 1, 1))


def log_scale(axes: Axes, which: Literal["x", "y"] = "x") -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    axes.set(**{f"{which}scale": "log"})
    axes.tick_params(axis=which, which="both", length=3.5, pad=3.5)
    for axis_format in (axis.set_major_formatter, axis.set_minor_formatter):
        axis_format(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))


def family_legend(axes: Axes, colours: Mapping[str, str], more: Iterable[Artist] = ()) -> None:
    """Name the colour of each family right of the axes, and `more` marks below them."""
    handles = [*(Patch(color=colour, label=family) for family, colour in sorted(colours.items())), *more]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title="family",
                alignment="left")


def name_beside(axes: Axes, names: Sequence[str], ends: Sequence[tuple[float, float]], places: Sequence[float]) -> None:
    """Write each name right of the axes at its place, from 0 at the bottom to 1, with a thin line to its end."""
    leader = {"arrowstyle": "-", "color": INK, "lw": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
    for name, end, place in zip(names, ends, places, strict=True):
        axes.annotate(name, end, (1.05, place), textcoords="axes fraction", fontsize=8, va="center", arrowprops=leader)


def spread(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Return places moved apart to at least `gap` in the same order, down from `top` where they reach it."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.maximum.accumulate(np.array(places)[order] - steps) + steps
    found = np.empty(len(places))
    found[order] = np.minimum(moved, top - steps[::-1])
    return list(map(float, found))
