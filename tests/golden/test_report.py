import io
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from harness import report
from harness.measure.summary import summarise
from harness.plugins.spec import labels
from harness.report import page, plots, tables
from harness.store.folder import Store
from tests.figures import leave_out
from tests.pages import unpacked
from tests.program import call
from tests.runs import manifest, record, strategy, task, turn, write

EVIL = '</script><b>&"|\n<!-- <script>'
MARKDOWN = """\
### math

Quality: accuracy

| strategy | samples | quality | truncated | tok/s | speed-up | τ | τ by answer | fwd/tok | p quality, Holm | \
p speed, Holm | MDE speed | decode tok/s | TTFT ms | draft fwd/tok | pos/tok | accepted | tokens | same |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | \
---: | ---: | ---: |
| `greedy` | 2 | 0.500 [0.000, 1.000] | 0 % | 10.0 | 1.00 | 1.00 | 1.00 | 1.000 | – | – | – | 10.0 | 100 | 0.00 | \
1.00 | – | 3 | 100 % |
| `speculative:k=4` | 2 | 0.500 [0.000, 1.000] | 0 % | 13.3 | 2.00 [0.00, >999] | 2.00 | 2.00 | 0.667 | 1.00 | \
0.70 | >999 % | 12.3 | 62.5 | 1.33 | 2.00 | 25 % | 3 | 100 % |
| `speculative:k=8` | 0 (2 of 2 failed) | – | – | – | – | – | – | – | – | – | – | – | – | – | – | – | – | – |
| `medusa` | 0 (not supported) | – | – | – | – | – | – | – | – | – | – | – | – | – | – | – | – | – |

### chat

Quality: needs a judge

| strategy | samples | truncated | tok/s | speed-up | fwd/tok | TTFT ms | draft fwd/tok | pos/tok | tokens | same |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `greedy` | 1 | 0 % | 20.0 | 1.00 | 0.500 | 100 | 0.00 | 0.50 | 2 | 100 % |
| `speculative:k=4` | 0 (not run) | – | – | – | – | – | – | – | – | – |
| `speculative:k=8` | 0 (not run) | – | – | – | – | – | – | – | – | – |
| `medusa` | 0 (not supported) | – | – | – | – | – | – | – | – | – |

- medusa is not supported: needs &lt;heads>
- chat has no quality: needs a judge
- 2 failed samples are not in the figures
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    described = manifest(
        [strategy("greedy"), strategy("speculative:k=4", "speculative"), strategy("speculative:k=8", "speculative"),
         strategy("medusa", "speculative", unsupported="needs <heads>")],
        [task("math"), task("chat", unscored="needs a judge", examples=1)], [f"careful {EVIL}"])
    return write(tmp_path / "run", described, [
        record("math", "a", "greedy", [turn([1, 1, 1, 1], [0.1] * 4, prompt="shared", text=EVIL)], 1),
        record("math", "b", "greedy", [turn([1, 1], [0.1] * 2)], 0),
        record("math", "a", "speculative:k=4", [turn([1, 3], [0.025] * 2, prompt="shared", text=EVIL + "!",
               drafted=[0, 4], accepted=[0, 2], draft_forwards=[0, 4])], 1),
        record("math", "b", "speculative:k=4", [turn([1, 1], [0.1, 0.3], drafted=[0, 4], draft_forwards=[0, 4])], 0),
        record("math", "a", "speculative:k=8", error=EVIL),
        record("math", "b", "speculative:k=8", error=EVIL),
        record("chat", "c", "greedy", [turn([2], [0.1])]),
    ])


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out, which take a second."""
    leave_out(monkeypatch)


def data(text: str, name: str = "data") -> Any:
    found = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', text, re.S)
    assert found
    return unpacked(found[1])


def test_markdown(store: Store) -> None:
    assert tables.markdown(summarise(store)) == MARKDOWN


def test_csv_holds_every_column(store: Store) -> None:
    lines = tables.csv(summarise(store)).splitlines()
    row = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert (row["strategy"], row["speedup"], row["speedup_low"]) == ("speculative:k=4", "2", "4.4785e-08")
    assert (row["tokens_per_second"], row["accept_rate"], row["unsupported"]) == ("13.3333", "0.25", "")
    assert len(lines) == 9


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_table_fits(store: Store, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal(summarise(store), store.manifest))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for part in ("2.00 [0.00, >999]", "not supported", "medusa is not supported: needs <heads>", "2 of 2 failed",
                 "chat has no quality: needs a judge", "speed-up over greedy"):
        assert part in text


@pytest.mark.usefixtures("unpictured")
def test_details_are_printed_when_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = (call("report", store.folder, *more).stdout for more in ((), ("--details",)))
    assert "Speed in detail" not in short
    assert max(map(len, whole.partition("\nReport")[0].splitlines())) <= 80
    acceptance, _, speed = whole.partition("Acceptance")[2].partition("Speed in detail")
    assert "speculative" in acceptance
    assert "greedy" not in acceptance
    assert "TTFT p50" in speed


def test_labels_are_as_short_as_they_can_be() -> None:
    specs = ["greedy", "top_p:p=0.9,temperature=1", "top_p:p=0.95,temperature=1", "beam:width=4"]
    assert list(labels(specs).values()) == ["greedy", "top_p:p=0.9", "top_p:p=0.95", "beam"]


def test_the_front_keeps_what_nothing_beats() -> None:
    speed, quality = pd.Series([1, 2, 0.5, 2, 0.4]), pd.Series([0.5, 0.4, 0.5, 0.3, 0.9])
    assert plots.front(speed, quality) == [4, 0, 1]


