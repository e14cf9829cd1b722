"""Tokens per step: loops beside them, two means that order strategies differently, context and entropy."""

import math
from pathlib import Path
from typing import Any

import pytest

from harness.measure.acceptance import acceptance_table, flips
from harness.measure.raw import read
from harness.measure.summary import summarise
from harness.measure.tau_bins import tau_bins
from harness.report import detail
from harness.report.tables import markdown, notes
from harness.store.folder import Store
from harness.store.schema import Record, TextMetrics, TextScore
from tests.runs import manifest, record, strategy, task, turn, write

SPEC, LOOKUP = "speculative", "prompt_lookup"
ENTRIES = [strategy("greedy", "lossless"), strategy(SPEC, "lossless"), strategy(LOOKUP, "lossless")]
LOOP = [1, 2, 3, 9, 8, 7, 9, 8, 7]
PLAIN = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def said(ids: list[int], steps: list[int], spec: str = SPEC, example: str = "a", stop: str = "eos", prompt: int = 100,
         **more: Any) -> Record:
    """One answer of these ids, committed in these steps."""
    assert sum(steps) == len(ids)
    later = [0, *[2] * (len(steps) - 1)]
    one = turn(steps, [0.1] * len(steps), drafted=later, accepted=[max(0, count - 1) for count in steps], stop=stop)
    one = one.model_copy(update={"tokens": ids, "prompt_tokens": prompt})
    return record("math", example, spec, [one], 1, **more)


def stored(tmp_path: Path, *records: Record) -> Store:
    return write(tmp_path / "run", manifest(ENTRIES, [task("math")]), list(records))


def row(store: Store, spec: str = SPEC) -> Any:
    table = acceptance_table(store, read(store))
    return table[table["strategy"] == spec].iloc[0]


@pytest.mark.parametrize(("ids", "stop", "share"), [
    ([*LOOP, 0], "eos", 1.0), (LOOP, "length", 1.0), (LOOP, "eos", 0.0), ([*PLAIN, 0], "eos", 0.0),
    ([1, *[5] * 51], "length", 1.0), ([1, *[5] * 50], "length", 0.0)])
def test_an_answer_loops_if_its_tokens_before_eos_do(tmp_path: Path, ids: list[int], stop: str, share: float) -> None:
    assert row(stored(tmp_path, said(ids, [1, len(ids) - 1], stop=stop)))["loops"] == share


def test_loops_stand_beside_tau_and_it_is_told_what_they_do(tmp_path: Path) -> None:
    store = stored(tmp_path, said([*LOOP, 0], [1, 9]), said([*PLAIN, 0], [1, 3, 3, 3], example="b"))
    found = row(store)
    assert (found["loops"], found["tau_unlooped"], found["tau_pooled"]) == (0.5, 3.0, 18 / 4)
    section, = (one for one in detail.collect([store]).sections if one.kind is detail.ACCEPTANCE)
    columns = [column.title for column in section.filled_columns(section.rows)]
    assert columns[:3] == ["τ", "loops", "τ, no loops"]
    assert section.notes == (f"{SPEC} on math: 50 % of the answers end in a loop, which drafts itself; τ of the others "
                             "is 3.00",)


def test_loops_are_of_turns_and_unknown_without_token_ids(tmp_path: Path) -> None:
    two = said([*PLAIN, 0], [1, 9])
    loop = said(LOOP, [1, 8], stop="length").turns[0]
    lost = said(LOOP, [1, 8], example="b", stop="length")
    lost = lost.model_copy(update={"turns": [lost.turns[0].model_copy(update={"tokens": []})]})
    store = stored(tmp_path, two.model_copy(update={"turns": [*two.turns, loop]}), lost)
    assert row(store)["loops"] == 0.5
    alone = row(stored(tmp_path / "alone", lost))
    assert math.isnan(alone["loops"])
    assert math.isnan(alone["tau_unlooped"])
    every = row(stored(tmp_path / "every", said(LOOP, [1, 8], stop="length")))
    assert every["loops"] == 1
    assert math.isnan(every["tau_unlooped"])


