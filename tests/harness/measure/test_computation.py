"""Figures of computation: the operations of known models, and columns that appear only where a method spares some."""

import math
from pathlib import Path

import pandas as pd
import pytest
import transformers

from harness.engine.compute import Compute
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.measure.computation import sums
from harness.measure.summary import BYTES_READ, FIGURES, samples, summarise
from harness.models.loading import load
from harness.models.size import meta_model
from harness.report.tables import all_columns, computation_columns, csv
from harness.run.sizes import sizes_of
from harness.store.computed import Computed, Sizes
from harness.store.folder import Store
from harness.store.schema import Record, Turn
from tests.runs import manifest, record, strategy, task, turn, write

SMOL = transformers.LlamaConfig(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576,
                                intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True)


def one_token(sizes: Sizes, keys: int) -> dict[str, float]:
    """The figures of one token that attends to so many keys in each layer."""
    each = sizes.layers
    later = {"attention": each, "mlp": each, "fills": 0, "logits": 1, "keys": keys * each, "all_keys": keys * each,
             "attention_read": each, "mlp_read": each, "fills_read": 0, "logits_read": 1}
    computed = Computed(**{name: (0, value) for name, value in later.items()})
    answer = turn([1, 1], [0.1, 0.1]).model_copy(update={"computed": computed})
    return sums(record("math", "a", "greedy", [answer]), sizes)


def test_nano_computes_the_operations_of_its_sizes() -> None:
    sizes = sizes_of(load("nano").engine.model)
    assert sizes
    assert 2 * sizes.attention == 294_912
    assert 2 * sizes.mlp == 589_824
    assert 2 * sizes.head == 786_432
    for keys in (1, 512):
        assert one_token(sizes, keys)["flops"] == 9_633_792 + 7_680 * keys
    assert one_token(sizes, 512)["flops"] == 13_565_952
    assert one_token(sizes, 512)["kv_bytes"] == 2 * 192 * 4 * 10 * 512
    assert one_token(sizes, 512)["weight_bytes"] == 4 * 9_633_792 / 2


def test_another_known_model() -> None:
    """SmolLM2-135M, whose keys have fewer heads than its queries."""
    sizes = sizes_of(meta_model(SMOL))
    assert sizes
    assert 2 * (sizes.attention + sizes.mlp) == 7_077_888
    assert 2 * sizes.head == 56_623_104
    assert one_token(sizes, 3891)["flops"] == 268_959_744 + 69_120 * 3891
    assert sizes.fill == 2 * 576 * 192


def test_a_model_whose_tokens_use_some_experts_has_no_sizes() -> None:
    config = transformers.MixtralConfig(num_hidden_layers=1, hidden_size=32, intermediate_size=16, vocab_size=97,
                                        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    assert sizes_of(meta_model(config)) is None


def test_a_decoded_token_has_the_figures_of_the_formula() -> None:
    """Of counts that a session made, not only of those written down here."""
    model = load("nano").engine.model
    session, sizes = Session(Engine(model, 512)), sizes_of(model)
    assert sizes
    session.follow(range(5, 68))
    session.read()
    before = session.work.compute.numbers()
    session.follow(range(5, 69))
    session.read()
    after = session.work.compute.numbers()
    session.close()
    computed = Computed(**{name: (before[name], after[name] - before[name]) for name in after})
    answer = turn([1, 1], [0.1, 0.1]).model_copy(update={"computed": computed})
    found = sums(record("math", "a", "greedy", [answer]), sizes)
    assert found == one_token(sizes, 64)


SIZES = Sizes(layers=4, attention=100, mlp=200, fill=50, head=1000, query=8, key=4, number_bytes=2)


def answer(mlp: float, keys: float, kv: float | None = None) -> Turn:
    """Three tokens, two of them after the prefill."""
    values = vars(Compute()) | {"attention": 8, "mlp": mlp, "logits": 2, "keys": keys, "all_keys": 80,
                                "kv": keys if kv is None else kv, "attention_read": 8, "mlp_read": mlp,
                                "logits_read": 2}
    return turn([1, 1, 1], [0.1] * 3).model_copy(update={"computed": Computed(**{
        name: (1000, value) for name, value in values.items()})})


def run(folder: Path, records: list[Record], sizes: Sizes | None = SIZES) -> Store:
    described = manifest([strategy("greedy"), strategy("ffn_skip")], [task("math")])
    described = described.model_copy(update={"model": described.model.model_copy(update={"sizes": sizes})})
    return write(folder, described, records)


def row(summary: pd.DataFrame, spec: str) -> "pd.Series[float]":
    return summary[summary["strategy"] == spec].iloc[0]


def test_figures_are_per_token_after_the_first_step(tmp_path: Path) -> None:
    store = run(tmp_path, [record("math", "a", "greedy", [answer(8, 80)]),
                           record("math", "a", "ffn_skip", [answer(6, 60)])])
    summary = summarise(store)
    base, less = row(summary, "greedy"), row(summary, "ffn_skip")
    assert base[FIGURES].tolist() == [1, 1, 8 * 100 + 8 * 200 + 2000 + 16 * 80, 800 + 1600 + 2000, 8 * 80]
    assert less[FIGURES].tolist() == [14 / 16, 0.75, 800 + 1200 + 2000 + 16 * 60, 800 + 1200 + 2000, 8 * 60]
    assert [column.title for column in computation_columns(summary)] == [
        "layers run", "keys read", "MFLOP/tok", "weights MB/tok", "KV MB/tok"]
    assert set(FIGURES) <= {column.key for column in all_columns(summary)}
    assert "layers_run" in csv(summary).splitlines()[0]


@pytest.mark.parametrize("sizes", [SIZES, None])
def test_a_run_of_whole_models_has_no_such_columns(tmp_path: Path, sizes: Sizes | None) -> None:
    """Nor one that does not know the model's sizes, nor one without the counts."""
    store = run(tmp_path, [record("math", "a", "greedy", [answer(8, 80)]),
                           record("math", "a", "ffn_skip", [turn([1, 1], [0.1, 0.1])])], sizes)
    assert not set(FIGURES) & set(summarise(store))
    assert math.isnan(samples(store)["flops"].iloc[1])


def test_fewer_bytes_of_all_keys_are_shown(tmp_path: Path) -> None:
    """A rounded cache leaves out no layer and no key."""
    store = run(tmp_path, [record("math", "a", "greedy", [answer(8, 80)]),
                           record("math", "a", "ffn_skip", [answer(8, 80, 20)])])
    summary = summarise(store)
    base, less = row(summary, "greedy"), row(summary, "ffn_skip")
    assert less[FIGURES].tolist() == [1, 1, base["flops_per_token"], base["weight_bytes_per_token"], 8 * 20]
    assert base["kv_bytes_per_token"] == 8 * 80
    assert BYTES_READ not in summary


def test_older_records_are_read_and_sizes_do_not_keep_a_run_from_its_end(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old", [], None).manifest, run(tmp_path / "new", []).manifest
    assert old.identity() == new.identity()
    assert Turn.model_validate(turn([1], [0.1]).model_dump(exclude={"computed"})).computed is None
