"""Tasks take turns: the order of blocks, their numbers, and prefixes that are computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from harness.engine import kept_prefix
from harness.engine.engine import Engine
from harness.engine.forward import SharedPrefix
from harness.engine.kept_prefix import pin
from harness.plugins.registry import STRATEGIES, TASKS
from harness.run.cells import cells
from harness.run.plan import make
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.harness.run.test_runner import SHARED_TASK
from tests.pair import saved
from tests.watch import Quiet


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    """Two tasks of three and two examples, each with a prefix of its own."""
    fewer = SHARED_TASK.replace("Words", "Names").replace("Three short", "Some").replace(', START + "six"', "")
    texts = {"words": SHARED_TASK, "names": fewer}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield RunConfig(model=str(saved("llama")), tasks=("words", "names"), strategies=("beam:width=2",), threads=1,
                    plugins=tuple(tmp_path / f"{name}.py" for name in texts), device="cpu", output=tmp_path / "run")
    STRATEGIES._files.clear()
    TASKS._files.clear()


def records(config: RunConfig, watcher: Quiet) -> list[Record]:
    return list(Store.open(run(config, watcher, "decodebench run").folder).records())


def test_the_blocks_of_tasks_take_turns_and_are_numbered_task_by_task(config: RunConfig) -> None:
    plan = make(config, "")
    order = list(plan.cells())
    blocks = [(key, len(list(group))) for key, group in groupby((cell.task.name, cell.block) for cell in order)]
    assert blocks == [((name, block), 2) for name, block in
                      (("words", 0), ("names", 3), ("words", 1), ("names", 4), ("words", 2))]
    twice = list(cells(replace(config, repeats=2), plan.tasks, plan.strategies, True))
    assert twice[:len(order)] == order
    assert {cell.block for cell in twice[len(order):]} == set(range(5, 10))
    apart = list(cells(config, plan.tasks, plan.strategies, False))
    assert [name for name, _ in groupby(cell.strategy.name for cell in apart)] == ["greedy", "beam"]
    assert [cell.task.name for cell in apart[:3]] == ["words", "names", "words"]


def test_turns_and_interruptions_change_no_token_and_a_prefix_is_computed_once(
        config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = list[tuple[int, ...]]()

    def counted(engine: Engine, tokens: Sequence[int]) -> SharedPrefix:
        computed.append(tuple(tokens))
        return pin(engine, tokens)
    monkeypatch.setattr(kept_prefix, "pin", counted)
    turns = records(config, Quiet())
    assert len(computed) == len(set(computed)) == 2
    assert {record.turns[0].prompt_shared for record in turns} == {len(tokens) for tokens in computed}
    alone = [record for name in config.tasks for record in records(
        replace(config, tasks=(name,), share_prefix=False, output=tmp_path / name), Quiet())]
    assert {r.key: r.turns[0].tokens for r in turns} == {r.key: r.turns[0].tokens for r in alone}
    again = replace(config, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        run(again, Quiet(stop_after=3), "decodebench run")
    assert [(r.key, r.block, r.order) for r in records(again, Quiet())] == [(r.key, r.block, r.order) for r in turns]