def test_both_means_are_in_the_table_and_a_flip_of_their_order_is_told(tmp_path: Path) -> None:
    """SPEC: 9 tokens in 2 steps and 1 in 1; the other: 9 in 3 and 4 in 1. Pooled 10/3 > 13/4, by answer 2.75 < 3.5."""
    store = stored(tmp_path, said([*PLAIN, 0], [1, 5, 4]), said([1, 0], [1, 1], example="b"),
                   said([*PLAIN, 0], [1, 3, 3, 3], LOOKUP), said([1, 2, 3, 4, 0], [1, 4], LOOKUP, "b"))
    summary = summarise(store)
    means = summary.set_index("strategy")[["tau_pooled", "tau_answer_mean"]]
    assert means.loc[SPEC].tolist() == pytest.approx([10 / 3, 2.75])
    assert means.loc[LOOKUP].tolist() == pytest.approx([13 / 4, 3.5])
    assert [(one["strategy"], other["strategy"]) for one, other in flips(summary)] == [(SPEC, LOOKUP)]
    line, = (note for note in notes(summary) if "τ of" in note)
    assert line == ("math: τ of speculative is above that of prompt_lookup over all steps (3.33 and 3.25) and below it "
                    "as the mean over answers (2.75 and 3.50), in which long answers weigh less")
    assert "| τ by answer |" in markdown(summary)
    same = stored(tmp_path / "same", said([*PLAIN, 0], [1, 5, 4]), said([*PLAIN, 0], [1, 3, 3, 3], LOOKUP))
    assert flips(summarise(same)) == []


def test_tau_by_the_context_of_a_step(tmp_path: Path) -> None:
    """Contexts before the later steps: 125 + 1, 129, 132 and 300 + 1 tokens."""
    store = stored(tmp_path, said([*PLAIN, 0], [1, 3, 3, 3], prompt=125),
                   said([1, 2, 0], [1, 2], example="b", prompt=300))
    found = tau_bins(store, read(store)).iloc[0]
    assert {name: found[name] for name in found.index if "context" in name} == {
        "tau_context_128": 3.0, "steps_context_128": 1, "tau_context_256": 3.0, "steps_context_256": 2,
        "tau_context_512": 2.0, "steps_context_512": 1}
    assert not [name for name in found.index if "entropy" in name]
    far = tau_bins(many := stored(tmp_path / "far", said([1, 2, 0], [1, 2], prompt=65535), said(
        [1, 2, 0], [1, 1, 1], example="b", prompt=65536)), read(many)).iloc[0]
    assert (far["tau_context_65536"], far["tau_context_more"], far["steps_context_more"]) == (2.0, 1.0, 2)


def test_tau_by_the_entropy_of_an_answer(tmp_path: Path) -> None:
    store = stored(tmp_path, said([*PLAIN, 0], [1, 3, 3, 3]), said([*PLAIN, 0], [1, 9], example="b"),
                   said([1, 2, 0], [1, 1, 1], example="c"))
    scores = [TextScore(task="math", example=example, strategy=SPEC, tokens=10, logp=-1.0, greedy=None, entropy=entropy,
                        uneven=None, rep=None, scorer_tokens=10, scorer_logp=-1.0, cosine=None)
              for example, entropy in (("a", 0.25), ("b", 3.0))]
    store.write_text_metrics(TextMetrics(scorer="toy", own=True, tasks=["math"], scores=scores, likeness=[]))
    found = tau_bins(store, read(store)).iloc[0]
    assert {name: found[name] for name in found.index if "entropy" in name} == {
        "tau_entropy_0.25": 3.0, "steps_entropy_0.25": 3, "tau_entropy_more": 9.0, "steps_entropy_more": 1}
    section, = (one for one in detail.collect([store]).sections if one.kind is detail.BINS)
    assert [column.title for column in section.filled_columns(section.rows)] == ["≤128 tok", "≤0.25 nats", ">2 nats"]
