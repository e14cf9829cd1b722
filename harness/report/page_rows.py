"""Rows of the page's tables: names, badges and colours, figures with interval bars, and cells of the heat map."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.measure.significance import SURE
from harness.measure.summary import manifests_of
from harness.report import tables
from harness.report.badges import badge, tie_of
from harness.report.families import look
from harness.store.folder import Store

Scale = Callable[[float], float]  # a figure → its place on a bar, in percent
NARROWEST = {"log": 1.2, "linear": 0.05}  # half the width of an axis at least
FULL = 0.2  # difference in quality, or logarithm of a speed-up, of the strongest colour
MOST = 55   # percent of that colour


@dataclass(frozen=True)
class Marks:
    """By run and strategy the badge and whether a draft model was used."""

    badges: Mapping[tuple[str, str], str]
    drafts: Mapping[tuple[str, str], bool]

    @classmethod
    def of(cls, stores: Sequence[Store], summary: pd.DataFrame) -> "Marks":
        """Return the marks of all rows of a summary."""
        manifests = manifests_of(stores)
        entries = {(run, entry.spec): entry for run, manifest in manifests.items() for entry in manifest.strategies}
        groups = {(str(run), str(spec)): rows for (run, spec), rows in
                  summary.assign(run=summary.get("run", "")).groupby(["run", "strategy"], sort=False)}
        return cls({key: badge(rows, key[1] == manifests[key[0]].baseline, tie_of(manifests[key[0]].model.dtype))
                    for key, rows in groups.items()},
                   {key: manifests[key[0]].draft is not None and entries[key].needs_draft(
                       float(rows["draft_forwards_per_token"].max())) for key, rows in groups.items()})

    def identity(self, row: "pd.Series[Any]") -> dict[str, Any]:
        """Return what tells a row apart."""
        key = (str(row.get("run", "")), str(row["strategy"]))
        return {"label": row["label"], "spec": row["strategy"], "family": row["family"], "badge": self.badges[key],
                "draft": self.drafts[key], "colour": look(row["family"]).colour, "unsupported": row["unsupported"]}


def plain(value: float) -> str:
    """Return a number for a script; empty if it is unknown."""
    return "" if math.isnan(value) else f"{value:.6g}"


def figure(column: tables.Column, row: "pd.Series[Any]", scale: Scale | None = None) -> dict[str, str]:
    """Return a number as displayed, its interval, its sort key, and the style of its interval bar."""
    value, _, ends = column.text(row).partition(" [")
    if column is tables.QUALITY and row["quality_note"]:
        value = tables.quality_reason(row)
    return {"value": value, "ends": f"[{ends}" if ends else "", "sort": plain(float(row[column.key])),
            "bar": _bar(column, row, scale) if scale and ends else ""}


def scale(column: tables.Column, rows: pd.DataFrame) -> Scale | None:
    """Return the axis of a column's interval bars, which goes to the ends of all of them; None without intervals."""
    if not column.ends or column.key not in ("speedup", "gain", "quality"):
        return None
    found = rows[[column.key, f"{column.key}_low", f"{column.key}_high"]].to_numpy(dtype=float)
    log = column.key == "speedup"
    values = [value for value in found.ravel() if math.isfinite(value) and (value > 0 or not log)]
    form: Callable[[float], float] = math.log if log else float
    if column.key != "quality":
        least = NARROWEST["log" if log else "linear"]
        values += [1 / least, least] if log else [-least, least]
    if len(set(values)) < 2:
        return None
    low, high = form(min(values)), form(max(values))
    return lambda value: 100 * (form(max(value, min(values))) - low) / (high - low)


def _bar(column: tables.Column, row: "pd.Series[Any]", place: Scale) -> str:
    low, at, high = (place(float(row[name])) for name in (f"{column.key}_low", column.key, f"{column.key}_high"))
    neutral = {"speedup": 1.0, "gain": 0.0}.get(column.key)
    zero = f"; --zero: {place(neutral):.1f}%" if neutral is not None else ""
    return f"--low: {low:.1f}%; --width: {max(1.0, high - low):.1f}%; --at: {at:.1f}%{zero}"


def heat(row: "pd.Series[Any] | None", by_speed: bool, ranked: bool) -> dict[str, str]:
    """Return the cell of a task on the leaderboard: quality, speed-up, and the strength of its colour in percent.

    The colour is that of the difference in quality from the baseline, or `by_speed` of the speed-up. A proven one is
    marked if the run has enough problems to be `ranked`.
    """
    if row is None:
        return {"quality": tables.DASH, "speed": "", "mark": "", "tone": "0", "hue": "better", "sort": ""}
    quality, speed = float(row["quality"]), float(row["speedup"])
    gain, p = (math.log(speed), row["speedup_p_holm"]) if by_speed and speed > 0 else \
        (float(row["quality_gain"]), row["quality_p_holm"])
    proven = ranked and not math.isnan(gain) and p < SURE
    return {
        "quality": tables.DASH if math.isnan(quality) else f"{quality:.2f}",
        "speed": "" if math.isnan(speed) else f"{speed:.2f}×",
        "mark": ("▲" if gain > 0 else "▼") if proven and gain else "",
        "tone": f"{0 if math.isnan(gain) else min(MOST, MOST * abs(gain) / FULL):.0f}",
        "hue": "better" if gain > 0 else "worse",
        "sort": plain(speed if math.isnan(quality) or by_speed else quality)}
