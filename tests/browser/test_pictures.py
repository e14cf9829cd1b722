from pathlib import Path
from typing import Any

import pytest

from harness.report import page
from tests.browser.conftest import AXE, Visit, evaluate
from tests.pictures import MANY, by_batch, looping, many

EVIL = "swift:note=<b>x</b>"
SETUP = """
const titles = (name) => find(`[aria-label="${name}"] title`).map((title) => title.textContent);
const click = (label, part) => find(`[aria-label="${label}"] a`).find((mark) => mark.textContent.includes(part))
  .dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
const lit = () => find("tr.lit").map((row) => [row.dataset.name, row.closest("details")?.open ?? null]);
"""
OVERLAPS = """
const overlaps = (name) => {  // names that lie on each other
  const boxes = find(`[aria-label="${name}"] text`).map((one) => [one.textContent, one.getBoundingClientRect()]);
  const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4;
  return boxes.flatMap(([one, a], index) =>
    boxes.slice(index + 1).filter(([, b]) => touch(a, b)).map(([other]) => [one, other]));
};
"""


def seen_by(visit: Visit, text: str, script: str, **options: Any) -> Any:
    """What `script` puts into `seen` on the page of a task."""
    page = visit(text, "#math", **options)
    page.evaluate(AXE + "; 0")
    return evaluate(page, SETUP + script)


def test_speed_ups_by_batch_size_lead_to_their_table(tmp_path: Path, visit: Visit) -> None:
    stores = by_batch(tmp_path, {EVIL: {1: 2.0, 4: 0.5}, "medusa": {1: 1.5, 4: 1.2}})
    seen = seen_by(visit, page.render(stores), """
      seen.titles = titles("Speed-up by batch size"); seen.rings = find(".ring").length;
      seen.words = find('[aria-label="Speed-up by batch size"] text').map((one) => one.textContent);
      seen.bold = find("figure b").length;
      click("Speed-up by batch size", "medusa"); seen.lit = lit();
      location.hash = "#math?text=medusa"; await pause(); await pause();
      seen.filtered = titles("Speed-up by batch size").length;
      location.hash = "#math?text=nothing"; await pause(); await pause();
      seen.none = find(".batches figure").length;
    """)
    assert [title.partition(":")[2] for title in seen["titles"]] == [
        " speed-up 2 [2, 2] at batch size 1, 0.5 [0.5, 0.5] at batch size 4; even at 2.0",
        " speed-up 1.5 [1.5, 1.5] at batch size 1, 1.2 [1.2, 1.2] at batch size 4"]
    assert (seen["rings"], seen["bold"], seen["filtered"], seen["none"]) == (1, 0, 1, 0)
    assert {"swift", "even at 2.0", "medusa", "1", "4", "1×"} <= set(seen["words"])
    assert seen["lit"] == [["medusa", True]]


def test_loops_lead_to_their_rows_the_most_first(tmp_path: Path, visit: Visit) -> None:
    stores = by_batch(tmp_path, {"swift": {1: 2.0}})
    contents = looping(stores, {"reference": (0.0, 0.02), "swift": (0.25, 0.5), "greedy": (0.75, 0.3)})
    seen = seen_by(visit, page.render(stores, contents), """
      seen.titles = titles("Loops and repetition");
      seen.widths = find('[aria-label="Loops and repetition"] rect:not(.nothing)').map((bar) =>
        Number(bar.getAttribute("width")));
      click("Loops and repetition", "swift"); seen.strategy = lit();
      click("Loops and repetition", "reference"); seen.reference = lit();
      location.hash = "#math?text=swift"; await pause(); await pause();
      seen.filtered = titles("Loops and repetition").length;
    """)
    assert seen["titles"] == ["greedy: 75 % of its texts end in a loop, rep-4 0.3",
                              "swift: 25 % of its texts end in a loop, rep-4 0.5",
                              "reference: 0 % of its texts end in a loop, rep-4 0.02"]
    assert seen["widths"][0] == pytest.approx(3 * seen["widths"][1])
    assert seen["widths"][2] == 0
    assert (seen["strategy"], seen["reference"]) == ([["swift", None]], [["reference", True]])
    assert seen["filtered"] == 2  # the references are no strategy, so that they stay


def test_reports_without_either_have_no_such_picture(tmp_path: Path, visit: Visit) -> None:
    stores = by_batch(tmp_path, {"swift": {1: 2.0}})
    contents = looping(stores, {"reference": (0.5, 0.02), "swift": (0.0, 0.5)})
    seen = seen_by(visit, page.render(stores, contents), """
      seen.labels = find("figure svg").map((one) => one.getAttribute("aria-label"));
    """)
    assert seen["labels"]
    assert not {"Loops and repetition", "Speed-up by batch size"} & set(seen["labels"])


@pytest.mark.parametrize("width", [390, 1300])
def test_many_long_names_do_not_collide(tmp_path: Path, visit: Visit, width: int) -> None:
    stores = many(tmp_path)
    shares = {spec: (number / 12, number / 30) for number, spec in enumerate(MANY)}
    text = page.render(stores, looping(stores, {"greedy": (0.75, 0.5), **shares}, "b1"))
    seen = seen_by(visit, text, OVERLAPS + """
      for (const name of ["Speed-up by batch size", "Loops and repetition", "Speed-ups with intervals"]) {
        seen[name] = [find(`[aria-label="${name}"] text`).length, overlaps(name)];
      }
    """, viewport={"width": width, "height": 900})
    for count, found in (seen[name] for name in ("Speed-up by batch size", "Loops and repetition",
                                                 "Speed-ups with intervals")):
        assert count > len(MANY)
        assert found == []


def test_the_pictures_are_accessible(tmp_path: Path, visit: Visit) -> None:
    stores = by_batch(tmp_path, {"swift": {1: 2.0, 4: 0.5}})
    contents = looping(stores, {"swift": (0.25, 0.5), "greedy": (0.75, 0.3)}, "b1")
    seen = seen_by(visit, page.render(stores, contents), """
      seen.drawn = find("figure svg").map((one) => one.getAttribute("aria-label"));
      const { violations } = await axe.run();
      seen.found = violations.map(({ id, impact, nodes }) => [id, impact, nodes[0].html]);
    """)
    assert {"Speed-up by batch size", "Loops and repetition"} <= set(seen["drawn"])
    assert [one for one in seen["found"] if one[1] in ("serious", "critical")] == []
