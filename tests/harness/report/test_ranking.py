"""The leaderboard in the terminal and in Markdown: what fits, what comes last, and no figure twice."""

import re
from pathlib import Path

import pytest

from harness.measure.leaderboard import RULE, leaderboard
from harness.measure.significance import FEW
from harness.measure.summary import summarise
from harness.report import ranking, tables
from harness.report.page import render
from harness.store.folder import Store
from tests import runs
from tests.figures import leave_out
from tests.harness.report.test_terminal import lines
from tests.program import call

SPEEDS = {"greedy": 1.0, "beam:width=2": 0.5, "speculative:k=4": 2.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return runs.realistic(tmp_path_factory.mktemp("runs") / "run", examples=FEW)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run of one task."""
    return of_speeds(tmp_path_factory.mktemp("runs") / "single", 8)


def of_speeds(folder: Path, problems: int) -> Store:
    """A run of one task in which speeds differ and answers do not."""
    records = [runs.record("math", f"e{n}", spec, [runs.turn([1] * 4, [(0.1 + n / 1e4) / speed] * 4)], n % 2)
               for n in range(problems) for spec, speed in SPEEDS.items()]
    described = runs.manifest([runs.strategy(spec) for spec in SPEEDS], [runs.task("math", examples=problems)])
    return runs.write(folder, described, records)


def test_a_wide_terminal_shows_more_and_a_narrow_one_all_that_ranks(store: Store) -> None:
    summary = summarise(store)
    table = ranking.terminal(summary, leaderboard(summary, {"": store.manifest}))
    narrow, wide = lines(table, 80), lines(table, 140)
    assert max(map(len, narrow)) <= 80
    assert narrow[1].split() == ["rank", "strategy", "Δ", "quality", "speed-up", "same"]
    assert not any("not shown" in line for line in narrow)
    (base,) = (line.split() for line in narrow if " greedy " in line)
    assert base[1:] == ["greedy", "+0.00", "1.00", "100", "%"]
    (refused,) = (line for line in narrow if " medusa " in line)
    assert refused.split() == ["–", "medusa", "not", "supported", "–", "–"]
    assert [line.split()[0] for line in narrow[3:]][:3] == ["1", "2", "3"]
    assert max(map(len, wide)) > 110
    assert "nano_math" in wide[1]
    assert wide[2].count("quality · ×") >= 3
    assert next(line for line in wide if " greedy " in line).count(" · 1.00") >= 3


def test_the_table_of_a_single_task_is_the_leaderboard(single: Store) -> None:
    summary = summarise(single)
    table = tables.terminal(summary, single.manifest, leaderboard(summary, {"": single.manifest}))
    narrow, wide = lines(table, 80), lines(table, 140)
    assert narrow[1].split()[:3] == ["rank", "strategy", "quality"]
    assert [line.split()[:2] for line in narrow[4:7]] == [["1", "speculative"], ["2", "greedy"], ["3", "beam"]]
    assert max(map(len, narrow)) <= 80
    assert not any("not shown" in line for line in narrow)
    assert "Δ quality" in wide[1]
    assert "p speed, Holm" in wide[1]


def test_the_leaderboard_and_the_verdict_come_last(store: Store, single: Store, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    leave_out(monkeypatch)
    several, one = (call("report", each.folder, "-o", tmp_path / str(number)).stdout
                    for number, each in enumerate((store, single)))
    order = [several.index(title) for title in ("nano (float32)", "\nLeaderboard", "\nVerdict", "\nReport: ")]
    assert order == sorted(order)
    assert several.rstrip().rpartition("\n")[2].startswith("Report: ")
    assert "Leaderboard" not in one
    assert one.count(" speculative ") == 1, "no figure is printed twice"
    shown = (tmp_path / "0" / "summary.md").read_text()
    assert shown.index("### Verdict") < shown.index("### Leaderboard") < shown.index("### nano_math")
    assert "| 1 | `" in shown


def test_runs_have_a_leaderboard_each(store: Store, single: Store) -> None:
    text = ranking.markdown([store, single], [summarise(store), summarise(single)])
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Leaderboard of run", "### Leaderboard of single"]
    assert "| 3 | `beam` |" in text


def test_a_single_strategy_is_not_ranked(tmp_path: Path) -> None:
    store = runs.write(tmp_path / "run", runs.manifest([runs.strategy("greedy")], [runs.task("math")]),
                       [runs.record("math", "1", "greedy", [runs.turn([1, 1], [0.5, 0.5])], score=1.0)])
    assert ranking.markdown([store], [summarise(store)]) == ""


def test_few_problems_get_dashes_and_the_reason_everywhere(tmp_path: Path) -> None:
    store = runs.realistic(tmp_path / "run", examples=FEW - 1)
    summary, why = summarise(store), "Not ranked: a rank needs at least 5 problems of each task, and nano_math has 4."
    shown = lines(ranking.terminal(summary, leaderboard(summary, {"": store.manifest})), 80)
    assert {line.split()[0] for line in shown if " beam " in line or " greedy " in line} == {"–"}
    assert why in " ".join(" ".join(shown).split())
    text = ranking.markdown([store], [summary])
    assert "| – | `greedy` |" in text
    assert f"- {why}" in text
    assert RULE not in text
    page = render([store])
    assert why in page
    assert RULE not in page.partition('id="board"')[0]
    board = page.partition('id="board"')[2].partition("</table>")[0]
    assert set(re.findall(r'data-label="rank">(.*?)</td>', board)) == {"–"}


@pytest.mark.parametrize("problems", [FEW - 1, FEW])
def test_the_page_marks_proven_differences_of_enough_problems(tmp_path: Path, problems: int) -> None:
    page = render([of_speeds(tmp_path / "run", problems)])
    assert bool(re.search("[▲▼]", page.partition('id="board"')[2].partition("</table>")[0])) == (problems == FEW)


def test_the_baseline_has_no_interval_beside_others(single: Store) -> None:
    summary = summarise(single)
    ranked = leaderboard(summary, {"": single.manifest})
    wide = lines(tables.terminal(summary, single.manifest, ranked), 140)
    (base,) = (line for line in wide if " greedy " in line)
    assert "+0.00 " in base
    assert "[+0.00, +0.00]" not in base


def test_tables_of_several_runs_name_their_runs(store: Store, single: Store, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch)
    shown = call("report", store.folder, single.folder, "-o", tmp_path / "both").stdout
    assert [line for line in shown.splitlines() if line.startswith(("nano (float32)", "Leaderboard"))] == [
        "nano (float32) in run", "nano (float32) in single", "Leaderboard of run"]
