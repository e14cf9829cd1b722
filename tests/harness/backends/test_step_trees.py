"""The trees of steps that a trace keeps on request, against its tokens and counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends import trace as traces
from harness.backends.trace import Trace, trace
from harness.backends.transformers import open_session
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.decode import engine
from tests.models import EOS, prompts, tiny_model
from tests.pages import block_of
from tests.pair import saved, tokenizer
from tests.watch import Quiet


def traced(spec: str, trees: bool = True, seed: int = 1) -> Trace:
    strategy, prompt = STRATEGIES.build(spec), prompts(1)[0]
    session = open_session(strategy, [engine(tiny_model("llama", layers=2, seed=each)) for each in (0, seed)])
    rule = StopRule(tokenizer(), prompt, frozenset({EOS}), ())
    return trace(strategy, session, Request(tuple(prompt), 20, PhiloxStream(0), frozenset({EOS})), rule,
                 lambda: 0.0, trees)


@pytest.mark.parametrize("spec", ["speculative:gamma=3", "sequoia", "prompt_lookup", "token_recycling"])
def test_the_trees_are_what_the_counts_say(spec: str) -> None:
    found = traced(spec, seed=0)
    assert traced(spec, trees=False, seed=0).trees == []
    nodes, paths, at = [0] * len(found.steps.tokens), [0] * len(found.steps.tokens), 0
    for tree in found.trees:
        nodes[tree.step], paths[tree.step] = len(tree.tokens), len(tree.path)
        assert all(parent < node for node, parent in enumerate(tree.parents))
        assert [tree.parents[node] for node in tree.path] == [-1, *tree.path][:len(tree.path)]
        at = sum(found.steps.tokens[:tree.step])
        kept = min(len(tree.path), found.steps.tokens[tree.step])
        assert [tree.tokens[node] for node in tree.path][:kept] == found.tokens[at:at + kept]
    assert nodes == found.steps.drafted
    assert paths == found.steps.accepted
    assert spec == "prompt_lookup" or any(paths)


def test_the_hypotheses_of_a_search_are_one_tree() -> None:
    found = traced("beam:width=3")
    (forest,) = found.trees
    assert len(forest.tokens) == found.steps.drafted[0]
    assert [forest.tokens[node] for node in forest.path] == found.tokens[:len(forest.path)]
    assert len(forest.path) >= len(found.tokens) - 1  # the last token has no successors


def test_trees_end_at_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = traced("speculative:gamma=3")
    monkeypatch.setattr(traces, "NODES", 7)
    kept = traced("speculative:gamma=3").trees
    assert kept[:2] == whole.trees[:2]
    assert sum(len(tree.tokens) for tree in kept) <= 7 < sum(len(tree.tokens) for tree in whole.trees)


def test_a_run_keeps_them_in_a_file_of_their_own_and_shows_them(tmp_path: Path) -> None:
    asked = RunConfig(model=str(saved("llama")), tasks=("nano_math",), strategies=("greedy", "lookahead"), limit=2,
                      device="cpu", threads=1, max_new_tokens=12, output=tmp_path / "run", trace="full")
    store = Store.open(run(asked, Quiet(), "").folder)
    trees = list(store.trees())
    assert {one.strategy.partition(":")[0] for one in trees} == {"lookahead"}
    assert "trees" not in store.path.read_text()
    block = block_of([store])
    drawn = [turn["trees"] for samples in block["cells"].values() for sample in samples for turn in sample["turns"]
             if "trees" in turn]
    first = trees[0].turns[0][0]
    texts, parents, path = drawn[0][str(first.step)]
    assert ([block["texts"][text] for text in texts], parents, path) == (first.texts, first.parents, first.path)
    assert len(drawn) == len(trees)
    run(replace(asked, trace=None), Quiet(), "")  # the same run: it is not told apart by its trees


def test_trees_are_asked_for_in_full_or_not_at_all() -> None:
    with pytest.raises(UserError, match="--trace must be full, or be left out, not 'all'"):
        RunConfig(trace="all")
    with pytest.raises(UserError, match="--trace full needs --backend transformers"):
        RunConfig(trace="full", backend="vllm")
