"""A strategy leaves a task when its score is known well enough: pairs, resumes, what is stored, and what is refused."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.measure.compare import compare
from harness.measure.summary import summarise
from harness.regression.check import check
from harness.regression.rules import Complete
from harness.regression.snapshot import Snapshot
from harness.run.precision import REACHED
from harness.run.runner import run
from harness.stats.bootstrap import share_interval
from harness.stats.confidence_sequence import anytime_interval
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.progress import progress
from tests.pair import saved
from tests.scale import scaled
from tests.watch import Quiet

EXAMPLES = 60
KILLS = (7, 12, 90, 1, 2, 31)  # samples after which a run is killed, one run after the other
TASK = '''"""Words to go on from, whose score is even or odd, but 1 for an answer of one letter."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Parity(Task):
    version: ClassVar[int] = 1
    source: ClassVar[str] = "test"
    headline: ClassVar[str] = "even"
    max_new_tokens: ClassVar[int] = 3

    def examples(self, data):
        return [Example(str(i), (f"one two {i}",)) for i in range(60)]

    def score(self, example, answers):
        return {"even": float(len(set(answers[0])) == 1 or sum(answers[0].encode()) % 2 == 0)}
'''
STRATEGY = '''"""Writes one letter."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.strategy import Strategy

@dataclass(frozen=True)
class OneLetter(Strategy):
    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[str] = "changes-output"

    def generate(self, session, request):
        for _ in range(3):
            yield [80]
'''
FILES = {"parity": TASK, "long": TASK.replace("Parity", "Long").replace("float(", "2 + float("),
         "silent": TASK.replace("Parity", "Silent").replace(
             "    version", '    unscored: ClassVar[str | None] = "for nobody"\n    version'),
         "one_letter": STRATEGY}
Decoded = dict[str, list[str]]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    return tuple(folder / f"{name}.py" for name in FILES)


@pytest.fixture
def config(plugins: tuple[Path, ...], tmp_path: Path) -> RunConfig:
    return RunConfig(model=str(saved("llama")), tasks=("parity",), plugins=plugins, threads=1, device="cpu",
                     strategies=("top_p:p=0.9", "one_letter"), seed=3, precision=0.25, output=tmp_path / "run")


def decoded(store: Store, repeat: int = 0) -> Decoded:
    """Return the examples that each strategy decoded, in order."""
    found = defaultdict[str, list[str]](list)
    for record in store.records():
        if record.repeat == repeat:
            found[record.strategy.partition(":")[0]].append(record.example)
    return found


def test_a_strategy_leaves_and_the_baseline_stays_with_the_rest(config: RunConfig) -> None:
    outcome = run(config, Quiet(), "run")
    store = Store.open(outcome.folder)
    found = decoded(store)
    sizes = {strategy: len(examples) for strategy, examples in found.items()}
    assert 4 < sizes["one_letter"] < sizes["top_p"] <= sizes["greedy"] < EXAMPLES
    assert all(examples == found["greedy"][:len(examples)] for examples in found.values()), "each answer has its pair"
    assert found["greedy"] != sorted(found["greedy"], key=int), "not in the order of the file"
    left_out = 3 * EXAMPLES - sum(sizes.values())
    assert (outcome.left, outcome.failed, store.manifest.spared_samples) == (0, 0, left_out)
    assert store.manifest.warnings == [
        f"{REACHED}{left_out} of 180 samples were left out, because their strategies' scores were known to within "
        "±0.25 without them; intervals and p-values of quality hold at any stop, so they are wider than those of a run "
        "of fixed size."]
    shown = progress(store)
    assert (shown.done, shown.left, shown.state) == (180 - left_out, 0, "done")
    rows = summarise(store).set_index("name")
    for strategy in found:
        scores = [record.scores["even"] for record in store.records() if record.strategy.startswith(strategy)]
        wanted = anytime_interval(scores, 0.25)
        assert tuple(rows.loc[strategy, ["quality", "quality_low", "quality_high"]]) == wanted
        assert wanted.high - wanted.low <= 0.5
        one_less = anytime_interval(scores[:-1], 0.25)
        assert strategy == "greedy" or one_less.high - one_less.low > 0.5, "it left at the first moment"


@pytest.mark.parametrize("more", [{}, {"concurrency": 2}, {"samples": 2, "repeats": 2, "precision": 0.3}],
                         ids=["one", "batch", "samples"])
def test_a_run_that_is_killed_and_resumed_decodes_the_same_samples(config: RunConfig, more: dict[str, int],
                                                                     tmp_path: Path) -> None:
    config = replace(config, **more)
    whole = Store.open(run(config, Quiet(), "run").folder)
    config = replace(config, output=tmp_path / "killed")
    for stop_after in KILLS[:scaled(3, len(KILLS))]:
        try:
            run(config, Quiet(stop_after), "run")
        except KeyboardInterrupt:
            continue
    killed = Store.open(run(config, Quiet(), "run").folder)
    assert decoded(killed) == decoded(whole)
    assert {one.key for one in killed.records()} == {one.key for one in whole.records()}
    assert (killed.manifest.spared, killed.manifest.warnings) == (whole.manifest.spared, whole.manifest.warnings)
    assert whole.manifest.spared_samples
    if config.repeats > 1:
        assert {name: set(ids) for name, ids in decoded(whole, 1).items()} == {
            name: set(ids) for name, ids in decoded(whole).items()}


def test_a_finished_run_decodes_nothing_and_another_precision_goes_on(config: RunConfig) -> None:
    sizes = list[int]()
    for precision in (0.3, 0.3, 0.15, None):
        watcher = Quiet()
        store = Store.open(run(replace(config, precision=precision), watcher, "run").folder)
        sizes.append(len(watcher.records))
        assert store.manifest.precision == precision
    assert (sizes[1], sum(sizes)) == (0, 180)
    assert sizes[2] > 0 < sizes[3]
    assert (store.manifest.spared, store.manifest.warnings) == ({}, [])
    scores = [record for record in store.records() if record.strategy == "greedy"]
    usual = share_interval([one.scores["even"] for one in scores], [one.example for one in scores])
    assert summarise(store)["quality_low"].iloc[0] == usual.low


def test_a_run_with_a_precision_is_complete_for_check_and_compare(config: RunConfig, tmp_path: Path) -> None:
    stopped = Store.open(run(config, Quiet(), "run").folder)
    whole = Store.open(run(replace(config, precision=None, output=tmp_path / "whole"), Quiet(), "run").folder)
    for one, two in ((stopped, whole), (whole, stopped), (stopped, stopped)):
        report = check(Snapshot.of(one), Snapshot.of(two), [Complete()], ("one", "two"))
        assert [finding.status for finding in report.findings] == ["kept"] * 3
        cells = {cell.strategy: cell for cell in compare(one, two).cells}
        assert all(cell.changed == 0 for cell in cells.values())
        assert cells["one_letter"].score is not None
        assert cells["one_letter"].score.high > 0.05, "an interval that holds at any stop"
    shot = Snapshot.of(stopped)
    lost = replace(shot, cells={key: cell.iloc[int(key[1] == "greedy"):] for key, cell in shot.cells.items()})
    report = check(lost, Snapshot.of(whole), [Complete()], ("one", "two"))
    assert [finding.status for finding in report.findings].count("broken") == 1


def test_scores_beyond_one_leave_nothing_out(config: RunConfig) -> None:
    store = Store.open(run(replace(config, tasks=("long",)), Quiet(), "run").folder)
    assert (len(store.finished()[0]), store.manifest.spared) == (180, {})
    assert store.manifest.warnings[0].startswith(f"{REACHED}no sample was left out; ")
    assert summarise(store)["quality_low"].notna().all()


def test_a_budget_may_end_the_run_first(config: RunConfig) -> None:
    times = map(float, range(10 ** 9))
    outcome = run(replace(config, budget="150s"), Quiet(), "run", lambda: next(times))
    store = Store.open(outcome.folder)
    assert outcome.left + store.manifest.spared_samples + len(store.finished()[0]) == 180
    assert outcome.left > 0
    assert progress(store).left == outcome.left
    run(replace(config, budget=None), Quiet(), "run")
    assert Store.open(outcome.folder).manifest.spared_samples


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"precision": 0.0}, "--precision must be above 0, not 0.0."),
    ({"precision": 0.5}, "--precision must be below 0.5, not 0.5."),
    ({"precision": 0.1, "shard": "2/3"}, "a shard has only some: leave it out"),
    ({"precision": 0.1, "backend": "openai", "base_url": "http://x", "request_rate": 2.0}, "leave one of the two out"),
])
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        RunConfig(**settings)


def test_a_task_without_a_score_is_refused_before_anything_is_written(config: RunConfig) -> None:
    with pytest.raises(UserError, match=r"--precision needs a score, and silent has none \(for nobody\): leave one"):
        run(replace(config, tasks=("parity", "silent")), Quiet(), "run")
    assert config.output is not None
    assert not config.output.exists()
