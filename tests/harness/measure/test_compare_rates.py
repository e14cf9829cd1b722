"""How often `compare` finds a planted slowdown and how often it cries wolf: drawn runs, and a scripted clock."""

import time
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.measure.compare import Comparison, compare
from harness.plugins.registry import STRATEGIES, TASKS
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.pair import saved
from tests.pairs import SLOW, Planted, described, records
from tests.scale import scaled
from tests.watch import Quiet

RUNS = scaled(8, 24)


class Drawn(Store):
    """A run that is on no disk."""

    def __init__(self, planted: Planted) -> None:
        super().__init__(Path(f"run-{planted.seed}"), described(planted))
        self.drawn = records(planted)

    def records(self, wanted: Container[int] | None = None) -> Iterator[Record]:
        return iter(self.drawn)


def named(found: Comparison) -> list[str]:
    return [cell.strategy for cell in found.cells if cell.speed and cell.speed.p_holm < 0.05]


def test_five_per_cent_are_found_and_none_are_not() -> None:
    """At 4 % noise a time, 60 prompts show 5 % nearly always; equal runs are distinguished one time in twenty."""
    found = alarms = covered = 0
    for seed in range(RUNS):
        plain = Planted(examples=60, seed=2 * seed + 1, machine=1.2)
        before = Drawn(Planted(examples=60, seed=2 * seed))
        same = compare(before, Drawn(plain))
        alarms += bool(named(same))
        covered += sum(cell.speed.low <= 1 <= cell.speed.high for cell in same.cells if cell.speed)
        found += SLOW in named(compare(before, Drawn(replace(plain, slower=1.05))))
    assert found / RUNS >= 0.95
    assert alarms / RUNS <= 0.125
    assert 0.9 <= covered / (2 * RUNS) <= 0.99


def test_few_prompts_find_no_five_per_cent_and_say_so() -> None:
    effects = []
    for seed in range(10):
        found = compare(Drawn(Planted(seed=2 * seed, examples=6)), Drawn(Planted(seed=2 * seed + 1, examples=6)))
        effects += [cell.speed.findable for cell in found.cells if cell.speed]
    assert np.median(effects) > 0.08


TASK = '''"""Words to go on from."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Words(Task):
    version: ClassVar[int] = 1
    source: ClassVar[str] = "test"
    headline: ClassVar[str] = "length"
    max_new_tokens: ClassVar[int] = 6

    def examples(self, data):
        return [Example(str(i), (f"{i} and {i * i}",)) for i in range(32)]

    def score(self, example, answers):
        return {"length": float(len(answers[0]))}
'''
SLEEPY = '''"""Greedy that sleeps `doze` seconds before each token."""
import time
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.strategy import Strategy

DOZE = 0.0

@dataclass(frozen=True)
class Sleepy(Strategy):
    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[str] = "lossless"

    def generate(self, session, request):
        text = list(request.prompt)
        while True:
            time.sleep({doze})
            session.follow(text)
            text.append(int(session.read().logits[0].argmax()))
            yield text[-1:]
'''


class Clock:
    """A clock whose reading takes 10 ms with noise of 4 %, and which sleeping moves on."""

    def __init__(self, seed: int) -> None:
        self.now, self.rng = 0.0, np.random.default_rng(seed)

    def __call__(self) -> float:
        self.now += 0.01 * float(np.exp(0.04 * self.rng.normal()))
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("share", "expected"), [(0.05, True), (0.0, False)])
def test_a_planted_sleep_is_found_in_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float,
                                               expected: bool) -> None:
    found = []
    for number, doze in enumerate((0.0, 0.01 * share)):
        clock, folder = Clock(number), tmp_path / f"files-{number}"
        folder.mkdir()
        for name, text in (("words", TASK), ("sleepy", SLEEPY.replace("{doze}", str(doze)))):
            (folder / f"{name}.py").write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", clock.sleep)
            patch.setattr(STRATEGIES, "_files", {})
            patch.setattr(TASKS, "_files", {})
            config = RunConfig(model=str(saved("llama")), tasks=("words",), strategies=("sleepy",), threads=1,
                               device="cpu", plugins=(folder / "words.py", folder / "sleepy.py"))
            outcome = run(replace(config, output=tmp_path / f"run-{number}"), Quiet(), "decodebench run", clock)
        found.append(Store.open(outcome.folder))
    comparison = compare(*found)
    assert [cell.changed for cell in comparison.cells] == [0, 0]
    assert named(comparison) == (["sleepy"] if expected else [])