def test_a_page_needs_nothing_else_and_no_text_escapes(store: Store) -> None:
    text = page.render([store])
    assert EVIL not in text
    assert text.count("</script>") == 3 + 2  # a block of answers for each task with samples
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert not re.search(r"url\((?!#)|@import", text)
    assert EVIL in data(text, "block-0")["texts"]
    assert data(text, "block-0")["texts"].count("shared") == 1
    first = data(text)["cells"][1]
    assert (first["label"], first["baseline"], len(first["rows"]["examples"])) == ("speculative:k=4", 0, 2)
    assert "decodebench run -m nano -s speculative:k=4 -t math" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("unpictured")
def test_the_page_begins_with_the_leaderboard(tmp_path: Path) -> None:
    speeds = {"greedy": 1.0, "beam:width=2": 0.5, "speculative:k=4": 2.0}
    records = [record("math", f"e{n}", spec, [turn([1] * 4, [(0.1 + n / 1e4) / speed] * 4)], n % 2)
               for n in range(8) for spec, speed in speeds.items()]
    described = manifest([strategy(spec) for spec in speeds], [task("math", examples=8)])
    text = page.render([write(tmp_path / "run", described, records)])
    table = text.partition("<h2>Leaderboard</h2>")[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>|\u200b", " ", f"<{row}").split() for row in table.split("<tr ")[1:]]
    assert [row[0] for row in rows] == ["speculative", "greedy", "beam"]
    assert [re.findall(r'data-sort="([^"]*)"', row)[0] for row in table.split("<tr ")[1:]] == ["1", "2", "3"]
    assert "+0.000" in table


def test_the_index_has_a_row_for_each_sample_in_order(tmp_path: Path) -> None:
    """Two samples of two examples, of which the second is before the first in the run, and one failed."""
    texts = {"greedy": ["a", "b"], "top_p": ["a", "c"]}
    records = [record("math", f"e{number}", spec, [turn([1, 2], [0.1, 0.1], text=texts[spec][sample], drafted=[0, 3],
                                                        accepted=[0, 1])], sample, sample=sample)
               for number in (10, 9) for spec in texts for sample in (0, 1)]
    records[-1] = record("math", "e9", "top_p", error="out of memory", sample=1)
    described = manifest([strategy("greedy"), strategy("top_p")], [task("math", examples=2)])
    index = data(page.render([write(tmp_path / "run", described, records)]))
    assert index["tasks"] == {"math": {"examples": ["e9", "e10"], "blocks": ["block-0", "block-0"]}}
    greedy, top_p = index["cells"]
    assert greedy["rows"] == {"examples": [0, 0, 1, 1], "sample": [0, 1, 0, 1], "scores": [0, 1, 0, 1],
                              "rates": [15.0] * 4, "failed": [], "differing": []}
    assert (top_p["rows"]["failed"], top_p["rows"]["differing"]) == ([1], [3])
    assert (top_p["rows"]["scores"], top_p["rows"]["rates"]) == ([0, None, 0, 1], [15.0, None, 15.0, 15.0])
    assert greedy["positions"] == [[4, 4]]
    assert top_p["positions"] == [[3, 3]]


def test_a_report_is_complete_and_the_same_every_time(store: Store, tmp_path: Path) -> None:
    index = report.write([store], tmp_path / "one").page
    files = {path.relative_to(index.parent): path.read_bytes() for path in index.parent.rglob("*") if path.is_file()}
    assert sorted(map(str, files)) == [
        "acceptance.csv", "index.html",
        *(f"plots/{name}.{kind}" for name in (
            "chat.speedup", "math.pareto", "math.positions", "math.prompts", "math.speedup")
          for kind in ("pdf", "png", "svg")), "speed.csv", "summary.csv", "summary.md", "tau.csv"]
    shutil.rmtree(index.parent)
    report.write([store], index.parent)
    assert all((index.parent / path).read_bytes() == content for path, content in files.items())


@pytest.mark.usefixtures("unpictured")
def test_several_runs_share_a_report(store: Store, tmp_path: Path) -> None:
    other = tmp_path / "later"
    shutil.copytree(store.folder, other)
    index = report.write([store, Store.open(other)], tmp_path / "both").page
    assert "greedy (run)" in index.read_text()
    assert "greedy (later)" in index.read_text()
    assert (tmp_path / "both" / "summary.csv").read_text().startswith("run,task,strategy")
    cells = data(index.read_text())["cells"]
    assert [cell["baseline"] for cell in cells] == [0] * 4 + [4] * 4 + [8] * 4 + [12] * 4


def test_runs_of_different_tasks_and_strategies_share_a_report(store: Store, tmp_path: Path) -> None:
    described = manifest([strategy("greedy"), strategy("speculative:k=2", "speculative")], [task("$x_ & <y>")])
    other = write(tmp_path / "other", described, [
        record("$x_ & <y>", "a", spec, [turn([1], [0.1])], 1) for spec in ("greedy", "speculative:k=2")])
    index = report.write([store, other], tmp_path / "both").page
    assert "speculative:\u200bk=2 (other)" in index.read_text()
    assert (index.parent / "plots" / "-x_-y-.pareto.svg").exists()
    assert "<h2>$x_ &amp; &lt;y&gt;</h2>" in index.read_text()
    assert 'href="#%24x_%20%26%20%3Cy%3E"' in index.read_text()


def test_an_empty_run_still_has_a_report(tmp_path: Path) -> None:
    store = write(tmp_path / "run", manifest([strategy("greedy")], [task("math")]), [])
    assert "not run" in report.write([store], tmp_path / "report").page.read_text()
    assert Console(width=80).render_lines(tables.terminal(summarise(store), store.manifest))
