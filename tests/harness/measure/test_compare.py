"""Two runs held against each other: what is refused, what is said, and the numbers recomputed from the raw records."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from harness.errors import UserError
from harness.measure.compare import CellChange, Comparison, compare
from harness.report.compare import diffs, headline, markdown, prompts, sentences
from harness.store.folder import Store
from tests.pairs import SLOW, SPECS, Planted, records, run
from tests.program import call
from tests.runs import MODEL, record, task, turn, write


@pytest.fixture
def before(tmp_path: Path) -> Store:
    return run(tmp_path / "before", Planted())


def against(before: Store, planted: Planted, **options: Any) -> Comparison:
    return compare(before, run(before.folder.parent / "after", planted), **options)


def cell(found: Comparison, strategy: str) -> CellChange:
    (one,) = [cell for cell in found.cells if cell.strategy == strategy]
    return one


def test_a_slowdown_and_a_slower_machine_are_told_apart(before: Store) -> None:
    found = against(before, Planted(seed=3, machine=1.3, slower=1.1))
    assert [bool(c.speed and c.speed.p_holm < 0.05) for c in found.cells] == [False, True, False]
    slow, other = cell(found, SLOW), cell(found, SPECS[2])
    assert slow.speed
    assert other.speed
    assert slow.absolute
    assert found.machine
    assert slow.speed.low < 1 / 1.1 < slow.speed.high < 1
    assert slow.absolute.value == pytest.approx(1 / 1.43, rel=0.03)
    assert found.machine.value == pytest.approx(1 / 1.3, rel=0.03)
    assert other.speed.low < 1 < other.speed.high
    machine, said, _ = sentences(found)
    assert machine.startswith("the baseline greedy is 2")
    assert " % slower in after (p < 0.001)" in machine
    assert said.startswith("speculative on math is ")
    assert said.endswith(" % slower (p < 0.001); its tokens are the same")
    assert headline(found) == "before → after: 1 of 3 cells has changed"


def test_speeds_are_those_of_the_raw_records(before: Store) -> None:
    found = against(before, Planted(seed=1, slower=1.03))
    speeds = [{(r.example, r.strategy): len(r.turns[0].tokens) / r.seconds for r in store.records()}
              for store in (before, Store.open(before.folder.parent / "after"))]
    p_values = []
    for spec in SPECS[1:]:
        logs = [math.log(speeds[1][e, spec] / speeds[1][e, "greedy"] * speeds[0][e, "greedy"] / speeds[0][e, spec])
                for e in sorted({example for example, _ in speeds[0]})]
        effect = cell(found, spec).speed
        assert effect
        assert effect.value == pytest.approx(math.exp(np.mean(logs)))
        assert effect.p_value == pytest.approx(ttest_1samp(logs, 0).pvalue)
        p_values.append(effect.p_value)
    assert [cell(found, spec).speed.p_holm for spec in SPECS[1:]] == pytest.approx(  # type: ignore[union-attr]
        [min(1, max(p_values)) if p == max(p_values) else 2 * p for p in p_values])


def test_the_same_run_is_the_same(before: Store) -> None:
    found = compare(before, before)
    assert (found.forced, found.settings, found.only_a, found.only_b, found.prompts) == ([], [], [], [], [])
    assert headline(found).endswith("none of 3 cells has changed")
    assert [c.speed.value for c in found.cells if c.speed] == [1, 1]
    assert all(c.speed.p_holm == 1 for c in found.cells if c.speed)
    assert [line for line in sentences(found) if "unchanged" in line]


def test_wrong_tokens_are_listed_prompt_by_prompt(before: Store) -> None:
    found = against(before, Planted(seed=1, wrong=(4, 9), wasteful=(3,)), texts=1)
    momentum, slow = cell(found, SPECS[2]), cell(found, SLOW)
    assert (momentum.changed, momentum.recounted, slow.changed, slow.recounted) == (2, 0, 0, 1)
    assert slow.counts["forwards"][1] == slow.counts["forwards"][0] + 1
    assert momentum.quality == (0.65, pytest.approx(0.625))
    assert momentum.score
    assert momentum.score.p_value == 1.0
    length = {r.example: len(r.turns[0].tokens) for r in before.records()}
    assert [(p.example, p.at) for p in found.prompts] == [("e04", length["e04"] - 1), ("e09", length["e09"] - 1),
                                                          ("e03", None)]
    first, second, third = prompts(found)
    assert first == f"math, e04, momentum: tokens differ from token {length['e04']} on; score 1 → 0"
    assert second == f"math, e09, momentum: tokens differ from token {length['e09']} on"
    assert third == f"math, e03, speculative: forwards {length['e03']} → {length['e03'] + 1}"
    ((title, rows),) = diffs(found)
    assert title == "math, e04, momentum:k=5"
    assert rows[-1] == "+word999"
    assert rows[:2] == ["--- before", "+++ after"]
    assert any("2 of 40 answers have different tokens; its quality went from 0.65 to 0.625 (p = 1.00, not "
               "significant)" in line for line in sentences(found))


def test_many_losses_are_told_from_chance(before: Store) -> None:
    found = against(before, Planted(seed=1, wrong=tuple(range(15))))
    momentum = cell(found, SPECS[2])
    assert momentum.score
    assert momentum.score.p_value == pytest.approx(2 / 2 ** 10), "ten of fifteen were right"
    assert momentum.score.p_holm == pytest.approx(3 * 2 / 2 ** 10)
    assert momentum.score.value == pytest.approx(-0.25)
    assert momentum.score.high < 0


def test_what_one_run_lacks_is_said(before: Store) -> None:
    found = against(before, Planted(specs=SPECS[:2], tasks=("math", "code"), failed=(5,)))
    assert found.only_a == [("math", SPECS[2])]
    assert found.only_b == [("code", "greedy"), ("code", SLOW)]
    slow = cell(found, SLOW)
    assert (slow.samples, slow.failed) == (39, (0, 1))
    said = sentences(found)
    assert "only in before: momentum on math" in said
    assert "only in after: greedy, speculative on code" in said
    assert any("0 samples failed before and 1 now" in line for line in said)


@pytest.mark.parametrize(("changes", "words"), [
    ({"model": MODEL.model_copy(update={"fingerprint": "ffff"})}, "the model (nano 5f0c1d2e and nano ffff)"),
    ({"model": MODEL.model_copy(update={"dtype": "bfloat16"})}, "the precision of the model (float32 and bfloat16)"),
    ({"environment": {"hardware": {"cpu": "Other", "memory_gb": 32}}}, "hardware cpu (8 x Example 3000 and Other)"),
    ({"environment": {"hardware": {"cpu": "8 x Example 3000", "memory_gb": 32}, "threads": 2}},
     "threads (none and 2)"),
    ({"tasks": [task("math", examples=40).model_copy(update={"data_hash": "9" * 16})]},
     "the data of math (40 other examples)"),
    ({"tasks": [task("math", examples=20).model_copy(update={"data_hash": "9" * 16})]},
     "the data of math (40 and 20 examples)"),
    ({"tasks": [task("math", examples=40).model_copy(update={"version": 2})]}, "the version of math (1 and 2)"),
    ({"baseline": SLOW}, f"the baseline (greedy and {SLOW})"),
])
def test_other_runs_are_refused_by_name_unless_forced(before: Store, changes: dict[str, Any], words: str) -> None:
    other = run(before.folder.parent / "after", Planted(seed=1, changes=changes))
    with pytest.raises(UserError) as caught:
        compare(before, other)
    assert str(caught.value) == (f"before and after cannot be compared, because they differ in {words}: "
                                 "--force compares them nevertheless.")
    found = compare(before, other, force=True)
    assert found.forced == [words]
    assert sentences(found)[0] == f"compared with --force although they differ in {words}"


def test_other_settings_and_versions_are_said_and_not_refused(before: Store) -> None:
    environment = {**before.manifest.environment, "commit": "abc", "torch": "2.10.0"}
    found = against(before, Planted(seed=1, changes={"config": {"seed": 0, "compile": True},
                                                     "environment": environment}))
    assert found.forced == []
    assert sentences(found)[-1] == ("the runs also differ in compile (none and True); torch (2.9.0 and 2.10.0); "
                                    "commit (none and abc)")


def test_samples_and_repeats_are_paired_with_their_own(tmp_path: Path) -> None:
    """Two repeats of two samples: only the one that changed is named."""
    stores = []
    for name in ("a", "b"):
        found = [record("math", example, "greedy", [turn([1, 1], [0.1, 0.1], ids=[
            1, 9 if (name, example, sample, repeat) == ("b", "x", 1, 1) else 2])], 1, sample=sample, repeat=repeat)
            for example in "xy" for sample in (0, 1) for repeat in (0, 1)]
        stores.append(write(tmp_path / name, run(tmp_path / f"{name}-plan", Planted(specs=SPECS[:1])).manifest, found))
    found_ = compare(*stores)
    assert [(p.example, p.sample, p.repeat, p.at) for p in found_.prompts] == [("x", 1, 1, 1)]
    assert prompts(found_) == ["math, x, greedy, sample 1, repeat 1: tokens differ from token 2 on"]
    assert found_.cells[0].samples == 8


def test_a_change_of_what_is_not_steady_is_qualified(before: Store) -> None:
    """The second repeat of the slow strategy is 20 % faster than its first: the machine does that by itself."""
    stores = []
    for number, name in enumerate(("a", "b")):
        first = records(Planted(seed=number + 5, slower=1 + 0.1 * number))
        then = [r.model_copy(update={"repeat": 1}) for r in records(Planted(seed=number + 7, slower=0.8 + number / 3))]
        stores.append(write(before.folder.parent / name, before.manifest, first + then))
    found = compare(*stores)
    assert cell(found, SLOW).unsteady == pytest.approx(1.25, abs=0.03)
    assert math.isnan(cell(found, SPECS[2]).unsteady)
    (said,) = [line for line in sentences(found) if line.startswith("speculative")]
    assert "% slower (p < 0.001, but repeats within a run also differ by 2" in said
    assert said.endswith(" %); its tokens are the same")


def test_nothing_in_common_is_refused(before: Store) -> None:
    with pytest.raises(UserError, match="before and after have no sample in common"):
        against(before, Planted(tasks=("code",)))


@pytest.mark.parametrize("columns", [80, 120])
def test_the_command_writes_what_it_says(before: Store, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    folder = before.folder.parent
    after = run(folder / "after", Planted(seed=1, slower=1.2, wrong=(4, 7)))
    done = call("compare", before.folder, after.folder, "--json", folder / "x.json", "--markdown", folder / "x.md",
                "--diffs", 2)
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert done.stdout.splitlines()[0] == "before → after: 2 of 3 cells have changed"
    assert done.stdout.index("% slower") < done.stdout.index("strategy"), "words first"
    data = json.loads((folder / "x.json").read_text())
    assert data == json.loads(compare(before, after, texts=2).model_dump_json())
    assert data["cells"][0]["speed"] is None
    text = (folder / "x.md").read_text()
    assert text == markdown(compare(before, after, texts=2))
    assert text.count("````diff") == 2
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count(" |") for line in tables} == {11}


def test_the_command_refuses_in_one_sentence(before: Store) -> None:
    other = run(before.folder.parent / "after", Planted(seed=1, changes={"environment": {}}))
    done = call("compare", before.folder, other.folder, "--json", before.folder.parent / "x.json")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert not (before.folder.parent / "x.json").exists()
    assert call("compare", before.folder, other.folder, "--force").exit_code == 0
