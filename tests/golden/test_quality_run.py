"""The committed runs of the methods that change the output show the effects known from the literature."""

from pathlib import Path

import pandas as pd

from harness.measure.summary import samples, summarise
from harness.plugins.spec import labels
from harness.store.folder import Store

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_quality_and_diversity_move_as_they_should() -> None:
    summary, texts = (pd.read_csv(RESULTS / "quality" / f"{name}.csv") for name in ("summary", "texts"))
    short = labels(map(str, summary["strategy"].unique()))
    table = summary.assign(strategy=summary["strategy"].map(short)).set_index(["strategy", "task"])["quality"].unstack()
    stories = texts[texts["task"] == "nano_story"]
    varied = dict(zip(stories["strategy"].map(short), stories["diversity"], strict=True))
    assert (summary["failed"] == 0).all()
    assert set(summary["samples"]) == {24}
    exact = ["nano_math", "nano_edit", "nano_summary"]
    assert (table.loc["top_p", exact] < table.loc["greedy", exact]).all()
    assert varied["top_p"] > 3 * varied["greedy"]
    for method in ("contrastive_search", "momentum", "fsd", "fsd_vec", "greedy+repetition_penalty",
                   "greedy+frequency_penalty"):
        assert varied[method] > 3 * varied["greedy"], method
        assert table.loc[method, "nano_story"] > table.loc["greedy", "nano_story"] + 0.15, method
    one = table.loc["temperature:temperature=1"]
    assert (table.loc["temperature+self_consistency"] >= one).all()
    assert table.loc["temperature+self_consistency"].mean() > one.mean() + 0.05
    assert varied["beam:width=8,length_penalty=0"] < 0.5 * varied["top_p"]
    assert varied["contrastive_decoding"] > 2 * varied["greedy"]


def test_constraints_are_met() -> None:
    store = Store.open(RESULTS / "constrained")
    table, frame = summarise(store).set_index("strategy"), samples(store)
    short = labels(map(str, table.index))
    words = frame.assign(name=frame["strategy"].map(short)).groupby("name")["score_coverage"].mean()
    assert max(words["greedy"], words["beam"], words["top_p"]) < 0.2
    assert min(words[name] for name in ("constrained_beam", "grid_beam", "dba", "neurologic:prune=500000")) > 0.98
    assert words["neurologic_astar"] > 0.85
    scores = table["quality"].rename(short)
    assert min(scores[name] for name in ("constrained_beam", "grid_beam", "dba")) > 5 * scores["beam"]
