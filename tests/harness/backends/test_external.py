"""Runs whose answers come from a backend of its own: records, ends, resume, failures, refusals and reports."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends.backend import Generated
from harness.backends.external import cut, first_steps
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.measure.summary import combine, summarise
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.spec import Spec
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record, Steps
from tests.fake_backend import connected
from tests.harness.run.test_runner import TASK
from tests.pair import saved, tokenizer
from tests.watch import Quiet


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    (tmp_path / "words.py").write_text(TASK)
    yield RunConfig(model=str(saved("llama")), draft=str(saved("llama", 1)), tasks=("words",), threads=1,
                    plugins=(tmp_path / "words.py",), device="cpu", output=tmp_path / "run", backend="vllm",
                    strategies=("top_p:p=0.9", "beam:width=3", "prompt_lookup"))
    STRATEGIES._files.clear()
    TASKS._files.clear()


def go(config: RunConfig) -> list[Record]:
    outcome = run(config, Quiet(), "decodebench run")
    return list(Store.open(outcome.folder).records())


def test_answers_are_those_of_the_reference_cut_where_it_cuts(config: RunConfig, monkeypatch: pytest.MonkeyPatch
                                                              ) -> None:
    made = connected(monkeypatch)
    native = {r.key: r for r in go(config)}
    other = {r.key: r for r in go(replace(config, backend="transformers", output=(config.output or Path()) / "ref"))}
    assert native.keys() == other.keys()
    assert len(native) == 12
    for key, record in native.items():
        mine, theirs = record.turns[0], other[key].turns[0]
        assert (mine.prompt, mine.prompt_tokens) == (theirs.prompt, theirs.prompt_tokens)
        assert sum(mine.steps.tokens) == len(mine.tokens) == len(mine.steps.seconds) + sum(mine.steps.tokens) - len(
            mine.steps.tokens)
        assert record.seconds == 0.5 * len(mine.steps.tokens)
        if not key[2].startswith(("top_p", "beam")):  # another backend draws other tokens
            parts = {"tokens", "raw", "text", "stop"}
            assert mine.model_dump(include=parts) == theirs.model_dump(include=parts)
        assert mine.steps.drafted == []
        assert mine.steps.forwards == []
    assert made[0].closed == 1


def test_the_manifest_and_the_summary_know_what_decoded(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    connected(monkeypatch, refused={"beam": "the fake has no beams"})
    go(config)
    store = Store.open(config.output or Path())
    assert store.manifest.environment["backend"] == {"name": "fake", "eager": True}
    assert (store.manifest.warnings[-1], store.manifest.config["backend"]) == ("a fake decodes", "vllm")
    rows = {row["name"]: row for _, row in summarise(store).iterrows()}
    assert rows["beam"]["unsupported"] == "the fake has no beams"
    assert rows["beam"]["samples"] == 0
    assert rows["greedy"]["samples"] == 3
    assert rows["greedy"]["tokens_per_second"] > 0
    assert rows["prompt_lookup"]["same_as_baseline"] == 1.0
    assert rows["greedy"]["forwards_per_token"] != rows["greedy"]["forwards_per_token"]  # unknown, not 0


def test_seeds_are_of_the_sample_and_nothing_else(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = connected(monkeypatch)
    go(replace(config, samples=2, repeats=2, strategies=("top_p:p=0.9",), baseline="top_p:p=0.9"))
    go(replace(config, samples=2, repeats=2, concurrency=3, strategies=("top_p:p=0.9",), baseline="top_p:p=0.9",
               output=(config.output or Path()) / "more"))
    one, more = ({(ask.prompt, ask.sample, ask.seed) for _, asks in fake.asked[1:] for ask in asks} for fake in made)
    assert one == more
    assert len({each[2] for each in one}) == 3 * 2 * 2
    assert PhiloxStream(0, "a", 1).number != PhiloxStream(0, "a", 2).number
    assert all(0 <= PhiloxStream(i).number < 1 << 63 for i in range(100))


def test_one_that_fails_is_recorded_and_one_that_is_gone_ends_the_run_until_it_is_resumed(
        config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tuple(encode_of("three"))
    made = connected(monkeypatch, failing=failing, lives=4 + 5)
    with pytest.raises(UserError, match="goes on from here"):
        go(config)
    assert made[0].closed == 1
    kept = list(Store.open(config.output or Path()).records())
    assert len(kept) == 5
    made = connected(monkeypatch, failing=failing)
    records = go(config)
    assert len(records) == len({r.key for r in records}) == 12
    assert [r.example for r in records if r.status == "failed"] == ["1"] * 4
    assert {r.error for r in records if r.status == "failed"} == {"RuntimeError: out of luck"}


def encode_of(text: str) -> list[int]:
    ids: list[int] = tokenizer()(text)["input_ids"]
    return ids


def test_strategies_that_cannot_be_kept_ready_come_one_after_the_other(config: RunConfig,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    made = connected(monkeypatch, side_by_side=False)
    go(config)
    order = [Spec.parse(spec).name for spec, _ in made[0].asked[4:]]
    assert order == ["greedy"] * 3 + ["top_p"] * 3 + ["beam"] * 3 + ["prompt_lookup"] * 3


def test_a_backend_without_token_ids_gives_texts_and_counts(config: RunConfig, monkeypatch: pytest.MonkeyPatch
                                                            ) -> None:
    connected(monkeypatch, telling=False)
    records = go(replace(config, concurrency=2))
    for record in records:
        assert (record.turns[0].text, record.turns[0].tokens) == ("some words", [])
        assert sum(record.turns[0].steps.tokens) > 0
        assert record.batch != record.batch
    assert summarise(Store.open(config.output or Path()))["tokens_mean"].min() > 0


def test_both_backends_stand_in_one_report(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    connected(monkeypatch)
    go(config)
    other = (config.output or Path()).with_name("reference")
    go(replace(config, backend="transformers", output=other))
    rows = combine([Store.open(config.output or Path()), Store.open(other)])
    assert list(rows["run"]) == ["run"] * 4 + ["reference"] * 4


def test_answers_end_where_the_reference_ends_them() -> None:
    words = tokenizer()
    ids = encode_of("one zz two")
    rule = StopRule(words, encode_of("x"), frozenset({2}), ("zz",))
    done = cut(rule, 50, Generated(ids, Steps(tokens=[2, 3, 5], seconds=[1, 2, 3], drafted=[0, 4, 4])))
    assert (len(done.tokens), done.stop) == (6, "stop")
    assert (done.steps.tokens, done.steps.seconds, done.steps.drafted) == ([2, 3, 1], [1, 2, 3], [0, 4, 4])
    assert cut(rule, 4, Generated(ids, Steps(tokens=[2, 3, 5]))).stop == "length"
    ended = cut(rule, 50, Generated([5, 6, 2, 7], Steps(tokens=[1, 3])))
    assert (ended.tokens, ended.stop, ended.steps.tokens) == ([5, 6, 2], "eos", [1, 2])
    assert cut(rule, 50, Generated([5, 6], Steps(tokens=[1, 1]), "length")).stop == "ended"


def test_steps_behind_the_last_kept_token_are_dropped() -> None:
    steps = Steps(tokens=[1, 3, 2], seconds=[1, 2, 3], accepted=[0, 2, 1])
    assert first_steps(steps, 4) == Steps(tokens=[1, 3], seconds=[1, 2], accepted=[0, 2])
    assert first_steps(steps, 2) == Steps(tokens=[1, 1], seconds=[1, 2], accepted=[0, 2])
    assert first_steps(steps, 6) == steps
    assert first_steps(steps, 0) == Steps()
    assert first_steps(Steps(tokens=[1, 0, 2], seconds=[1, 2, 3]), 1) == Steps(tokens=[1], seconds=[1])


def test_engine_options_are_for_another_backend() -> None:
    with pytest.raises(UserError, match="--engine is for another backend"):
        RunConfig(engine=("enforce_eager=true",))
