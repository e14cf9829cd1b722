"""Plots of a task as files: quality against speed, and speed-ups with their intervals; others are in plot_*.py."""

import io
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from harness.plugins.task_names import task_names
from harness.report import pictured
from harness.report.detail import Contents
from harness.report.families import look
from harness.report.plot_batches import batches
from harness.report.plot_loops import loops
from harness.report.plot_orders import orders
from harness.report.plot_parts import FAR, INK, STYLE, family_legend, log_scale, new_axes
from harness.report.plot_samples import positions, prompts
from harness.report.tables import row_labels

DPI = 150
UNDATED = {"svg": ("Date", "Creator"), "png": ("Software",), "pdf": ("CreationDate", "Creator", "Producer")}


def front(x: pd.Series, y: pd.Series) -> list[int]:
    """Return the indices of the points on the Pareto front (no other point is better in both), by rising x."""
    order = sorted(range(len(x)), key=lambda i: (-x.iloc[i], -y.iloc[i]))
    best, kept = -np.inf, []
    for i in order:
        if y.iloc[i] > best:
            best = y.iloc[i]
            kept.append(i)
    return kept[::-1]


def of_tables(contents: Contents, task: str) -> dict[str, Figure]:
    """Return the figures of a task by kind that its tables tell.

    `speedup` always, `pareto` if it has a quality, `batch` if runs differ in batch size, `loops` if a strategy loops.
    """
    summary = contents.summary
    scored = bool(summary.loc[summary["task"] == task, "quality"].notna().any())
    found = {**({"pareto": pareto(summary, task)} if scored else {}), "speedup": speedups(summary, task)}
    name = _name(summary, task)
    if lines := pictured.lines(contents, task):
        found["batch"] = batches(name, lines)
    if bars := pictured.bars(contents, task):
        found["loops"] = loops(name, bars)
    return found


def of_samples(contents: Contents, task: str, index: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures of a task by kind that the `index` of a page tells.

    `prompts` if speed-ups of single prompts are known, `positions` if a strategy drafts, `order` if one fills masks.
    """
    name = _name(contents.summary, task)
    cells = [cell for cell in index["cells"] if cell["task"] == name]
    found = {"prompts": prompts(name, cells, index["cells"]), "positions": positions(name, cells),
             "order": orders(name, cells)}
    return {kind: figure for kind, figure in found.items() if figure}


def pareto(summary: pd.DataFrame, task: str) -> Figure:
    """Plot quality against speed-up of a task: a labelled point per strategy, 95 % intervals, the Pareto front."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.2, 3.9)
        rows = _rows(summary, task).dropna(subset=["quality", "speedup"])
        axes.set_title(f"{_name(summary, task)}: quality and speed")
        axes.set_xlabel("speed-up over the baseline (tokens per second, log scale)" if _wide(rows)
                        else "speed-up over the baseline (tokens per second)")
        if rows.empty:
            return _empty(figure, axes, "no strategy has both a quality and a speed-up")
        axes.set_ylabel(str(rows["quality_metric"].iloc[0]))
        if _wide(rows):
            log_scale(axes)
        for family, group in rows.groupby("family"):
            colour, marker = look(str(family))
            axes.errorbar(group["speedup"], group["quality"], _whiskers(group, "quality"), _whiskers(group, "speedup"),
                          fmt="none", ecolor=colour, elinewidth=1, alpha=0.45)
            axes.plot(group["speedup"], group["quality"], marker, color=colour, markersize=7, label=str(family),
                      markeredgecolor="white", markeredgewidth=0.6, zorder=3)
        axes.margins(0.12, 0.1)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        path = _draw_front(axes, rows)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title="family", alignment="left")
        _label(figure, axes, rows, path)
        return figure


def speedups(summary: pd.DataFrame, task: str) -> Figure:
    """Plot the speed-ups of a task as bars from 1, fastest on top, with 95 % intervals; a wide axis is logarithmic."""
    with matplotlib.rc_context(STYLE):
        rows = _rows(summary, task).dropna(subset=["speedup"]).sort_values("speedup", kind="stable")
        figure, axes = new_axes(5, 0.3 * max(3, len(rows)))
        axes.set_title(f"{_name(summary, task)}: speed-up")
        axes.set_xlabel("tokens per second over the baseline's" + (" (log scale)" if _wide(rows) else ""))
        if rows.empty:
            return _empty(figure, axes, "no strategy has a speed-up")
        if _wide(rows):
            log_scale(axes)
        axes.barh(rows["label"], rows["speedup"] - 1, left=1, height=0.62,
                  color=[look(family).colour for family in rows["family"]])
        axes.errorbar(rows["speedup"], rows["label"], xerr=_whiskers(rows, "speedup"), fmt="none", ecolor=INK,
                      elinewidth=1.1, capsize=2.5)
        axes.axvline(1, color=INK, linewidth=1)
        ends = rows["speedup_high"].fillna(rows["speedup"]).clip(lower=1)
        for height, (end, value) in enumerate(zip(ends, rows["speedup"], strict=True)):
            axes.annotate(f"{value:.2f}", (end, height), (5, 0), textcoords="offset points", va="center")
        axes.grid(False, axis="y")
        axes.margins(x=0.1)
        family_legend(axes, {family: look(family).colour for family in rows["family"]})
        return figure


def files(figure: Figure) -> dict[str, bytes]:
    """Return a figure as `svg` whose text can be selected, `png` at 150 dpi, and `pdf` with embedded fonts.

    The same figure gives the same bytes.
    """
    with matplotlib.rc_context(STYLE):
        figure.set_dpi(DPI)
        figure.draw_without_rendering()  # once for all formats, as savefig does for each of them if its box is "tight"
        box = figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])
        return {kind: _saved(figure, kind, box) for kind in UNDATED}


