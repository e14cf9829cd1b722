import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from harness.report import page
from harness.store.schema import Expected, StepTree
from tests.runs import manifest, realistic, record, strategy, task, turn, write

AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
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
const table = document.querySelector("[data-name=nano_math] table"), body = table.tBodies[0];
const column = (name) => [...table.tHead.rows[0].cells].find((cell) => cell.textContent === name);
const values = (name) => [...body.rows].map((row) => row.cells[column(name).cellIndex].dataset.sort);
const pause = () => new Promise((resolve) => setTimeout(resolve, 100));
const find = (selector) => [...document.querySelectorAll(selector)];
const named = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.dataset.name);
const board = document.getElementById("board"), sample = document.getElementById("sample");
await pause();
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page.render([realistic(tmp_path_factory.mktemp("runs") / "run")])


def browse(text: str, folder: Path, script: str, fragment: str = "", setup: str = SETUP) -> dict[str, Any]:
    """Open the page in a real browser, run `script` in it, and return what it put into `seen`."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    path = folder / "page.html"
    path.write_text(text.replace("<head>", f"<head>{BEFORE}").replace("</body>", AFTER % (setup + script) + "</body>"))
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
      seen.address = location.hash;
      column("speed-up").querySelector("button").click();
      seen.up = values("speed-up");
      column("strategy").querySelector("button").click();
      seen.names = [...body.rows].map((row) => row.cells[0].textContent.trim().split(/\\s/)[0]);
      seen.marks = table.querySelectorAll("[aria-sort]").length;
    """, "#nano_math")
    known = [float(value) for value in seen["down"][:-1]]
    assert known == sorted(known, reverse=True)
    assert (seen["aria"], seen["address"]) == ("descending", "#nano_math?sort=-speedup")
    assert [float(value) for value in seen["up"][:-1]] == sorted(known)
    assert seen["down"][-1] == seen["up"][-1] == ""  # the strategy that could not run
    assert seen["names"] == sorted(seen["names"])
    assert seen["marks"] == 1


def test_a_tab_shows_its_task_alone_and_keeps_the_filters(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      const visible = () => find("main > section:not([hidden])").map((section) => section.dataset.name);
      seen.first = visible(); seen.filtered = named(table);
      document.querySelector("nav a:last-child").click(); await pause();
      seen.then = visible(); seen.current = document.querySelector("nav [aria-current]").textContent;
      seen.address = location.hash;
    """, "#nano_code?family=search")
    assert (seen["first"], seen["then"], seen["current"]) == (["nano_code"], ["mt_bench"], "mt_bench")
    assert seen["address"] == "#mt_bench?family=search"
    assert seen["filtered"]
    assert all("beam" in name for name in seen["filtered"])


def test_filters_narrow_tables_and_pictures_down(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      const field = document.querySelector("#filters [name=text]");
      seen.before = named(board).length; seen.points = find("[data-name=all] .pictures .point").length;
      field.value = "Beam"; field.dispatchEvent(new Event("input", { bubbles: true })); await pause();
      seen.beams = named(board); seen.left = document.getElementById("left").textContent; seen.address = location.hash;
      seen.fewer = find("[data-name=all] .pictures .point").length;
      field.value = ""; field.dispatchEvent(new Event("input", { bubbles: true }));
      const least = document.querySelector("#filters [name=quality]");
      least.value = "0.6"; least.dispatchEvent(new Event("input", { bubbles: true })); await pause();
      seen.good = [...board.tBodies[0].rows].filter((row) => !row.hidden).map((row) => Number(row.dataset.quality));
    """)
    assert seen["address"] == "#all?text=Beam"
    assert seen["beams"]
    assert all("beam" in name for name in seen["beams"])
    assert seen["left"] == f"{len(seen['beams'])} of {seen['before']} strategies"
    assert seen["fewer"] == len(seen["beams"]) < seen["points"]
    assert seen["good"]
    assert min(seen["good"]) >= 0.6


def test_further_columns_are_shown_on_request(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      const visible = () => [...table.tHead.rows[0].cells].filter((cell) => cell.checkVisibility()).length;
      seen.few = visible();
      document.querySelector("[data-name=nano_math] .more-columns").click(); await pause();
      seen.all = visible(); seen.address = location.hash;
    """, "#nano_math")
    assert seen["few"] == 6
    assert seen["all"] > 12
    assert seen["address"] == "#nano_math?columns=all"


def test_the_answers_lead_to_one_prompt_and_keys_to_the_next(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      const cells = find("[data-name=nano_math] .answers td a");
      seen.examples = find("[data-name=nano_math] .answers tbody tr").length;
      seen.label = cells[1].getAttribute("aria-label");
      cells[1].click(); await pause();
      seen.address = location.hash; seen.shown = !sample.hidden;
      seen.place = sample.querySelector(".crumbs").textContent;
      dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true })); await pause();
      seen.next = sample.querySelector(".crumbs").textContent;
      sample.querySelector(".tools input").click(); await pause();
      seen.wrong = location.hash;
    """, "#nano_math")
    assert seen["examples"] == 12
    assert seen["shown"]
    assert seen["place"] == "nano_math / nano_math/0"
    assert seen["next"] == "nano_math / nano_math/1"
    assert seen["address"].startswith("#nano_math/nano_math%2F0/")
    assert seen["wrong"].endswith("?only=wrong")


