import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.report import page
from tests.runs import realistic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update")
BEFORE = "<script>window.problems = []; addEventListener('error', (e) => problems.push(e.message));</script>"
AFTER = """<script>
setTimeout(async () => {
  const seen = {};
  try { await (async () => { %s })(); } catch (error) { problems.push(String(error)); }
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen",
    textContent: JSON.stringify({ ...seen, problems, ready: document.documentElement.dataset.ready }) }));
});
</script>"""
SETUP = """
const table = document.querySelector("[data-name=task-nano_math] table"), body = table.tBodies[0];
const column = (name) => [...table.tHead.rows[0].cells].find((cell) => cell.textContent === name);
const values = (name) => [...body.rows].map((row) => row.cells[column(name).cellIndex].dataset.sort);
const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page.render([realistic(tmp_path_factory.mktemp("runs") / "run")])


def browse(text: str, folder: Path, script: str, fragment: str = "") -> dict[str, Any]:
    """Open the page in a real browser, run `script` in it, and return what it put into `seen`."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    path = folder / "page.html"
    path.write_text(text.replace("<head>", f"<head>{BEFORE}").replace("</body>", AFTER % (SETUP + script) + "</body>"))
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
         path.as_uri() + fragment], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert seen["problems"] == []
    assert seen["ready"] == "true"
    return seen


def test_columns_sort_both_ways_with_the_unknown_last(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      column("speed-up").querySelector("button").click();
      seen.down = values("speed-up"); seen.aria = column("speed-up").getAttribute("aria-sort");
      column("speed-up").querySelector("button").click();
      seen.up = values("speed-up");
      column("strategy").querySelector("button").click();
      seen.names = [...body.rows].map((row) => row.cells[0].textContent.trim().split(/\\s/)[0]);
      seen.marks = table.querySelectorAll("[aria-sort]").length;
    """)
    known = [float(value) for value in seen["down"][:-1]]
    assert known == sorted(known, reverse=True)
    assert seen["aria"] == "descending"
    assert [float(value) for value in seen["up"][:-1]] == sorted(known)
    assert seen["down"][-1] == seen["up"][-1] == ""  # the strategy that could not run
    assert seen["names"] == sorted(seen["names"])
    assert seen["marks"] == 1


def test_a_tab_shows_its_task_alone(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      const sections = () => [...document.querySelectorAll("main > section:not([hidden])")];
      const shown = () => sections().map((section) => section.dataset.name || section.id);
      seen.first = shown();
      document.querySelector("nav a:last-child").click(); await pause();
      seen.then = shown(); seen.current = document.querySelector("nav [aria-current]").textContent;
    """, "#task-nano_code")
    assert seen["first"] == ["task-nano_code", "glossary"]
    assert seen["then"] == ["task-mt_bench", "glossary"]
    assert seen["current"] == "mt_bench"


def test_a_cell_opens_its_samples_and_marks_the_first_difference(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      table.querySelectorAll(".open")[1].click();
      const panels = document.querySelectorAll("dialog details");
      seen.title = document.querySelector("dialog h2").textContent;
      seen.empty = panels[2].children.length; seen.samples = panels.length;
      panels[2].open = true; await pause();
      seen.blocks = [...panels[2].querySelectorAll("pre")].map((block) => block.textContent);
      seen.marks = [...panels[2].querySelectorAll("mark")].map((mark) => mark.textContent);
      seen.injected = document.querySelectorAll("dialog b").length;
      document.querySelector("dialog form button").click(); await pause();
      seen.closed = !document.querySelector("dialog").open;
      table.querySelectorAll(".open")[5].click();
      const failed = document.querySelectorAll("dialog details")[3];
      failed.open = true; await pause();
      seen.error = failed.querySelector("pre").textContent;
    """)
    assert seen["title"] == "top_p:p=0.9,temperature=0.7 on nano_math"
    assert (seen["samples"], seen["empty"]) == (12, 1)  # filled only when opened
    prompt, own, base = seen["blocks"]
    assert prompt.startswith("Question 2 of nano_math")
    own_end, base_end = seen["marks"]
    assert own.endswith(own_end)
    assert own.removesuffix(own_end) == base.removesuffix(base_end)
    assert own_end[0] != base_end[0]
    assert "</script><b>" in own_end
    assert seen["injected"] == 0
    assert seen["closed"]
    assert seen["error"] == "RuntimeError: out of memory <reading 4 candidates>"
