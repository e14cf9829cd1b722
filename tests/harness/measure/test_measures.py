"""Acceptance and speed under their published names, worked out by hand from a few steps."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.backends.memory import PROCESS, peak_bytes, reset_peak
from harness.measure.acceptance import acceptance_table
from harness.measure.raw import Raw, read
from harness.measure.speed import speed_table
from harness.measure.summary import samples
from harness.report.detail import SPEED, collect
from harness.report.texts import csv
from harness.store.folder import Store
from harness.store.schema import Record, Steps
from tests.runs import manifest, record, strategy, task, turn, write

GREEDY, SPEC, BEAM = "greedy", "speculative:k=4", "beam:width=4"
STRATEGIES = [strategy(GREEDY), strategy(SPEC, "speculative"), strategy(BEAM, "search", "changes-output")]
RECORDS = [
    # Two turns of one question: 1 + 4 tokens in 2 later steps, and 1 + 3 in 3 steps, one of which drafted nothing.
    record("math", "a", SPEC, [
        turn([1, 3, 1], [0.2, 0.1, 0.1], drafted=[0, 4, 4], accepted=[0, 2, 0], draft_forwards=[0, 4, 4]),
        turn([1, 1, 0, 2], [0.1, 0.1, 0.1, 0.2], drafted=[0, 0, 2, 4], accepted=[0, 0, 0, 4], stop="length")], 1),
    # One question of one turn: 1 + 6 in 2 steps; the stop rule cut the last step from 5 tokens to 4.
    record("math", "b", SPEC, [turn([1, 2, 4], [0.2, 0.1, 0.3], drafted=[0, 4, 4], accepted=[0, 1, 4])], 1),
    record("math", "a", GREEDY, [turn([1, 1, 1], [0.2, 0.2, 0.2]), turn([1] * 4, [0.3] * 4, stop="length")], 1),
    record("math", "b", GREEDY, [turn([1] * 5, [0.2] * 5)], 0),
    record("math", "a", BEAM, [turn([6], [1.2], stop="ended"), turn([2], [0.5])], 0),
    record("math", "b", BEAM, error="RuntimeError: no"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    records = [one.model_copy(update={"peak_bytes": 1000 + n} if n != 2 else {}) for n, one in enumerate(RECORDS)]
    return write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), records)


@pytest.fixture
def raw(store: Store) -> Raw:
    return read(store)


def row(table: pd.DataFrame, spec: str) -> Any:
    return table[table["strategy"] == spec].iloc[0]


def close(found: Any, **wanted: float) -> None:
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)


def test_tokens_a_step_are_pooled_in_every_published_way(store: Store, raw: Raw) -> None:
    table = acceptance_table(store, raw)
    assert list(table["strategy"]) == [SPEC], "neither a baseline nor a search drafts"
    close(table.iloc[0], questions=2, turns=3, steps=7,
          tau_pooled=(4 + 3 + 6) / 7, tau_turn_mean=(4 / 2 + 3 / 3 + 6 / 2) / 3,
          tau_question_mean=(7 / 5 + 6 / 2) / 2, tau_verify=(5 + 4 + 7) / 7,
          tau_turn_mean_first=(5 / 3 + 4 / 4 + 7 / 3) / 3, tau_question_mean_first=(9 / 7 + 7 / 3) / 2)


def test_acceptance_counts_the_steps_that_drafted(store: Store, raw: Raw) -> None:
    found = acceptance_table(store, raw).iloc[0]  # drafted 4, 4, 2, 4, 4, 4 and accepted 2, 0, 0, 4, 1, 4
    close(found, drafts=6, drafted=22, accepted=11, tau_drafts=1 + 11 / 6, draft_accept_rate=11 / 22,
          drafted_mean=22 / 6, drafted_max=4, accepted_max=4)
    close(found, accept_pos_uncond_1=4 / 6, accept_pos_uncond_2=3 / 6, accept_pos_uncond_3=2 / 6,
          accept_pos_uncond_4=2 / 6)
    close(found, accept_pos_cond_1=4 / 6, accept_pos_cond_2=3 / 4, accept_pos_cond_3=2 / 3, accept_pos_cond_4=2 / 2)
    assert "accept_pos_uncond_5" not in found


def test_a_place_that_was_not_drafted_was_not_rejected(tmp_path: Path) -> None:
    one = record("math", "a", SPEC, [turn([1, 2, 3], [0.1] * 3, drafted=[0, 1, 4], accepted=[0, 1, 2])])
    store = write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), [one])
    close(acceptance_table(store, read(store)).iloc[0], accept_pos_uncond_2=1 / 2, accept_pos_cond_2=1 / 1,
          accept_pos_cond_3=0 / 1, accept_pos_cond_4=math.nan, accept_pos_uncond_4=0)


def test_latencies_are_of_turns_tokens_and_bursts(store: Store, raw: Raw) -> None:
    found = row(speed_table(store, raw), SPEC)
    close(found, ttft_mean=0.5 / 3, ttft_p50=0.2, tpot_mean=(0.2 / 4 + 0.4 / 3 + 0.4 / 6) / 3, tpot_p50=0.4 / 6)
    # Bursts of 3, 1 | 1, 2 | 2, 4 tokens after 0.1, 0.1 | 0.1, 0.1 + 0.2 (a step kept nothing) | 0.1, 0.3 seconds.
    close(found, itl_burst_mean=1.0 / 6, itl_burst_p50=0.1, burst_mean=13 / 6, burst_p50=2)
    each = sorted([0.1 / 3] * 3 + [0.1] * 2 + [0.15] * 2 + [0.05] * 2 + [0.075] * 4)
    close(found, itl_token_mean=1.0 / 13, itl_token_p50=each[6])


def test_an_answer_that_comes_in_one_step_has_no_time_per_token(store: Store, raw: Raw, tmp_path: Path) -> None:
    table = speed_table(store, raw)
    search = row(table, BEAM)
    close(search, ttft_mean=0.85, ttft_p50=0.85)
    unknown = [name for name in table if name.startswith(("tpot", "itl", "burst", "decode"))]
    assert len(unknown) == 22
    assert search[unknown].isna().all()
    texts = {column.title: column.text(search) for column in SPEED.columns}
    assert {texts[title] for title in ("TPOT mean", "TPOT p50", "ITL/tok p99", "decode tok/s")} == {"–"}
    assert texts["TTFT p50"] == "850"
    collected = [section for section in collect([store]).sections if section.kind is SPEED]
    lines = csv(collected[0]).splitlines()
    fields = dict(zip(lines[0].split(","), next(line for line in lines if BEAM in line).split(","), strict=True))
    assert fields["tpot_mean"] == fields["tpot_p99"] == "" != fields["ttft_mean"]


def test_turns_in_one_step_do_not_lower_the_time_per_token_of_the_others(tmp_path: Path) -> None:
    turns = [turn([4], [0.8]), turn([2, 0], [0.5, 0.3]), turn([1, 3], [0.2, 0.6]), turn([1], [0.1])]
    store = write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), [record("math", "a", SPEC, turns)])
    close(speed_table(store, read(store)).iloc[0], ttft_mean=(0.8 + 0.5 + 0.2 + 0.1) / 4, tpot_mean=0.6 / 3,
          tpot_p50=0.6 / 3, itl_burst_mean=0.6)


def test_a_first_token_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    one = record("math", "a", GREEDY, [turn([0, 2, 0, 1, 0], [0.1, 0.2, 0.4, 0.8, 1.6]), turn([0], [0.5], ids=[]),
                                       turn([1], [3.0])])
    store = write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), [one])
    raw = read(store)
    assert raw.cell("math", GREEDY).bursts["seconds"].tolist() == pytest.approx([0.3, 1.2, 3.0])
    assert samples(store)["ttft"].tolist() == pytest.approx([0.3])
    close(speed_table(store, raw).iloc[0], ttft_mean=(0.3 + 3.0) / 2, tpot_mean=1.2 / 2)


def test_speedups_are_ratios_in_four_ways(store: Store, raw: Raw) -> None:
    found = row(speed_table(store, raw), SPEC)  # 9 tokens in 0.9 s and 7 in 0.6; greedy 7 in 1.8 and 5 in 1.0
    mine, base = (9 / 0.9, 7 / 0.6), (7 / 1.8, 5 / 1.0)
    ratios = [a / b for a, b in zip(mine, base, strict=True)]
    close(found, tokens_per_second=16 / 1.5, tokens_per_second_mean=sum(mine) / 2, speedup_totals=16 / 1.5 / (12 / 2.8),
          speedup_geometric=math.sqrt(ratios[0] * ratios[1]), speedup_arithmetic=sum(ratios) / 2,
          speedup_macro=sum(mine) / sum(base))
    close(found, decode_tokens_per_second=13 / 1.0, decode_speedup_totals=13 / 1.0 / (9 / 2.1),
          decode_speedup_geometric=math.sqrt(7 / 0.6 / (5 / 1.3) * (6 / 0.4 / (4 / 0.8))))
    close(row(speed_table(store, raw), GREEDY), speedup_totals=1, speedup_macro=1, speedup_matched=1, same_length=1)


def test_matched_lengths_are_those_of_the_shorter_answer_turn_by_turn(store: Store, raw: Raw) -> None:
    found = row(speed_table(store, raw), SPEC)
    # a: 3 of 5 tokens after the second step (0.3 s against 0.6), 4 of 4 (0.5 against 1.2); b: 5 of 7 need all steps
    close(found, speedup_matched=math.sqrt((0.6 + 1.2) / (0.3 + 0.5) * (1.0 / 0.6)), matched_tokens=12 / 16,
          same_length=0)
    beam = row(speed_table(store, raw), BEAM)  # 3 of 6 tokens after 1.2 s, 2 of 2 after 0.5; greedy's after 0.6 and 0.6
    close(beam, speedup_matched=(0.6 + 0.6) / (1.2 + 0.5), matched_tokens=5 / 8)


def test_stops_right_answers_and_memory(store: Store, raw: Raw) -> None:
    table = speed_table(store, raw)
    close(row(table, SPEC), stop_eos=2 / 3, stop_length=1 / 3, stop_ended=0, correct=2, seconds_per_correct=1.5 / 2,
          forwards_per_correct=10 / 2, tokens_per_correct=16 / 2, peak_bytes=1001)
    close(row(table, GREEDY), correct=1, seconds_per_correct=2.8, forwards_per_correct=12, peak_bytes=1003)
    close(row(table, BEAM), samples=1, correct=0, seconds_per_correct=math.nan, stop_ended=0.5, stop_eos=0.5)


def test_shares_are_no_right_answers(tmp_path: Path) -> None:
    store = write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), [
        record("math", "a", GREEDY, [turn([1], [0.1])], 0.5)])
    close(speed_table(store, read(store)).iloc[0], correct=math.nan, seconds_per_correct=math.nan)


def test_records_of_before_have_no_memory(store: Store, raw: Raw) -> None:
    line = RECORDS[0].model_dump_json(exclude={"peak_bytes"})
    assert Record.model_validate_json(line).peak_bytes is None
    assert math.isnan(raw.samples["peak_bytes"][2])


def test_a_run_without_answers_has_no_tables(tmp_path: Path) -> None:
    store = write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), RECORDS[-1:])
    raw = read(store)
    assert acceptance_table(store, raw).empty
    assert speed_table(store, raw).empty
    assert raw.cell("math", BEAM).bursts.empty


def test_counts_that_steps_lack_are_unknown(tmp_path: Path) -> None:
    one = record("math", "a", GREEDY, [turn([1, 1], [0.1, 0.1])])
    steps = Steps(tokens=[1, 1], seconds=[0.1, 0.1])
    short = one.model_copy(update={"turns": [one.turns[0].model_copy(update={"steps": steps})]})
    raw = read(write(tmp_path / "run", manifest(STRATEGIES, [task("math")]), [short]))
    assert raw.samples["tokens"].item() == 2
    assert raw.samples[["forwards", "drafted"]].isna().all(axis=None)


@pytest.mark.skipif(not (PROCESS / "clear_refs").exists(), reason="the peak can only be forgotten on Linux")
def test_the_peak_of_memory_begins_anew() -> None:
    reset_peak("cpu")
    before = peak_bytes("cpu")
    block = np.ones(25_000_000)
    most = peak_bytes("cpu")
    del block
    reset_peak("cpu")
    after = peak_bytes("cpu")
    assert before is not None
    assert most is not None
    assert after is not None
    assert most - before > 1.9e8
    assert most - after > 1.5e8
