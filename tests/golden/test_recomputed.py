"""The tables of a run, recomputed from its raw JSON by a few lines of pandas that share no code with the harness."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.measure.acceptance import acceptance_table
from harness.measure.raw import read
from harness.measure.speed import speed_table
from harness.measure.summary import summarise
from harness.store.folder import Store
from tests.runs import realistic

ROOT = Path(__file__).resolve().parents[2]
CELL = ["task", "strategy"]


def raw(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Samples and turns, of those that succeeded; a turn's steps are lists."""
    lines = (folder / "records" / "0000.jsonl").read_text(encoding="utf-8").splitlines()
    found = pd.DataFrame([json.loads(line) for line in lines])
    found = found[found["status"] == "ok"].reset_index(names="row")
    turns = found.explode("turns", ignore_index=True)
    steps = pd.DataFrame([turn["steps"] for turn in turns["turns"]])
    return found, pd.concat([turns[[*CELL, "row"]], steps], axis=1)


def recomputed(folder: Path, baseline: str) -> dict[str, pd.Series]:
    """Each figure by its name, a value for each (task, strategy)."""
    found, turns = raw(folder)
    for name in ("tokens", "forwards", "positions", "drafted", "accepted", "draft_forwards", "seconds"):
        turns[f"all_{name}"] = turns[name].map(sum)
        turns[f"later_{name}"] = turns[name].map(lambda steps: sum(steps[1:]))
    turns["steps"] = turns["seconds"].map(len) - 1
    of_sample = turns.groupby("row")
    found["tokens"] = found["row"].map(of_sample["all_tokens"].sum())
    found["speed"] = found["tokens"] / found["seconds"]
    keys = ["task", "example", "repeat"]
    base = found[found["strategy"] == baseline].set_index(keys)["speed"]
    found["ratio"] = found["speed"] / base.reindex(pd.MultiIndex.from_frame(found[keys])).to_numpy()
    cells, of_cell = found.groupby(CELL), turns.groupby(CELL)
    sums, kept = of_cell.sum(numeric_only=True), turns[turns["steps"] > 0]
    drafts = turns["drafted"].map(lambda steps: sum(n > 0 for n in steps)).groupby([turns[c] for c in CELL]).sum()
    return {
        "samples": cells.size(),
        "tokens_per_second": cells["tokens"].sum() / cells["seconds"].sum(),
        "decode_tokens_per_second": sums["later_tokens"] / sums["later_seconds"],
        "speedup": np.exp(np.log(found["ratio"]).groupby([found[c] for c in CELL]).mean()),
        "speedup_arithmetic": cells["ratio"].mean(),
        "tokens_per_second_mean": cells["speed"].mean(),
        "tokens_mean": cells["tokens"].mean(),
        "forwards_per_token": sums["all_forwards"] / sums["all_tokens"],
        "positions_per_token": sums["all_positions"] / sums["all_tokens"],
        "draft_forwards_per_token": sums["all_draft_forwards"] / sums["all_tokens"],
        "ttft_median": turns[~turns["row"].duplicated()].assign(
            first=lambda frame: frame["seconds"].str[0]).groupby(CELL)["first"].median(),
        "tau_pooled": sums["later_tokens"] / sums["steps"],
        "tau_turn_mean": (kept["later_tokens"] / kept["steps"]).groupby([kept[c] for c in CELL]).mean(),
        "tau_drafts": 1 + sums["all_accepted"] / drafts,
        "draft_accept_rate": sums["all_accepted"] / sums["all_drafted"],
        "drafted_mean": sums["all_drafted"] / drafts,
    }


@pytest.mark.parametrize("committed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tables_equal_a_recomputation_to_the_last_digit(tmp_path: Path, committed: bool) -> None:
    folder = ROOT / "results" / "speculative" if committed else realistic(tmp_path / "run", 20).folder
    store = Store.open(folder)
    found = read(store)
    wanted, compared = recomputed(folder, store.manifest.baseline), 0
    for table in (summarise(store, found), speed_table(store, found), acceptance_table(store, found)):
        rows = table.set_index(CELL)
        for figure in wanted.keys() & set(rows.columns):
            known = rows[figure].dropna()
            both = known.index.intersection(wanted[figure].dropna().index)
            assert known[both].tolist() == pytest.approx(wanted[figure][both].tolist(), rel=1e-12, abs=0), figure
            assert len(both) == len(known) or figure == "samples"
            compared += len(both)
    assert compared > 500
