"""Tables in narrow terminals: names stay whole, figures give way, and a line says which."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

from harness.measure.compare import compare
from harness.measure.raw import read
from harness.measure.summary import summarise
from harness.report import check, sweep, tables, texts, verify
from harness.report import compare as compared
from harness.report.detail import SPEED, section_of
from harness.report.terminal import FittedTable, Head, figures
from harness.store.folder import Store
from harness.sweep.sweep import Choice, Knob, StrategySweep, Sweep
from harness.verify.results import Report, StrategyResult
from tests.runs import realistic

NAMES = ("greedy", "diverse_beam", "contrastive_search", "momentum", "prompt_lookup")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return realistic(tmp_path_factory.mktemp("runs") / "run", examples=4)


def lines(shown: RenderableType, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def summary(store: Store) -> RenderableType:
    return tables.terminal(summarise(store), store.manifest)


def speed(store: Store) -> RenderableType:
    raw = read(store)
    return texts.terminal(section_of(SPEED, [store], [SPEED.make(store, raw)])[0])


def comparison(store: Store) -> RenderableType:
    return compared.terminal(compare(store, store))


def verification(store: Store) -> RenderableType:
    found = [StrategyResult(strategy=f"{name}:temperature=1", temperature=at, verdict="distribution kept", ok=True,
                            total=96, tau=1.2, p_value=0.3) for name in NAMES for at in ("1", "0.7, p=0.9")]
    return verify.terminal(Report(model="nano", draft=None, dtype="float32", findings=found, concurrency=8, seed=0,
                                  tokens=48, skipped={}))


def swept(store: Store) -> RenderableType:
    choices = [Choice(task="nano_math", spec=f"{name}:k=8", dev=0.5, held_out=0.5, gain=0.1, gain_low=0.05,
                      gain_high=0.15) for name in NAMES]
    one = StrategySweep(spec="prompt_lookup:k=4", aim="speed", settings=4, possible=12, default=choices[:1],
                        fixed=choices[:1], best=choices[:1], regret=0.1, per_task=None, left_out={}, knobs=[
                            Knob(name=name, values=[], tried=["1", "2", "4", "8"], range=0.1, alive=True)
                            for name in NAMES])
    return sweep.terminal(Sweep(model="nano", seed=0, swept=[one], skipped={}, failed=[], budget=32,
                                dev={"nano_math": 2}, held_out={"nano_math": 2}))


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("table", [summary, speed, comparison, verification, swept])
def test_names_stay_whole_at_any_width(store: Store, table: Callable[[Store], RenderableType], width: int) -> None:
    found = lines(table(store), width)
    assert max(map(len, found)) <= width
    for name in NAMES:
        assert any(line.strip().split(" ")[0] == name for line in found), name
    assert not any("…" in line for line in found)


def test_the_most_important_figures_stay_and_the_others_are_named(store: Store) -> None:
    narrow, middle, wide = ("\n".join(lines(summary(store), width)) for width in (40, 60, 80))
    assert "not shown at 40 columns: tok/s, speed-up, τ, fwd/tok" in narrow.replace("\n", " ")
    assert "not shown at 60 columns: tok/s, τ, fwd/tok" in middle
    assert "not shown" not in wide
    for title, text in (("quality", narrow), ("speed-up", middle), ("fwd/tok", wide)):
        assert title in text.partition("─")[0]


def test_columns_fill_the_width_and_come_back_in_their_order() -> None:
    table = FittedTable([Head("name"), *figures(("a", "wide", "c"), important=("c",))])
    table.add("speculative", "1", "2 [1, 3]", "4")
    assert lines(table, 80)[0].split() == ["name", "a", "wide", "c"]
    for width, kept in ((29, "name a wide c"), (28, "name a c"), (19, "name a c"), (18, "name c"), (15, "name")):
        found = lines(table, width)
        assert found[0].split() == kept.split(), width
        assert found[2].split()[0] == "speculative"


def test_a_name_that_cannot_fit_is_folded_not_lost() -> None:
    table = FittedTable([Head("name"), *figures(("n",))])
    table.add("x" * 50, "1")
    assert [line.split() for line in lines(table, 30)[2:]] == [["x" * 25, "1"], ["x" * 25]]


def test_the_check_keeps_its_rules(store: Store) -> None:
    from harness.regression.check import check as checked
    from harness.regression.rules import read as rules
    from harness.regression.snapshot import Snapshot

    snapshot = Snapshot.of(store)
    found = lines(check.terminal(checked(snapshot, snapshot, rules(None), ("a", "b"), [], None)), 40)
    assert {"complete", "counts", "quality"} <= {line.split()[0] for line in found}
