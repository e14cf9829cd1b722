"""Sets of strategies by name, and a file of prompts in one line."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from harness.run.plan import make
from harness.run.presets import PRESETS, QUALITY, SPEED, preset
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
    records = list(Store.open(tmp_path / "run").records())
    assert len(records) == 2 * len(SPEED)
    assert {record.status for record in records} == {"ok"}


def test_prompts_compare_all_kinds_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = list[RunConfig]()

    def run(config: RunConfig, *_: object) -> None:
        asked.append(config)
        raise KeyboardInterrupt
    monkeypatch.setattr("harness.run.runner.run", run)
    (tmp_path / "mine.txt").write_text("Hi?\n")
    call("run", "--prompts", tmp_path / "mine.txt")
    call("run", "--prompts", tmp_path / "mine.txt", "-s", "beam")
    (tmp_path / "run.toml").write_text('strategies = ["top_p"]')
    call("run", "--prompts", tmp_path / "mine.txt", "--config", tmp_path / "run.toml")
    assert [(one.preset, one.strategies) for one in asked] == [("all", ()), (None, ("beam",)), (None, ("top_p",))]
    assert all(one.tasks == (f"task_file:file={tmp_path / 'mine.txt'}",) for one in asked)
