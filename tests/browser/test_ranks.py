"""The ranks of sampled tokens on the page, in a real browser."""

from pathlib import Path
from typing import Any

from harness.report import page
from tests.browser.conftest import Visit, evaluate
from tests.runs import manifest, record, strategy, task, turn, write

WORDS = ["The", " cat", " sat", "<b>", " mat"]
RANKS = [1, 2, 10, 11, 1]
READ = """
  const texts = (selector) => [...document.querySelectorAll(selector)].map((found) => found.textContent);
  const tokens = [...document.querySelectorAll("#sample .tokens .token")];
  seen.classes = tokens.map((token) => token.className); seen.words = tokens.map((token) => token.textContent);
  seen.titles = tokens.map((token) => token.title.split("\\n")[2] ?? "");
  seen.marks = tokens.map((token) => getComputedStyle(token).borderTopStyle);
  seen.fills = tokens.map((token) => getComputedStyle(token).backgroundColor);
  seen.legend = texts("#sample .legend > span");
  const table = [...document.querySelectorAll("#sample details")].at(-1);
  table.open = true; await pause();
  seen.table = [...table.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
"""


def shown(ranks: list[int], folder: Path, visit: Visit) -> Any:
    """Return what the page shows of an answer in three steps, the last of which accepted both drafted tokens."""
    one = turn([1, 1, 3], [0.1, 0.1, 0.1], ids=[1, 2, 3, 4, 5], text="".join(WORDS), drafted=[0, 0, 2],
               accepted=[0, 0, 2])
    ends = [sum(map(len, WORDS[:count])) for count in range(1, 6)]
    one = one.model_copy(update={"ends": ends, "ranks": ranks})
    described = manifest([strategy("greedy"), strategy("top_p", "sampling")], [task("math", examples=1)])
    store = write(folder / "run", described, [record("math", "e", spec, [one], 1) for spec in ("greedy", "top_p")])
    return evaluate(visit(page.render([store]), "#math/e/top_p"), READ)


def test_tokens_are_marked_by_their_rank(tmp_path: Path, visit: Visit) -> None:
    seen = shown(RANKS, tmp_path, visit)
    assert seen["words"] == WORDS
    assert seen["classes"] == ["token own first", "token own near", "token accepted near", "token accepted far",
                               "token bonus first"]
    assert seen["titles"] == [f"rank {rank} of the model's distribution" for rank in RANKS]
    assert seen["marks"] == ["none", "dotted", "dotted", "solid", "none"]
    assert seen["fills"][0] != seen["fills"][1]
    assert seen["fills"][2] == seen["fills"][3], "the kind of a drafted token decides its colour"
    assert seen["legend"] == ["accepted 2", "bonus 1", "own 2", "rank 1 2", "rank 2–10 2", "rank above 10 1"]
    assert seen["table"] == [["step", "text", "rank", "drafted", "accepted", "ms"], ["1", "The", "1", "0", "0", "100"],
                             ["2", " cat", "2", "0", "0", "100"], ["3", " sat|<b>| mat", "10|11|1", "2", "2", "100"]]


def test_tokens_without_ranks_are_as_before(tmp_path: Path, visit: Visit) -> None:
    seen = shown([], tmp_path, visit)
    assert seen["classes"] == ["token own", "token own", "token accepted", "token accepted", "token bonus"]
    assert set(seen["titles"]) == {""}
    assert set(seen["marks"]) == {"none"}
    assert seen["legend"] == ["accepted 2", "bonus 1", "own 2"]
    assert seen["table"][0] == ["step", "text", "drafted", "accepted", "ms"]
