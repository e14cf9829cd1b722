"""A budget of time ends a run between blocks, and the same command with more of it goes on."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.run.budget import AFTER, Budget
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.duration import seconds
from harness.store.folder import Store
from harness.store.schema import UNFINISHED
from tests.pair import saved
from tests.watch import Quiet


@pytest.mark.parametrize(("text", "wanted"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1h1m1s", 3661)])
def test_durations(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "30", "m", "-3s", "1m1h", "0s", "3 s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be like 90s"):
        RunConfig(budget=text)


def test_a_block_begins_if_one_as_long_as_the_longest_would_end_in_time() -> None:
    now = 0.0
    budget = Budget(lambda: now, began=-2.0, limit=AFTER + 10.0)
    found = list[bool]()
    for block, time in ((0, 0.0), (0, 1.0), (1, 3.0), (1, 4.0), (2, 5.0), (3, 5.5)):
        now = time
        found.append(budget.allows(block))
    assert found == [True, True, True, True, True, False], "the longest took 3 seconds, and 2.5 are left"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(model=str(saved("llama")), tasks=("nano_math", "nano_edit"), strategies=("prompt_lookup",),
                     limit=6, max_new_tokens=4, threads=1, device="cpu", output=tmp_path / "run", texts=False)


def ticking() -> Iterator[float]:
    """A clock that goes on by a second each time it is read."""
    return map(float, count())


def test_a_run_ends_with_balanced_cells_and_goes_on(config: RunConfig) -> None:
    times = ticking()
    outcome = run(replace(config, budget="100s"), Quiet(), "run", lambda: next(times))
    store = Store.open(outcome.folder)
    counts = Counter((record.task, record.strategy) for record in store.records())
    assert 0 < outcome.left < 24
    assert (len(counts), sum(counts.values())) == (4, 24 - outcome.left)
    assert max(counts.values()) - min(counts.values()) <= 1
    wanted = f"{UNFINISHED}{outcome.left} of 24 samples were left when the budget of 100s was spent"
    assert store.manifest.warnings[-1].startswith(wanted)
    outcome = run(replace(config, budget="1h"), Quiet(), "run", lambda: next(times))
    store = Store.open(outcome.folder)
    assert (outcome.left, len(list(store.records())), store.manifest.warnings) == (0, 24, [])


def test_the_answers_are_those_without_a_budget(config: RunConfig, tmp_path: Path) -> None:
    times = ticking()
    while (outcome := run(replace(config, budget="40s"), Quiet(), "run", lambda: next(times))).left:
        pass
    whole = run(replace(config, output=tmp_path / "whole"), Quiet(), "run")
    found, wanted = ({record.key: (record.block, [turn.tokens for turn in record.turns])
                      for record in Store.open(one.folder).records()} for one in (outcome, whole))
    assert found == wanted