def test_two_answers_are_compared_word_by_word_and_stay_inert(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, """
      const labels = find("[data-name=nano_math] tbody tr").map((row) => row.dataset.name);
      location.hash = ["#nano_math", "nano_math%2F2", labels[0], labels[1]].map((part, index) =>
        index > 1 ? encodeURIComponent(part) : part).join("/");
      await pause(); await pause();
      seen.titles = [...sample.querySelectorAll("article h3")].map((title) => title.textContent);
      seen.labels = labels.slice(0, 2);
      seen.blocks = [...sample.querySelectorAll("article pre")].map((block) => block.textContent);
      seen.marked = [...sample.querySelectorAll("article")].map((part) =>
        [...part.querySelectorAll("mark")].map((mark) => mark.textContent).join(""));
      seen.injected = sample.querySelectorAll("b").length;
      seen.prompt = sample.querySelector(".prompt").textContent;
    """, "#nano_math")
    own, other = seen["blocks"]
    assert seen["titles"] == seen["labels"]
    assert own != other
    assert all(seen["marked"])
    assert all(len(marked) < len(block) for marked, block in zip(seen["marked"], seen["blocks"], strict=True))
    assert "</script><b>" in own
    assert seen["injected"] == 0
    assert seen["prompt"].startswith("Question 2 of nano_math")


def test_tokens_show_how_they_came_to_be(tmp_path: Path) -> None:
    """One drafting run by hand: kinds, steps and what is said of them."""
    words = ["The", " cat", " sat", " on", " the", " mat", "."]
    one = turn([1, 4, 2], [0.1, 0.2, 0.1], ids=list(range(7)), text="".join(words), drafted=[0, 3, 3],
               accepted=[0, 3, 1])
    ends = [sum(map(len, words[:count])) for count in range(1, 8)]
    one = one.model_copy(update={"ends": ends, "steps": one.steps.model_copy(update={"whole": [0, 1, 0]})})
    records = [record("math", "e", spec, [one], score) for spec, score in (("greedy", 1), ("speculative", 0))]
    store = write(tmp_path / "run", manifest([strategy("greedy"), strategy("speculative", "speculative")],
                                             [task("math", examples=1)]), records)
    store.write_expected([Expected(task="math", example="e", text="<i>42</i>")])
    seen = browse(page.render([store]), tmp_path, """
      await pause();
      seen.tokens = [...sample.querySelectorAll(".tokens .token")].map((token) => [token.className, token.textContent]);
      seen.steps = [...sample.querySelectorAll(".tokens .step")].map((step) => step.title);
      seen.bars = sample.querySelectorAll(".ribbon g").length;
      seen.expected = [...sample.querySelectorAll("details pre")].map((block) => block.textContent);
      seen.legend = sample.querySelector(".legend").textContent; seen.facts = sample.querySelector(".facts").className;
    """, "#math/e/speculative", setup="const pause = () => new Promise((resolve) => setTimeout(resolve, 100)); "
                                      "const sample = document.getElementById('sample');")
    kinds = ["own", "accepted", "accepted", "accepted", "bonus", "accepted", "corrected"]
    assert seen["tokens"] == [[f"token {kind}", word] for kind, word in zip(kinds, words, strict=True)]
    assert seen["steps"] == ["step 1: 1 token, 100 ms", "step 2: 3 drafted, 3 accepted, 4 tokens, 200 ms",
                             "step 3: 3 drafted, 1 accepted, 2 tokens, 100 ms"]
    assert (seen["bars"], seen["facts"]) == (3, "facts wrong")
    assert seen["expected"] == ["prompt", "<i>42</i>"]
    assert seen["legend"] == "accepted 4bonus 1corrected 1own 1"


def test_answers_are_played_at_their_recorded_times(tmp_path: Path) -> None:
    """Greedy takes 0.7 s for seven tokens, the other 0.2 s for two steps: after 0.5 s greedy is not done."""
    slow, fast = turn([1] * 7, [0.1] * 7, text="abcdefg"), turn([1, 6], [0.1, 0.1], text="abcdefg")
    ends = {"ends": list(range(1, 8))}
    records = [record("math", "e", spec, [one.model_copy(update=ends)], 1)
               for spec, one in (("greedy", slow), ("speculative", fast))]
    described = manifest([strategy("greedy"), strategy("speculative", "speculative")], [task("math", examples=1)])
    seen = browse(page.render([write(tmp_path / "run", described, records)]), tmp_path, """
      const hidden = () => [...document.querySelectorAll("article")].map((x) => x.querySelectorAll(".unborn").length);
      await pause(100);
      [...document.querySelectorAll("#sample button")].find((one) => one.textContent.startsWith("play")).click();
      await pause(450); seen.later = hidden();
      await pause(600); seen.end = hidden(); seen.clock = document.querySelector(".clock").textContent;
    """, "#math/e/greedy/speculative?show=tokens",
                  setup="const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));")
    assert 0 < seen["later"][0] < 7
    assert seen["later"][1] == 0
    assert (seen["end"], seen["clock"]) == ([0, 0], "0.7 s for the slowest")


