"""A page of two runs of one task: what both answered to the same prompt stands side by side, each with its run."""

import pytest

from harness.report import page
from harness.store.schema import Expected
from tests.browser.conftest import Visit, evaluate
from tests.runs import manifest, record, strategy, task, turn, write

ANSWERS = {("before", "greedy"): "six red apples", ("before", "beam:width=4"): "six apples",
           ("after", "greedy"): "six green apples", ("after", "beam:width=4"): "five apples"}
SCRIPT = """
  const looks = () => ({
    labels: find("#sample article h3").map((title) => title.textContent),
    texts: find("#sample article pre").map((text) => text.textContent),
    marked: find("#sample article mark").map((word) => word.textContent.trim()).filter(Boolean),
    same: find("#sample article .note").map((note) => note.textContent),
    choice: find("#sample select[aria-label^=Compare] option").map((option) => option.textContent).slice(1) });
  const until = async (count) => {
    for (let turn = 0; turn < 30 && find("#sample article").length !== count; turn += 1) await pause(); };
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    specs, stores = dict.fromkeys(spec for _, spec in ANSWERS), []
    for run in ("before", "after"):
        turns = {(spec, number): [turn([1, 1], [0.1, 0.1], text=f"{ANSWERS[run, spec]} {number}")]
                 for number in range(2) for spec in specs}
        records = [record("nano_math", f"e{number}", spec, answer, 1) for (spec, number), answer in turns.items()]
        store = write(folder / run, manifest([*map(strategy, specs)], [task("nano_math")]), records)
        store.write_expected([Expected(task="nano_math", example="e0", text="six apples")])
        stores.append(store)
    return page.render(stores)


def test_a_link_shows_the_answers_of_two_runs_side_by_side(text: str, visit: Visit) -> None:
    both = visit(text, "#nano_math/e0/greedy%20(before)/greedy%20(after)")
    seen = evaluate(both, SCRIPT + "await until(2); seen.both = looks();")["both"]
    assert seen["labels"] == ["greedy (before)", "greedy (after)"]
    assert seen["texts"] == ["six red apples 0", "six green apples 0"]
    assert seen["marked"] == ["red", "green"]
    assert seen["same"] == []
    assert seen["choice"] == ["beam (before)", "beam (after)"]


def test_the_list_adds_the_answer_of_the_other_run(text: str, visit: Visit) -> None:
    seen = evaluate(visit(text, "#nano_math/e0/beam%20(after)"), SCRIPT + """
      await until(1); seen.alone = looks();
      const add = document.querySelector("#sample select[aria-label^=Compare]");
      add.value = "greedy (before)"; add.dispatchEvent(new Event("change"));
      await until(2); seen.two = looks(); seen.address = decodeURIComponent(location.hash);
      document.getElementById("next").click(); await pause(); await pause(); seen.next = looks();
      find("#sample article a").at(-1).click(); await until(1); seen.left = looks();
    """)
    assert seen["alone"]["labels"] == ["beam (after)"]
    assert sorted(seen["alone"]["choice"]) == ["beam (before)", "greedy (after)", "greedy (before)"]
    assert seen["two"]["labels"] == ["beam (after)", "greedy (before)"]
    assert seen["two"]["marked"] == ["five", "six", "red"]
    assert seen["address"] == "#nano_math/e0/beam (after)/greedy (before)"
    assert seen["next"]["texts"] == ["five apples 1", "six red apples 1"]
    assert seen["left"]["labels"] == ["beam (after)"]


def test_a_baseline_is_compared_with_that_of_its_own_run(text: str, visit: Visit) -> None:
    seen = evaluate(visit(text, "#nano_math/e0/beam%20(after)"), SCRIPT + """
      await until(1); find("#sample .button").find((link) => link.textContent.startsWith("compare with")).click();
      await until(2); seen.two = looks();
    """)["two"]
    assert seen["labels"] == ["greedy (after)", "beam (after)"]
