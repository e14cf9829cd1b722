"""From verdicts to what the report says: scores, parts, noise, comparisons, and the notes beside them."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.judge import verdicts as disk
from harness.judge.verdicts import Verdict
from harness.measure.compare import compare
from harness.measure.judged import SCORE, judge_notes, pair_table, rating_table
from harness.measure.summary import overall, samples, summarise
from harness.report import write
from harness.report.detail import collect
from harness.report.tables import notes
from harness.report.texts import terminal
from harness.store.folder import Store
from tests.judged import data, numbered, run
from tests.pages import block_of

CATEGORIES = ("writing", "math", "stem", "writing")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rows = numbered(*[(1, 1)] * 4)
    return run(tmp_path / "run", data(tmp_path / "data", 4), {"greedy": rows, "top_p": rows})


def verdict(strategy: str, question: int, turn: int, rating: float | None = None, **more: Any) -> Verdict:
    status = more.pop("status", "unparsed" if rating is None else "ok")
    return Verdict(**{"judge": "j", "where": "http://h/v1", "settings": {"temperature": 0}, "key": "k",
                      "mode": "single", "task": "mt_bench", "example": f"mt_bench/{81 + question}",
                      "strategy": strategy, "sample": 0,
                      "repeat": 0, "turn": turn, "category": CATEGORIES[question], "status": status, "rating": rating,
                      **more})


def say(store: Store, *verdicts: Verdict) -> None:
    disk.begin(store.folder)
    disk.append(store.folder, verdicts)


def rate(store: Store, strategy: str, ratings: list[tuple[float | None, float | None]], **more: Any) -> None:
    say(store, *(verdict(strategy, question, turn, value, **more)
                 for question, pair in enumerate(ratings) for turn, value in enumerate(pair, start=1)))


def row(store: Store, strategy: str) -> dict[str, Any]:
    found = rating_table(store)
    return {str(key): value for key, value in found[found["strategy"] == strategy].iloc[0].to_dict().items()}


def test_the_score_is_the_mean_over_turns_and_what_is_unparsed_is_dropped(store: Store) -> None:
    rate(store, "greedy", [(8, 6), (None, 2), (10, 4), (9, 3)])
    found = row(store, "greedy")
    assert found["score"] == pytest.approx((8 + 6 + 2 + 10 + 4 + 9 + 3) / 7)  # FastChat's, not the mean of 4 means
    assert (found["turn_1"], found["turn_2"]) == (9, 3.75)
    assert (found["writing"], found["math"], found["stem"]) == (6.5, 2, 7)
    assert found["score_low"] < found["score"] < found["score_high"]
    assert (found["verdicts"], found["unparsed"], found["failed"], found["reused"], found["odd"]) == (8, 1, 0, 0, 0)
    assert found["coding"] != found["coding"]
    assert found["noise"] != found["noise"]


def test_the_summary_has_it_as_quality(store: Store) -> None:
    before = summarise(store).set_index("strategy")
    assert set(before["quality_note"]) == {"no judge"}
    rate(store, "greedy", [(8, 6), (None, 2), (10, 4), (9, 3)])
    rate(store, "top_p", [(6, 6), (3, 2), (5, 4), (None, None)])
    found = summarise(store).set_index("strategy")
    assert set(found["quality_metric"]) == {SCORE}
    assert set(found["quality_note"]) == {""}
    for spec in ("greedy", "top_p"):
        judged = row(store, spec)
        assert [found.loc[spec, f"quality{end}"] for end in ("", "_low", "_high")] == [
            pytest.approx(judged[f"score{end}"]) for end in ("", "_low", "_high")]
    assert found.loc["top_p", "quality"] == pytest.approx(26 / 6)
    scores = samples(store).set_index(["strategy", "example"])[f"score_{SCORE}"]
    assert scores["greedy", "mt_bench/81"] == 7
    assert scores["greedy", "mt_bench/82"] == 2
    assert scores["top_p", "mt_bench/84"] != scores["top_p", "mt_bench/84"]
    assert found.loc["top_p", "quality_p"] == found.loc["top_p", "quality_p"]
    assert overall(summarise(store)).set_index("strategy").loc["top_p", "quality_mean"] == pytest.approx(26 / 60)
    assert not any(str(name).startswith("pass_at") for name in found)


def test_equal_ratings_of_one_are_no_share_of_ones(store: Store) -> None:
    rate(store, "greedy", [(1, 1)] * 4)
    found = summarise(store).set_index("strategy").loc["greedy"]
    assert (found["quality"], found["quality_low"], found["quality_high"]) == (1, 1, 1)


def test_the_noise_of_judging_again(store: Store) -> None:
    """Ratings 5 and 7 of one prompt, 6 and 6 of another: within-prompt variance 1 with 2 degrees of freedom."""
    say(store, *(verdict("greedy", 0, turn, value, again=again)
                 for turn, pair in enumerate([(5, 7), (6, 6)], start=1) for again, value in enumerate(pair)))
    found = row(store, "greedy")
    assert found["score"] == 6
    assert found["noise"] == pytest.approx(4.302653 * (2 * 1 * (1 / 2 + 1 / 2) / 4) ** 0.5, rel=1e-6)
    assert next(judge_notes(store, "single")).startswith("rated by j (http://h/v1), 2 times; 4 verdicts asked for, 0")


def test_several_ratings_of_a_turn_are_one_turn(store: Store) -> None:
    say(store, *(verdict("greedy", 0, 1, value, again=again) for again, value in enumerate((2, 4, 6))),
        verdict("greedy", 0, 2, 10))
    assert row(store, "greedy")["score"] == 7


def test_the_judge_asked_last_counts_and_a_failure_is_overtaken(store: Store) -> None:
    rate(store, "greedy", [(1, 1)] * 4, judge="old")
    rate(store, "greedy", [(5, 5)] * 4)
    say(store, verdict("greedy", 0, 1, status="failed", error="500"))
    assert row(store, "greedy")["failed"] == 1
    say(store, verdict("greedy", 0, 1, 9))
    found = row(store, "greedy")
    assert (found["score"], found["failed"], found["verdicts"]) == (44 / 8, 0, 8)
    assert "earlier verdicts of old are kept, and not shown" in list(judge_notes(store, "single"))


def test_what_a_reader_must_know_is_said(store: Store) -> None:
    rate(store, "greedy", [(8, 6), (None, 12), (10, 0), (9, 3)])
    say(store, verdict("top_p", 0, 1, 8, reused=True), verdict("top_p", 0, 2, status="failed", error="500"))
    assert list(judge_notes(store, "single")) == [
        "rated by j (http://h/v1); 9 verdicts asked for, 1 taken from equal answers",
        "1 of 10 verdicts of j hold no verdict in the wanted form and count in no mean",
        "1 of 10 verdicts of j could not be had: the same command asks again",
        "2 ratings of j are not from 1 to 10, and count as they are",
        "10 of 16 verdicts of j were requested: the same command resumes",
    ]
    assert list(judge_notes(store, "pairwise")) == []


def pairs(store: Store, *games: tuple[str | None, str | None]) -> None:
    """The winner of each question's first turn, in the first order and in the second."""
    say(store, *(verdict("top_p", question, 1, mode="pairwise", against="greedy", swapped=swapped, winner=winner,
                         status="ok" if winner else "unparsed")
                 for question, game in enumerate(games) for swapped, winner in enumerate(game)))