def test_the_draft_of_a_step_is_drawn_as_a_tree(tmp_path: Path) -> None:
    """Step 2 drafts five tokens in two branches, and accepts two of them; the third is no draft."""
    one = turn([1, 3], [0.1, 0.2], ids=[1, 2, 3, 4], text="a b<c d", drafted=[0, 5], accepted=[0, 2])
    tree = StepTree(step=1, tokens=[2, 9, 3, 8, 7], parents=[-1, -1, 0, 0, 1], path=[0, 2],
                    texts=[" b", " x", "<c", "\n", "</script>"])
    one = one.model_copy(update={"ends": [1, 3, 5, 7], "trees": [tree]})
    store = write(tmp_path / "run", manifest([strategy("greedy"), strategy("tree", "speculative")],
                                             [task("math", examples=1)]), [])
    for spec in ("greedy", "tree"):
        store.append(record("math", "e", spec, [one], 1))
    seen = browse(page.render([store]), tmp_path, """
      await pause();
      seen.nodes = [...document.querySelectorAll(".tree text")].map((node) => [node.classList[0], node.lastChild.data]);
      seen.lines = [...document.querySelectorAll(".tree path")].map((line) => line.classList[0]);
      seen.said = document.querySelector(".tree").getAttribute("aria-label");
      seen.steps = [...document.querySelectorAll(".trees option")].map((option) => option.textContent);
    """, "#math/e/tree", setup="const pause = () => new Promise((resolve) => setTimeout(resolve, 100));")
    assert seen["nodes"] == [["taken", "␣b"], ["left", "␣x"], ["taken", "<c"], ["left", "⏎"], ["left", "</script>"]]
    assert seen["lines"] == ["taken", "left", "taken", "left", "left"]
    assert seen["said"] == "5 drafted tokens, 2 accepted:  b<c"
    assert seen["steps"] == ["draft of step 2"]


def test_pictures_of_prompts_and_of_accepted_drafts(tmp_path: Path) -> None:
    """Two drafts of three tokens, one accepted whole and one to its first token, at twice greedy's speed."""
    drafting = turn([1, 4, 2], [0.1, 0.2, 0.1], drafted=[0, 3, 3], accepted=[0, 3, 1])
    records = [record("math", "e", "greedy", [turn([1] * 7, [0.1] * 8)], 1),
               record("math", "e", "speculative", [drafting], 1)]
    described = manifest([strategy("greedy"), strategy("speculative", "speculative")], [task("math", examples=1)])
    seen = browse(page.render([write(tmp_path / "run", described, records)]), tmp_path, """
      const titles = (name) => [...document.querySelectorAll(`[aria-label="${name}"] circle`)].map((dot) =>
        (dot.querySelector("title") || dot.parentElement.querySelector("title")).textContent);
      await pause();
      seen.prompts = titles("Speed-up of each prompt"); seen.drafts = titles("Acceptance of drafts by position");
      document.querySelector('[aria-label="Speed-up of each prompt"] a').dispatchEvent(
        new MouseEvent("click", { bubbles: true, cancelable: true })); await pause();
      seen.address = location.hash;
    """, "#math", setup="const pause = () => new Promise((resolve) => setTimeout(resolve, 100));")
    assert seen["prompts"] == ["speculative, e: 2 times as fast"]
    assert seen["drafts"] == [f"speculative: the first {k} accepted in {share} % of drafts that long"
                              for k, share in ((1, 100), (2, 50), (3, 50))]
    assert seen["address"] == "#math/e/speculative"


def test_no_serious_finding_of_accessibility_in_any_view(text: str, tmp_path: Path) -> None:
    seen = browse(text, tmp_path, AXE + """
      const labels = find("[data-name=nano_math] tbody tr").map((row) => encodeURIComponent(row.dataset.name));
      seen.found = [];
      for (const view of ["#all", "#nano_math?columns=all", `#nano_math/nano_math%2F2/${labels[1]}`,
                          `#nano_math/nano_math%2F2/${labels[0]}/${labels[1]}`]) {
        location.hash = view; await pause(); await pause();
        const { violations } = await axe.run();
        for (const { id, impact, nodes } of violations) seen.found.push([view, id, impact, nodes[0].html]);
      }
    """)
    assert [one for one in seen["found"] if one[2] in ("serious", "critical")] == []
