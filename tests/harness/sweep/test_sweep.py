"""Sweeps of a scripted strategy whose best settings, sensitivities and dead knobs are known beforehand."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.task import Example
from harness.report import sweep as shown
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.sweep.grid import read, settings
from harness.sweep.sweep import Sweep, SweepOptions, split, sweep
from tests.pair import saved
from tests.program import call
from tests.watch import Quiet

# Writes `length` letters; `late` changes them at length 7 alone, `dead` never does anything.
SCRIPTED = '''"""Writes as many letters as it is told."""
from dataclasses import dataclass
from harness.errors import UserError
from harness.plugins.strategy import Strategy, knob

CALLS = []

@dataclass(frozen=True)
class Scripted(Strategy):
    paper = "none"
    family = "test"
    guarantee = "changes-output"
    length: int = knob(2, "letters", low=0, sweep=(1, 2, 3, 4, 5, 6, 7, 8))
    late: bool = knob(False, "another letter where there are seven", sweep=(False, True))
    dead: float = knob(0.5, "nothing", sweep=(0.1, 0.5, 0.9))

    def __post_init__(self):
        super().__post_init__()
        if self.dead == 0.9 and self.late:
            raise UserError("not together")

    def generate(self, session, request):
        if self.length == 99:
            raise RuntimeError("too long")
        CALLS.append(self.length)
        if self.length == 98 and CALLS.count(98) % 3 == 0:
            raise RuntimeError("now and then")
        for _ in range(5 if self.length == 98 else self.length):
            yield [71 if self.late and self.length == 7 else 70]
        while True:
            yield [2]
'''
# Its score is 1 - ((letters - goal) / 10)²: one length is best for each goal, and the middle is for both.
LETTERS = '''"""As many letters as the goal."""
from dataclasses import dataclass
from harness.plugins.task import Example, Task, knob

@dataclass(frozen=True)
class Letters(Task):
    version = 1
    source = "test"
    headline = "near"
    max_new_tokens = 12
    goal: int = knob(3, "letters")
    unscored = None

    def examples(self, data):
        return [Example(f"{self.goal}/{i}", ("write",)) for i in range(7)]

    def score(self, example, answers):
        return {"near": 1 - ((len(answers[0]) - self.goal) / 10) ** 2}
'''


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    for name, text in (("scripted", SCRIPTED), ("letters", LETTERS)):
        (tmp_path / f"{name}.py").write_text(text)
    yield RunConfig(model=str(saved("llama")), tasks=("letters:goal=3", "letters:goal=7"), strategies=("scripted",),
                    plugins=(tmp_path / "scripted.py", tmp_path / "letters.py"), device="cpu", threads=1,
                    output=tmp_path / "sweep")
    STRATEGIES._files.clear()
    TASKS._files.clear()


def go(config: RunConfig, asked: SweepOptions, watcher: Quiet | None = None) -> tuple[Sweep, list[str]]:
    said: list[str] = []
    folder, found = sweep(config, asked, watcher or Quiet(), "decodebench sweep", said.append)
    assert folder == config.output
    return found, said


def test_the_default_the_best_fixed_and_the_best_for_each_task(config: RunConfig) -> None:
    found, said = go(config, SweepOptions({}, budget=48))
    [one] = found.swept
    assert said[0] == "scripted:length=2,late=False,dead=0.5: 40 of 48 settings (all combinations)"
    assert said[1] == f"{41 * 2 * 4:,} dev samples, then at most {5 * 2 * 3} held-out samples"
    assert (one.settings, one.possible, one.aim) == (40, 48, "quality")
    assert [choice.spec.split(",")[0] for choice in one.best] == ["scripted:length=3", "scripted:length=7"]
    assert {choice.spec for choice in one.fixed} == {"scripted:length=5,late=False,dead=0.5"}, "the default's rest"
    for choices, worth in ((one.default, (0.99, 0.75)), (one.fixed, (0.96, 0.96)), (one.best, (1.0, 1.0))):
        assert [choice.dev for choice in choices] == pytest.approx(worth)
        assert [choice.held_out for choice in choices] == pytest.approx(worth)
    assert [choice.gain for choice in one.fixed] == pytest.approx([-0.03, 0.21])
    assert [choice.gain for choice in one.default] == [0.0, 0.0]
    assert one.per_task == pytest.approx(0.04)
    totals = [1 - ((length - 3) ** 2 + (length - 7) ** 2) / 200 for length in range(1, 9)]
    assert one.regret == pytest.approx(0.96 - sum(totals) / 8)
    length = one.knobs[0]
    assert (length.name, length.alive, length.range) == ("length", True, pytest.approx(0.96 - 0.80))


def test_a_knob_that_does_nothing_is_named_and_one_that_sometimes_does_is_not(config: RunConfig) -> None:
    found, said = go(config, SweepOptions({}, budget=11))
    [one] = found.swept
    length, late, dead = one.knobs
    assert said[0].endswith("11 of 48 settings (the default, 10 that change one knob)")
    assert (length.alive, late.alive, dead.alive) == (True, True, False)
    assert late.needs == ["length=7"]
    assert (dead.same, dead.range, dead.samples, dead.tokens) == (["0.1", "0.9"], 0.0, 8, 24)
    assert dead.looked == 7, "lengths other than the default's; 'late' does not allow the value"
    [warning] = [note for note in shown.notes(found) if note.startswith("Warning")]
    assert warning.startswith("Warning: knob 'dead' of scripted has no effect: 0.1, 0.9 gave the same tokens and "
                              "counts as 0.5 on 8 samples (24 tokens)")
    assert warning.endswith("and at 7 other values")
    once = one.model_copy(update={"knobs": [dead.model_copy(update={"samples": 1, "looked": 1})]})
    [warning] = [note for note in shown.notes(found.model_copy(update={"swept": [once]})) if note.startswith("Warning")]
    assert " on 1 sample (" in warning
    assert warning.endswith("and at 1 other value")
    assert "| dead | 0.5, 0.1, 0.9 | 0.000 | none |" in shown.markdown(found)
    assert "| late | False, True | 0.000 | with length=7 |" in shown.markdown(found)


def test_settings_are_chosen_on_other_examples_than_they_are_judged_on(config: RunConfig, tmp_path: Path) -> None:
    found, _ = go(config, SweepOptions({"length": ("3", "5")}, share=0.4))
    dev, rest = (list(Store.open(tmp_path / "sweep" / name).records()) for name in ("dev", "held-out"))
    assert not {record.example for record in dev} & {record.example for record in rest}
    assert len({record.example for record in (*dev, *rest)}) == 14
    assert found.dev == {"letters:goal=3": 3, "letters:goal=7": 3}
    assert found.held_out == {"letters:goal=3": 4, "letters:goal=7": 4}
    assert {record.strategy for record in rest} == {
        "greedy", *(f"scripted:length={length},late=False,dead=0.5" for length in (2, 3, 5))}


def test_the_same_command_goes_on_and_repeats_nothing(config: RunConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(config, SweepOptions({}, budget=6), Quiet(stop_after=20))
    rest, nothing = Quiet(), Quiet()
    found, _ = go(config, SweepOptions({}, budget=6), rest)
    again, _ = go(config, SweepOptions({}, budget=6), nothing)
    assert found == again
    assert nothing.records == []
    keys = [record.key for record in Store.open(config.output / "dev").records()] if config.output else []
    assert len(keys) == len(set(keys)) == 7 * 2 * 4


def test_a_setting_that_fails_is_noted_and_not_chosen(config: RunConfig) -> None:
    found, _ = go(config, SweepOptions({"length": ("99", "98", "4")}))
    assert {choice.spec.split(",")[0] for choice in found.swept[0].fixed} == {"scripted:length=4"}
    assert any(note.startswith("scripted:length=98") for note in found.failed), "where it did not, it was the best"
    assert "scripted:length=99,late=False,dead=0.5 failed on 4 samples of letters:goal=3" in found.failed


def test_unscored_tasks_ask_for_another_aim(config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "letters.py"
    path.write_text(LETTERS.replace("unscored = None", "unscored = 'no judge'"))
    with pytest.raises(UserError, match="use --by speed"):
        go(config, SweepOptions({"length": ("4",)}))
    assert not (tmp_path / "sweep").exists()


def test_lossless_strategies_are_chosen_by_speed_and_a_knob_may_need_another(config: RunConfig) -> None:
    found, _ = go(replace(config, strategies=("top_p:temperature=0", "prompt_lookup"), tasks=("letters",)),
                  SweepOptions({"p": ("0.5",), "temperature": ("1",), "length": ("2",)}))
    sampling, lookup = found.swept
    assert (sampling.aim, lookup.aim) == ("quality", "speed")
    assert {knob.name: (knob.alive, knob.needs) for knob in sampling.knobs} == {
        "temperature": (True, []), "p": (True, [])}, "all combinations are tried"
    assert config.output
    for place, worths in (("dev", [choice.dev for choice in lookup.default]),
                          ("held-out", [choice.held_out for choice in lookup.default])):
        table = summarise(Store.open(config.output / place)).set_index("strategy")
        assert worths == pytest.approx([table.loc[lookup.spec, "speedup"]])


def test_whole_grids_single_values_and_draws() -> None:
    whole = settings("contrastive_search", {}, 25, 0)
    assert (len(whole.tried), whole.possible, whole.whole, whole.alone) == (25, 25, True, 8)
    assert whole.tried[0].spec() == "contrastive_search:k=4,alpha=0.6"
    few = settings("contrastive_search", {}, 6, 0)
    changed = [strategy.spec() for strategy in few.tried[1:]]
    assert changed == [f"contrastive_search:{text}" for text in (
        "k=3,alpha=0.6", "k=4,alpha=0.1", "k=5,alpha=0.6", "k=4,alpha=0.2", "k=8,alpha=0.6")], "knobs take turns"
    some = settings("contrastive_search", {}, 15, 3)
    assert (len({strategy.spec() for strategy in some.tried}), some.alone, some.whole) == (15, 8, False)
    assert some.tried == settings("contrastive_search", {}, 15, 3).tried
    assert some.tried != settings("contrastive_search", {}, 15, 4).tried
    assert [strategy.spec() for strategy in settings("contrastive_search:k=3", {"alpha": ("0.6", "0.5")}, 9, 0).tried] \
        == ["contrastive_search:k=3,alpha=0.6", "contrastive_search:k=3,alpha=0.5"]
    assert len(settings("greedy", {"alpha": ("0.5",)}, 9, 0).tried) == 1


def test_a_strategy_over_another_one_turns_its_own_knobs() -> None:
    own = settings("top_p:p=0.5+self_consistency", {"n": ("2", "4")}, 9, 0)
    assert [strategy.spec().partition("self_consistency:")[2].split(",")[0] for strategy in own.tried][1:] == [
        "n=2", "n=4"]
    assert all(strategy.spec().startswith("top_p:p=0.5,temperature=1+") for strategy in own.tried)


def test_settings_that_differ_in_one_knob() -> None:
    whole = settings("contrastive_search", {"k": ("3", "4"), "alpha": ("0.1", "0.6")}, 9, 0)
    groups = [sorted(spec.partition(":")[2] for spec in group) for group in whole.groups_differing_in("alpha")]
    assert sorted(groups) == [["k=3,alpha=0.1", "k=3,alpha=0.6"], ["k=4,alpha=0.1", "k=4,alpha=0.6"]]
    assert [strategy.spec().partition(":")[2] for strategy in whole.varying("k")] == ["k=4,alpha=0.6", "k=3,alpha=0.6"]


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_split_is_disjoint_complete_and_seeded(count: int, share: float) -> None:
    examples = [Example(str(i), ("x",)) for i in range(count)]
    dev, rest = split(examples, share, 0, "task")
    assert sorted([*dev, *rest], key=lambda e: int(e.id)) == examples
    assert min(len(dev), len(rest)) >= 1
    assert (dev, rest) == split(examples, share, 0, "task")
    assert [e.id for e in dev] == sorted((e.id for e in dev), key=int)
    if count == 10 and share == 0.5:
        assert len(dev) == 5
        assert any(split(examples, share, seed, "task")[0] != dev for seed in range(1, 4))


def test_the_command_prints_writes_and_fits(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plugins = [word for path in config.plugins for word in ("--plugin", path)]
    done = call("sweep", "-m", config.model, "-s", "scripted", "--grid", "length=5,7", "--grid", "dead=0.1", "-t",
                "letters", "-t", "letters:goal=7", *plugins, "--threads", 1, "-o", tmp_path / "s")
    assert done.exit_code == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "best fixed: length=5" in text
    assert "Warning: knob 'dead' of scripted has no effect: 0.1 gave" in text
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[:-1])
    assert done.stdout.splitlines()[-1] == f"Sweep: {tmp_path / 's' / 'sweep.json'}"
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [(knob["name"], knob["alive"]) for knob in found["swept"][0]["knobs"]] == [("length", True), ("dead", False)]
    assert "best fixed: length=5" in (tmp_path / "s" / "sweep.md").read_text()


@pytest.mark.parametrize(("arguments", "words"), [
    (["-s", "top_p", "--grid", "q=1"], "No strategy of this sweep has a knob 'q'. Known: p, temperature."),
    (["-s", "top_p", "--grid", "p"], "Write --grid as KNOB=VALUE,VALUE, such as p=0.8,0.9, not 'p'."),
    (["-s", "top_p", "--grid", "p=2"], "top_p: knob 'p' must be at most 1, not 2.0."),
    (["-s", "top_pp"], "There is no strategy 'top_pp'. Did you mean 'top_p'?"),
    (["-s", "top_p", "--by", "sped"], "--by must be quality, speed or forwards, not 'sped'. Did you mean 'speed'?"),
    (["-s", "top_p", "--budget", "1"], "--budget must be at least 2 (the default and another setting), not 1."),
    (["-s", "top_p", "--dev", "1"], "--dev must be between 0 and 1, not 1."),
    (["-s", "top_p", "-t", "nano_math", "--limit", "1"], "nano_math needs at least two examples for a sweep"),
    ([], "Missing option '-s' / '--strategy'.")])
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments: list[str], words: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("sweep", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"Error: {words}")
    assert not list(tmp_path.iterdir())


def test_grids_are_read() -> None:
    assert read(["top_p=0.8,0.9"], ["top_p", "greedy"]) == {"p": ("0.8", "0.9")}, "by its name in transformers"
    assert read(["p=0.8, 0.9", "k=3"], ["top_p", "contrastive_search"]) == {"p": ("0.8", "0.9"), "k": ("3",)}
