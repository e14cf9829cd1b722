"""What all plots share: fonts and lines, empty figures, logarithmic axes and the legend of families."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

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
