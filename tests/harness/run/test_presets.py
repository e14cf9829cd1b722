"""Sets of strategies by name, and a file of prompts in one line."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from harness.run.plan import make
from harness.run.presets import ENOUGH, FEW, FIRST_TASKS, PRESETS, QUALITY, SPEED, preset, with_defaults
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.pair import saved
from tests.program import call


@pytest.mark.parametrize("draft", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_suits_what_the_model_has(name: str, draft: bool) -> None:
    chosen = [STRATEGIES.build(spec) for spec in preset(name, draft)]
    assert chosen[0].name == "greedy"
    assert len({strategy.name for strategy in chosen}) == len(chosen)
    assert any("draft" in strategy.needs for strategy in chosen) == draft
    keeps = {strategy.name for strategy in chosen if strategy.guarantee != "changes-output"}
    assert bool(keeps - {"greedy"} & set(SPEED)) == (name != "quality")
    assert bool(set(QUALITY) - {"greedy"} & {strategy.name for strategy in chosen}) or name == "speed"


def test_unknown_and_double_choices_are_refused() -> None:
    with pytest.raises(UserError, match="There is no preset 'fast'"):
        preset("fast", False)
    with pytest.raises(UserError, match="--preset chooses the strategies: leave it out, or leave out --strategy"):
        RunConfig(preset="speed", strategies=("beam",))


def test_the_draft_model_decides(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Hi?\n")
    task = (f"task_file:file={tmp_path / 'mine.txt'}",)
    for draft, there in ((None, False), (str(saved("llama", 1)), True)):
        plan = make(RunConfig(model=str(saved("llama")), draft=draft, preset="speed", tasks=task, device="cpu"), "")
        assert ("speculative" in [strategy.name for strategy in plan.strategies]) == there
        assert not [entry.unsupported for entry in plan.manifest.strategies if entry.unsupported]


def test_prompts_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Hi?\nWhat is it?\n")
    done = call("run", "-m", saved("llama"), "--prompts", tmp_path / "mine.txt", "--preset", "speed",
                "--max-new-tokens", 4, "-o", tmp_path / "run")
    assert done.exit_code == 0
    assert " · mine · " in done.stderr, "the task is called by the name of the file"
    records = list(Store.open(tmp_path / "run").records())
    assert len(records) == 2 * len(SPEED)
    assert {record.status for record in records} == {"ok"}


def test_a_run_without_arguments_is_small(tmp_path: Path) -> None:
    assert with_defaults(RunConfig()) == RunConfig(preset="first", tasks=FIRST_TASKS, limit=ENOUGH)
    plan = make(with_defaults(RunConfig(model=str(saved("llama")), draft=str(saved("llama", 1)), device="cpu")), "")
    assert len(plan.strategies) == 6
    assert [len(examples) for _, examples in plan.tasks] == [20, 20]
    assert not [entry.unsupported for entry in plan.manifest.strategies if entry.unsupported]


def test_what_is_given_is_left_alone(tmp_path: Path) -> None:
    for given in (RunConfig(strategies=("beam",), limit=7), RunConfig(preset="speed", tasks=("gsm8k",))):
        assert with_defaults(given) == given
    assert with_defaults(RunConfig(strategies=("beam",))) == RunConfig(strategies=("beam",), limit=FEW)
    assert with_defaults(RunConfig(preset="quality")) == RunConfig(preset="quality", limit=FEW)
    assert with_defaults(RunConfig(limit=3)) == RunConfig(preset="all", limit=3)
    (tmp_path / "mine.txt").write_text("Hi?\n")
    (tmp_path / "run.toml").write_text('strategies = ["top_p"]')
    of_file = RunConfig.from_toml(tmp_path / "run.toml", tasks=("gsm8k",))
    assert with_defaults(of_file) == of_file
    mine = (f"task_file:file={tmp_path / 'mine.txt'}",)
    assert with_defaults(RunConfig(tasks=mine)) == RunConfig(tasks=mine, preset="all")