def _saved(figure: Figure, kind: str, box: Bbox) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=DPI, bbox_inches=box, metadata=dict.fromkeys(UNDATED[kind]))
    return file.getvalue()


def _name(summary: pd.DataFrame, task: str) -> str:
    return task_names(summary["task"].unique())[task]


def _rows(summary: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the rows of a task, with the intervals of speed-ups cut off far beyond all of them."""
    rows = summary.assign(label=row_labels(summary))[summary["task"] == task]
    return rows.assign(speedup_low=rows["speedup_low"].clip(lower=rows["speedup"].min() / FAR),
                       speedup_high=rows["speedup_high"].clip(upper=rows["speedup"].max() * FAR))


def _empty(figure: Figure, axes: Axes, why: str) -> Figure:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def _wide(rows: pd.DataFrame) -> bool:
    return bool(len(rows)) and float(rows["speedup"].max() / rows["speedup"].min()) > 10


def _whiskers(rows: pd.DataFrame, key: str) -> Any:
    """Return the lengths of the error bars below and above each value, 0 without an interval."""
    lengths = np.array([rows[key] - rows[f"{key}_low"], rows[f"{key}_high"] - rows[key]])
    return np.nan_to_num(np.maximum(lengths, 0))


def _draw_front(axes: Axes, rows: pd.DataFrame) -> list[tuple[float, float]]:
    """Draw the Pareto front as a step line, and return its corners."""
    kept = front(rows["speedup"], rows["quality"])
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    path = [(left, float(rows["quality"].iloc[kept[0]]))]
    for x, y in zip(rows["speedup"].iloc[kept], rows["quality"].iloc[kept], strict=True):
        path += [(path[-1][0], y), (x, y)]
    path.append((path[-1][0], bottom))
    axes.plot(*zip(*path, strict=True), "--", color=INK, linewidth=1, alpha=0.6, label="Pareto front", zorder=1)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    return path


def _label_offsets() -> Iterator[tuple[float, float]]:
    """Yield offsets of a label from its data point, in typographic points, the nearest first."""
    for reach in (9, 17, 27, 39, 53, 69, 87):
        for angle in np.deg2rad((0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202)):
            yield reach * float(np.cos(angle)), reach * float(np.sin(angle))


def _label(figure: Figure, axes: Axes, rows: pd.DataFrame, path: list[tuple[float, float]]) -> None:
    """Write each label near its data point, where it covers no point, no other label and few lines."""
    scale = figure.dpi / 72  # pixels per typographic point
    dots = axes.transData.transform(rows[["speedup", "quality"]].to_numpy(dtype=float))
    occupied = [(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
    lines = _lines(axes, rows, path)
    for (x, y), (_, row) in zip(dots, rows.iterrows(), strict=True):
        probe = axes.text(0, 0, row["label"], fontsize=8)
        width, height = probe.get_window_extent().size
        probe.remove()
        choices, taken = [], np.array(occupied)
        for dx, dy in _label_offsets():
            left = x + dx * scale - width * (0 if dx > 1 else 1 if dx < -1 else 0.5)
            bottom = y + dy * scale - height * (0 if dy > 5 else 1 if dy < -5 else 0.5)
            box = Bbox.from_bounds(left, bottom, width, height)
            never = _covered(box.padded(3), taken) + _outside(box, axes.bbox)
            choices.append(((100 * never + _covered(box, lines)) / height + np.hypot(dx, dy), dx, dy, box))
        _, dx, dy, box = min(choices, key=lambda choice: choice[0])
        occupied.append(box.extents)
        leader = {"arrowstyle": "-", "color": INK, "lw": 0.5, "alpha": 0.6, "shrinkB": 4, "shrinkA": 0}
        axes.annotate(row["label"], (row["speedup"], row["quality"]), (dx, dy), textcoords="offset points", fontsize=8,
                      ha="left" if dx > 1 else "right" if dx < -1 else "center",
                      va="bottom" if dy > 5 else "top" if dy < -5 else "center",
                      zorder=4, arrowprops=leader if np.hypot(dx, dy) > 10 else None)


def _lines(axes: Axes, rows: pd.DataFrame, path: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Return the drawn lines as thin boxes (left, bottom, right, top) in pixels: the front, the error bars and the line
    at 1.
    """
    ends = [*pairwise(path), ((1, axes.get_ylim()[0]), (1, axes.get_ylim()[1]))]
    for row in rows[["speedup", "speedup_low", "speedup_high", "quality", "quality_low", "quality_high"]].to_numpy():
        x, x_low, x_high, y, y_low, y_high = (float(value) for value in row)
        ends += [((x_low, y), (x_high, y)), ((x, y_low), (x, y_high))]
    boxes = [axes.transData.transform(pair) for pair in ends if np.isfinite(pair).all()]
    return np.array([(*(box.min(axis=0) - 1.5), *(box.max(axis=0) + 1.5)) for box in boxes])


def _covered(box: Bbox, others: NDArray[np.float64]) -> float:
    """Return the area of `box` that overlaps with others (left, bottom, right, top); several overlaps add up."""
    left, bottom, right, top = others.T
    width = np.minimum(box.x1, right) - np.maximum(box.x0, left)
    height = np.minimum(box.y1, top) - np.maximum(box.y0, bottom)
    return float((width.clip(0) * height.clip(0)).sum())


def _outside(box: Bbox, frame: Bbox) -> float:
    """Return the area of `box` that is outside `frame`."""
    return box.width * box.height - _covered(box, np.array([frame.extents]))
