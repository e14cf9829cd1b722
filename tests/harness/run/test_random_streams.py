"""Every answer of a run is drawn from a random stream of its own, which a second run of the same command repeats."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.plugins.registry import TASKS
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.pair import saved
from tests.plugins import TASK
from tests.watch import Quiet

Answers = dict[object, tuple[int, ...]]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    """Runs two examples of one prompt, and gives the tokens of every drawn answer by its key."""
    monkeypatch.setattr(TASKS, "_files", {})
    (tmp_path / "words.py").write_text(TASK.replace('"three", "four"', '"one two"'))
    config = RunConfig(model=str(saved("llama")), tasks=("words",), plugins=(tmp_path / "words.py",), threads=1,
                       device="cpu", strategies=("temperature",), samples=2, repeats=2)

    def go(name: str, watcher: Quiet | None = None, **more: int) -> Answers:
        folder = run(replace(config, output=tmp_path / name, **more), watcher or Quiet(), "decodebench run").folder
        records = [record for record in Store.open(folder).records() if record.strategy.startswith("temperature")]
        found: Answers = {record.key: tuple(record.turns[0].tokens) for record in records}
        assert len(found) == len(records) == 8
        return found
    return go


def test_answers_to_one_prompt_differ_by_example_sample_repeat_and_seed(answers: Callable[..., Answers]) -> None:
    first = answers("first")
    assert len(set(first.values())) == 8, "no two of them may be drawn from the same stream"
    assert answers("again") == first
    assert not {*answers("seed", seed=1).values()} & {*first.values()}


@pytest.mark.parametrize("done", [1, 6, 11])
def test_a_run_that_goes_on_lacks_no_sample_and_no_repeat(answers: Callable[..., Answers], done: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        answers("run", Quiet(stop_after=done))
    assert answers("run") == answers("whole")