def test_comparisons_need_both_orders_to_agree(store: Store) -> None:
    pairs(store, ("strategy", "strategy"), ("strategy", "baseline"), ("tie", "strategy"), ("baseline", None))
    (found,) = pair_table(store).to_dict("records")
    assert (found["wins"], found["ties"], found["losses"]) == (1, 2, 0)
    assert found["win_rate"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found["disagreed"] == pytest.approx(2 / 3)
    assert (found["verdicts"], found["unparsed"]) == (8, 1)
    assert rating_table(store).empty
    assert set(summarise(store)["quality_note"]) == {"no judge"}
    assert next(judge_notes(store, "pairwise")).startswith("compared with greedy by j (http://h/v1); 8 verdicts")


def test_the_report_has_tables_notes_and_scores(store: Store, tmp_path: Path) -> None:
    rate(store, "greedy", [(8, 6), (7, 2), (10, 4), (9, 3)])
    rate(store, "top_p", [(6, 6), (3, 2), (5, 4), (7, 1)])
    pairs(store, ("strategy", "strategy"), ("strategy", "baseline"))
    write([store], tmp_path / "report")
    assert "6.125" in (tmp_path / "report" / "judge.csv").read_text()
    assert "win_rate" in (tmp_path / "report" / "judge-pairs.csv").read_text()
    text = (tmp_path / "report" / "summary.md").read_text()
    assert "Quality: mt_bench_score" in text
    assert "### mt_bench: Judge: ratings" in text
    assert "- rated by j (http://h/v1); 16 verdicts asked for, 0 taken from equal answers" in text
    assert "mt_bench_score_turn_2" in block_of([store])["cells"]["0"][0]["scores"]
    for section in collect([store]).sections:
        console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
        console.print(terminal(section))
        shown = console.export_text()
        console.file.close()
        assert "…" not in shown
        assert "top_p" in shown
    assert not [note for note in notes(summarise(store)) if "no quality" in note]


def test_two_judged_runs_are_compared(tmp_path: Path) -> None:
    source, rows = data(tmp_path / "data", 4), numbered(*[(1, 1)] * 4)
    a, b = (run(tmp_path / name, source, {"greedy": rows, "top_p": rows}) for name in "ab")
    for store, shift in ((a, 0), (b, 2)):
        rate(store, "greedy", [(4, 4), (5, 3), (6, 6), (2, 2)])
        rate(store, "top_p", [(4 + shift, 4), (5, 3 + shift), (6, 6), (2, 2)])
    found = {(cell.strategy, cell.task): cell.quality for cell in compare(a, b).cells}
    assert found["top_p", "mt_bench"] == (pytest.approx(4), pytest.approx(4.5))
