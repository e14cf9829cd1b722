"""A family of strategies looks the same in every run and report, and can be told apart on any paper."""

import io
import json
import re
from pathlib import Path

import pytest
from matplotlib.colors import to_hex, to_rgb
from rich.console import Console

from harness.measure.leaderboard import leaderboard
from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES
from harness.report import page, plots, ranking, tables
from harness.report.families import LOOKS, look
from harness.report.terminal import FittedTable
from harness.store.folder import Store
from tests.pages import index_and_blocks
from tests.runs import manifest, record, strategy, task, turn, write

ALL = {"greedy": "baseline", "beam": "search", "top_p": "sampling", "new": "of a plugin"}


def run(folder: Path, names: tuple[str, ...]) -> Store:
    described = manifest([strategy(name, ALL[name]) for name in names], [task("math")])
    return write(folder, described, [record("math", str(n), name, [turn([1, 1], [0.1, 0.1 + n / 100])], n)
                                     for n in range(2) for name in names])


def luminance(colour: str) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_each_family_has_a_look_of_its_own() -> None:
    assert {STRATEGIES.get(name).family for name in STRATEGIES.built_in()} == LOOKS.keys()
    colours, markers = zip(*LOOKS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(LOOKS)


@pytest.mark.parametrize("paper", ["#ffffff", "#fdf6e3", "#000000", "#1e1e1e", "#002b36"])
def test_every_colour_can_be_read_on_light_and_dark_paper(paper: str) -> None:
    assert min(contrast(colour, paper) for colour, _ in LOOKS.values()) > 3


def test_a_family_of_a_plugin_has_one_look_too() -> None:
    assert look("of a plugin") == LOOKS["adaptive-compute"], "in every process"
    assert len({look(f"family {number}") for number in range(40)}) > 5


@pytest.mark.parametrize("names", [("greedy", "beam"), ("beam", "greedy", "top_p"), ("greedy", "top_p", "beam", "new")])
def test_colours_are_those_of_the_family_in_all_reports(names: tuple[str, ...], tmp_path: Path) -> None:
    store = run(tmp_path / "run", names)
    summary, wanted = summarise(store), {name: look(ALL[name]).colour for name in names}
    cells = index_and_blocks([store])[0]["cells"]
    assert {cell["label"]: cell["colour"] for cell in cells} == wanted
    points = re.search(r'<script[^>]*id="pictures"[^>]*>(.*?)</script>', page.render([store]), re.S)
    assert points
    assert {point["label"]: point["colour"] for point in json.loads(points[1])["points"]["math"]} == wanted
    axes = plots.speedups(summary, "math").axes[0]
    bars = {label.get_text(): to_hex(bar.get_facecolor()).upper()
            for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}
    assert bars == wanted
    for table in (tables.terminal(summary, store.manifest),
                  ranking.terminal(summary, leaderboard(summary, {"": store.manifest}))):
        for shown in (table, FittedTable.restored(table.stored())):
            styled = {cell.plain: str(cell.spans[0].style) for row in shown.rows if row
                      for cell in row.cells if cell.plain in names}
            assert {name: colour.upper() for name, colour in styled.items()} == wanted


def test_only_a_terminal_gets_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = run(tmp_path / "run", ("greedy", "beam"))
    table = tables.terminal(summarise(store), store.manifest)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def printed(terminal: bool) -> str:
        file = io.StringIO()
        Console(file=file, width=80, force_terminal=terminal, color_system="truecolor" if terminal else "auto",
                legacy_windows=False).print(table)
        return file.getvalue()
    red, green, blue = (int(look("search").colour[i:i + 2], 16) for i in (1, 3, 5))
    assert f"\x1b[38;2;{red};{green};{blue}mbeam" in printed(True)
    assert "\x1b" not in printed(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "38;2" not in printed(True)
