"""Judging a run: every verdict right, nothing asked twice, equal answers judged once, interruptions resumed."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.judge import verdicts as disk
from harness.judge.judging import examples_of, request_verdicts
from harness.judge.verdicts import Verdict
from harness.plugins.data import DataSource
from harness.store.folder import Store
from tests.endpoint import better, serving
from tests.judged import CATEGORIES, data, endpoint, judge_all, numbered, planned, run

NUMBERS = {"greedy": [(n % 10, (3 * n) % 10) for n in range(12)], "top_p": [(n % 7, (n * n) % 10) for n in range(12)],
           "lossless": [(n % 10, (3 * n) % 10) for n in range(12)]}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return data(tmp_path / "data", 12)


@pytest.fixture
def store(tmp_path: Path, source: Path) -> Store:
    return run(tmp_path / "run", source, {spec: numbered(*rows) for spec, rows in NUMBERS.items()})


def number(verdict: Verdict) -> int:
    return int(verdict.example.rpartition("/")[2]) - 81


def right(verdict: Verdict) -> bool:
    return verdict.rating == NUMBERS[verdict.strategy][number(verdict)][verdict.turn - 1]


def slots(store: Store) -> dict[disk.Slot, Verdict]:
    found = disk.latest(disk.load(store.folder), "single")
    assert len({one.slot for one in found}) == len(found)
    return {one.slot: one for one in found}


def test_every_answer_gets_its_own_rating_and_equal_ones_share_it(store: Store, source: Path) -> None:
    with serving() as server:
        asked = judge_all(store, source, endpoint(server.url))
    found = slots(store)
    assert len(found) == 3 * 12 * 2
    assert all(right(one) and one.category == CATEGORIES[number(one) % 3] for one in found.values())
    assert Counter(one.reused for one in found.values() if one.strategy == "lossless") == {True: 24}
    assert set(server.seen.values()) == {1}
    fresh = sum(a != b for turn in (1, 2) for a, b in zip(*([one[:turn] for one in NUMBERS[spec]]
                                                            for spec in ("greedy", "top_p")), strict=True))
    assert len(asked) == len(server.seen) == 24 + fresh
    assert {body["model"] for body in server.bodies} == {"judge-1"}


MISBEHAVING: dict[str, Callable[[str, int], str]] = {
    "now and then": lambda prompt, number: ["429 soon", "500", "broken", "empty", "dropped", "silent", "page", ""][
        (len(prompt) + sum(prompt.encode()) + number) % 8],
    "first": lambda prompt, number: ["429", "broken", "503"][number] if number < 3 else "",
}


@pytest.mark.parametrize("wrong", MISBEHAVING)
def test_misbehaviour_changes_no_verdict(store: Store, source: Path, wrong: str) -> None:
    with serving(MISBEHAVING[wrong]) as server:
        judge_all(store, source, endpoint(server.url, concurrency=8, tries=9))
    found = slots(store)
    assert len(found) == 72
    assert all(right(one) for one in found.values())
    assert sum(one.tries for one in found.values()) == sum(server.seen.values()) > 40 * 1.5


def test_failures_are_asked_again_and_what_holds_no_rating_is_not(store: Store, source: Path) -> None:
    """Greedy's and so lossless's first answers {4} fail, all {5} are not parsed."""
    with serving(lambda prompt, _: "400" if "<{4}>" in prompt else "unparsed" if "{5}" in prompt else "") as server:
        judge_all(store, source, endpoint(server.url))
        found = slots(store)
        count = Counter(one.status for one in found.values())
        assert count["failed"] == sum("4" in map(str, row[:turn]) for rows in NUMBERS.values() for row in rows
                                      for turn in (1, 2))
        assert count["unparsed"] > 0
        assert all(right(one) for one in found.values() if one.status == "ok")
        assert all(one.rating is None for one in found.values() if one.status != "ok")
        assert all(one.error == "400: no, not with Bearer none" for one in found.values() if one.status == "failed")
        seen = Counter(server.seen)
        server.wrong = lambda prompt, number: ""
        judge_all(store, source, endpoint(server.url))
        again = server.seen - seen
        assert all("{4}" in prompt for prompt in again)
        assert set(again.values()) == {1}
    assert Counter(one.status for one in slots(store).values()) == {"ok": 72 - count["unparsed"],
                                                                    "unparsed": count["unparsed"]}


@pytest.mark.parametrize("after", [1, 7, 20])
def test_an_interrupted_judging_asks_nothing_twice(store: Store, source: Path, after: int) -> None:
    seen = list[Verdict]()

    def stop(verdict: Verdict) -> None:
        seen.append(verdict)
        if len(seen) == after:
            raise KeyboardInterrupt

    with serving() as server:
        judge = endpoint(server.url, concurrency=5)
        with pytest.raises(KeyboardInterrupt):
            request_verdicts(store, judge, planned(store, source, judge), stop)
        before = len(server.seen)
        assert after <= before < after + 10  # with those that were under way
        assert sum(not one.reused for one in slots(store).values()) == before
        judge_all(store, source, endpoint(server.url))
        assert set(server.seen.values()) == {1}
    assert all(right(one) for one in slots(store).values())
    assert len(slots(store)) == 72


@pytest.mark.parametrize("torn", [b'{"judge": "jud', b"\x00\xff"])
def test_a_torn_line_is_dropped_and_asked_again(store: Store, source: Path, torn: bytes) -> None:
    with serving() as server:
        judge_all(store, source, endpoint(server.url))
        path = disk.file(store.folder)
        lines = path.read_bytes().splitlines(keepends=True)
        lost = json.loads(lines[-1])
        path.write_bytes(b"".join(lines[:-1]) + torn)
        work = planned(store, source, endpoint(server.url))
        assert (work.known, len(work.ask) + work.reused) == (71, 1)
        judge_all(store, source, endpoint(server.url))
        assert sum(server.seen.values()) == len(server.seen) + (not lost["reused"])
    assert len(slots(store)) == 72


def test_a_bad_line_in_the_middle_is_refused_by_its_number(store: Store, source: Path) -> None:
    with serving() as server:
        judge_all(store, source, endpoint(server.url))
    path = disk.file(store.folder)
    path.write_bytes(b'{"judge": 1}\n' + path.read_bytes())
    with pytest.raises(UserError, match=r"verdicts.jsonl, line 1: not a verdict \(judge: "):
        disk.load(store.folder)


def test_another_judge_other_settings_and_repeats_are_asked_anew(store: Store, source: Path) -> None:
    with serving() as server:
        judge_all(store, source, endpoint(server.url))
        once = len(server.seen)
        other = endpoint(server.url)
        other.settings["seed"] = 4
        assert len(planned(store, source, other).ask) == once
        other.judge = "judge-2"
        assert len(planned(store, source, other).ask) == once
        thrice = planned(store, source, endpoint(server.url), repeats=3)
        assert (len(thrice.ask), thrice.known, thrice.wanted) == (2 * once, 72, 216)
        judge_all(store, source, endpoint(server.url), repeats=3)
        assert set(server.seen.values()) == {3}


def test_a_changed_prompt_is_asked_anew(store: Store, source: Path) -> None:
    with serving() as server:
        judge_all(store, source, endpoint(server.url))
        path = source / "mt_bench" / "reference_answer_gpt-4.jsonl"
        path.write_text(path.read_text().replace("Truth 1.", "Other truth 1."))
        work = planned(store, source, endpoint(server.url))
    assert {slot.example for ask in work.ask for slot in ask.slots} == {"mt_bench/82"}
    assert work.known == 72 - 6


def test_the_better_answer_wins_in_both_orders(store: Store, source: Path) -> None:
    with serving(say=better) as server:
        judge_all(store, source, endpoint(server.url), "pairwise", baseline="greedy")
        assert set(server.seen.values()) == {1}
    found = disk.latest(disk.load(store.folder), "pairwise")
    assert len(found) == 2 * 12 * 2 * 2
    for one in found:
        mine, other = (NUMBERS[spec][number(one)] for spec in (one.strategy, "greedy"))
        mine, other = mine[:one.turn], other[:one.turn]
        wanted = "strategy" if mine[-1] > other[-1] else "baseline" if mine[-1] < other[-1] else "tie"
        assert one.winner == wanted, one
        assert one.reused == (mine == other)
        assert one.against == "greedy"


def test_a_verdict_is_reused_when_the_roles_are_swapped(store: Store, source: Path) -> None:
    with serving(say=better) as server:
        judge_all(store, source, endpoint(server.url), "pairwise", baseline="greedy")
        before = len(server.seen)
        judge_all(store, source, endpoint(server.url), "pairwise", baseline="top_p")
        assert len(server.seen) == before
    for one in (each for each in disk.load(store.folder) if each.against == "top_p"):
        mine, other = (NUMBERS[spec][number(one)][one.turn - 1] for spec in (one.strategy, "top_p"))
        assert one.winner == ("strategy" if mine > other else "baseline" if mine < other else "tie"), one


def test_other_questions_than_those_of_the_run_are_refused(store: Store, source: Path) -> None:
    path = source / "mt_bench" / "question.jsonl"
    path.write_text(path.read_text().replace("First 3?", "First three?"))
    with pytest.raises(UserError, match="The questions of mt_bench differ from those of the run in"):
        examples_of(store, DataSource(source))


def test_a_run_without_anything_to_judge_is_refused(store: Store, source: Path) -> None:
    with pytest.raises(UserError, match=r"has no task 'mt_bensh' to judge\. Did you mean 'mt_bench'"):
        examples_of(store, DataSource(source), ["mt_bensh"])
    (task,) = store.manifest.tasks
    scored = task.model_copy(update={"unscored": None})
    other = Store(store.folder, store.manifest.model_copy(update={"tasks": [scored]}))
    with pytest.raises(UserError, match="no task that needs a judge; run mt_bench or mt_bench_official"):
        examples_of(other, DataSource(source))
