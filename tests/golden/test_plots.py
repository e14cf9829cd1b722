import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness import report
from harness.report import detail, pictured, plots
from harness.report.pictured import Bar
from harness.report.plot_loops import loops
from harness.report.plot_parts import spread
from harness.store.folder import Store
from tests.pages import index_and_blocks
from tests.pictures import MANY, by_batch, looping, many
from tests.runs import STRATEGIES, manifest, realistic, record, strategy, task, turn, write

LONG = "suffix_decoding:k=10,alpha=0.5,temperature=0.7,shared=true"


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """Return the names and numbers in and beside the axes that lie on each other."""
    figure.draw_without_rendering()
    found: Sequence[Text] = [*figure.axes[0].texts, *figure.axes[0].get_yticklabels()]
    boxes = {text.get_text(): Text.get_window_extent(text) for text in found if text.get_text()}
    assert len(boxes) > 1
    return [(one, other) for (one, a), (other, b) in combinations(boxes.items(), 2) if a.padded(1).overlaps(b)]


def drawn(stores: Sequence[Store], task: str, contents: detail.Contents | None = None) -> dict[str, Figure]:
    contents = contents or detail.collect(stores)
    return {**plots.of_tables(contents, task), **plots.of_samples(contents, task, index_and_blocks(stores)[0])}


def test_the_names_of_many_strategies_do_not_collide(tmp_path: Path) -> None:
    more = [*STRATEGIES, ("beam:width=8", "search", "changes-output", 1, 3.4, 0.07),
            ("swift:skip=0.4,temperature=0", "speculative", "lossless", 2.1, 1.4, 0.0),
            ("lookahead:n=5,w=7,g=7", "speculative", "lossless", 2.0, 1.5, 0.0),
            ("eta:epsilon=0.0009", "sampling", "changes-output", 1, 1.03, -0.07),
            ("min_p:p=0.05,temperature=1.5", "sampling", "changes-output", 1, 1.02, -0.08),
            ("typical:mass=0.95", "sampling", "changes-output", 1, 1.04, -0.06),
            ("prompt_lookup:k=3,ngram=2,temperature=0", "speculative", "lossless", 1.4, 1.04, 0.0)]
    figures = drawn([realistic(tmp_path / "run", strategies=more)], "nano_math")
    assert figures.keys() == {"pareto", "speedup", "prompts", "positions"}
    for kind, figure in figures.items():
        assert len(figure.axes[0].texts) == {"prompts": 0, "positions": 5}.get(kind, len(more))
        assert collisions(figure) == []
    frame, names = figures["pareto"].axes[0].bbox, figures["pareto"].axes[0].texts
    assert all(frame.x0 <= box.x0 < box.x1 <= frame.x1 for box in map(Text.get_window_extent, names))


def test_long_names_leave_the_plot_its_width() -> None:
    widths = [loops("math", [Bar(name, "speculative", 0.3, math.nan)]).axes[0].bbox.width
              for name in ("swift", LONG)]
    assert widths[0] == widths[1]


def test_speed_ups_by_batch_size_are_named_and_do_not_collide(tmp_path: Path) -> None:
    stores = many(tmp_path)
    contents = detail.collect(stores)
    figure = drawn(stores, "math", contents)["batch"]
    lines = pictured.lines(contents, "math")
    assert {line.strategy for line in lines} == MANY.keys()
    assert [text.get_text() for text in figure.axes[0].texts] == [
        f"{line.label} (even at {line.crossing:.1f})" for line in lines]
    assert collisions(figure) == []
    rings = [line.get_xydata() for line in figure.axes[0].get_lines() if line.get_markersize() == 8]
    assert [tuple(ring[0]) for ring in rings] == [(line.crossing, 1) for line in lines]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4", "32"]


def test_a_strategy_without_a_crossing_has_no_ring_and_only_its_name(tmp_path: Path) -> None:
    figure = drawn(by_batch(tmp_path, {"swift": {1: 1.5, 4: 1.2}}), "math")["batch"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["swift"]
    assert plots.files(figure)["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("places", [[0.5, 0.5, 0.5], [0.95, 0.1, 0.96, 0.97], [0.2, 0.9, 0.5], [0.0]])
def test_names_are_moved_apart_in_their_order(places: list[float]) -> None:
    moved = spread(places, 0.1, 1)
    order = sorted(range(len(places)), key=lambda index: places[index])
    assert all(moved[b] - moved[a] >= 0.1 - 1e-9 for a, b in pairwise(order))
    assert max(moved) <= 1
    assert spread([0.2, 0.9, 0.5], 0.1, 1) == pytest.approx([0.2, 0.9, 0.5])


def test_loops_are_drawn_only_where_a_strategy_loops(tmp_path: Path) -> None:
    stores = by_batch(tmp_path, {"swift": {1: 1.5}})
    some = looping(stores, {"reference": (0.0, 0.02), "swift": (0.25, 0.5), "greedy": (0.75, 0.3)})
    assert [(bar.label, bar.family) for bar in pictured.bars(some, "math")] == [
        ("greedy", "baseline"), ("swift", "speculative"), ("reference", "reference")]
    figure = drawn(stores, "math", some)["loops"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.75, 0.25, 0.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["75 %", "25 %", "0 %"]
    assert collisions(figure) == []
    none = looping(stores, {"reference": (0.5, 0.2), "swift": (0.0, 0.5), "greedy": (math.nan, math.nan)})
    assert "loops" not in drawn(stores, "math", none)


def test_the_new_plots_are_files_of_the_report(tmp_path: Path) -> None:
    stores = by_batch(tmp_path, {"swift": {1: 1.5, 4: 0.8}})
    folder = report.write(stores, tmp_path / "report", looping(stores, {"swift": (0.5, 0.1)}, "b1")).page.parent
    names = {path.name for path in (folder / "plots").iterdir()}
    assert names >= {f"math.{kind}.{end}" for kind in ("batch", "loops") for end in ("png", "svg", "pdf")}


def test_prompts_and_positions_show_what_was_measured(tmp_path: Path) -> None:
    """Two prompts at twice and at half of greedy's speed; drafts of three tokens, of which three and one were accepted.
    """
    drafting = {"e0": turn([1, 4, 2], [0.1, 0.2, 0.1], drafted=[0, 3, 3], accepted=[0, 3, 1]),
                "e1": turn([1, 1], [0.4, 0.4])}
    records = [record("math", example, spec, [answer], 1) for example, base in
               (("e0", turn([1] * 7, [0.1] * 8)), ("e1", turn([1, 1], [0.2, 0.2])))
               for spec, answer in (("greedy", base), ("speculative", drafting[example]))]
    described = manifest([strategy("greedy"), strategy("speculative", "speculative")], [task("math", examples=2)])
    figures = drawn([write(tmp_path / "run", described, records)], "math")
    dots, median = figures["prompts"].axes[0].get_lines()[:2]
    assert sorted(dots.get_xdata()) == pytest.approx([0.5, 2])
    assert median.get_xdata()[0] == pytest.approx(1.25)
    (line,) = figures["positions"].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[1, 1], [2, 0.5], [3, 0.5]]
    assert [text.get_text() for text in figures["positions"].axes[0].texts] == ["speculative"]
