"""The verdict says what the paired statistics carry, and nothing else."""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GenerationConfig

from harness.backends.generate_options import DRAFT, as_text, generate_options
from harness.decoding.sampled import Sampler
from harness.engine.logit_warps import drawn_at
from harness.measure.significance import FEW
from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES
from harness.report.tables import notes
from harness.report.verdict import verdict
from harness.store.folder import Store
from harness.store.schema import Manifest
from tests.decode import decode, engine
from tests.models import EOS, PAD, prompts, tiny_model
from tests.runs import manifest, record, strategy, task, turn, write

LOOKUP = "prompt_lookup:length=10,max_ngram=3"
KINDS = {LOOKUP: "distribution-preserving", **dict.fromkeys(("suffix_decoding", "lookahead", "jacobi"), "lossless"),
         "beam:width=4": "changes-output"}


def run(folder: Path, speeds: Mapping[str, float], scores: Mapping[str, list[int]] | None = None, count: int = 24,
        ids: Mapping[str, int] | None = None, model: str = "meta/llama") -> tuple[pd.DataFrame, Manifest]:
    """A run of `count` problems; a strategy's `speeds` is its speed-up, `ids` the last token of its answers."""
    named = [strategy("greedy"), *(strategy(spec, guarantee=KINDS[spec]) for spec in speeds)]
    about = manifest(named, [task("math", unscored=None if scores else "no answers", examples=count)])
    about = about.model_copy(update={"model": about.model.model_copy(update={"name": model})})
    rng, records = np.random.default_rng(0), []
    for index, spec in product(range(count), ["greedy", *speeds]):
        slow = np.exp(rng.normal(0, 0.05)) / ({"greedy": 1.0} | dict(speeds))[spec]
        last = (ids or {}).get(spec, 7)
        score = None if scores is None else scores.get(spec, scores["greedy"])[index]
        records.append(record("math", f"e{index}", spec, [turn([1, 1, 1], [0.1 * slow] * 3, ids=[5, 6, last])], score))
    store = write(folder, about, records)
    store.write_divergences([])
    return summarise(Store.open(folder)), about


def test_the_fastest_of_those_that_keep_the_answers_is_named(tmp_path: Path) -> None:
    lines = verdict(*run(tmp_path / "run", {LOOKUP: 1.5, "suffix_decoding": 1.2, "beam:width=4": 2.0}))
    assert lines[0].startswith("math: to keep greedy's answers take prompt_lookup: 1.48 times as fast [1.44, 1.52].")
    assert "may be as fast" not in lines[0]
    assert "beam" not in " ".join(lines), "it promises no answer of greedy's, though it is faster"
    assert lines[1] == ("prompt_lookup in transformers: model.generate(**inputs, do_sample=False, "
                        "prompt_lookup_num_tokens=10, max_matching_ngram_size=3)")
    assert lines[2].startswith(
        "prompt_lookup in vLLM: vllm serve meta/llama --speculative-config '{\"method\": \"ngram\"")


def test_one_that_may_be_as_fast_is_named_too(tmp_path: Path) -> None:
    lines = verdict(*run(tmp_path / "run", {LOOKUP: 1.5, "suffix_decoding": 1.495}))
    assert "; suffix_decoding may be as fast." in lines[0] or "; prompt_lookup may be as fast." in lines[0]


def test_three_that_may_be_as_fast_are_listed(tmp_path: Path) -> None:
    speeds = {LOOKUP: 1.5, "suffix_decoding": 1.497, "lookahead": 1.496, "jacobi": 1.495}
    assert re.search(r"; \w+, \w+ and \w+ may be as fast\.", verdict(*run(tmp_path / "run", speeds))[0])


def test_what_needs_no_draft_model_is_named_beside_what_does(tmp_path: Path) -> None:
    summary, about = run(tmp_path / "run", {LOOKUP: 1.8, "suffix_decoding": 1.4, "lookahead": 1.395, "jacobi": 0.9})
    drafting = summary.assign(draft_forwards_per_token=summary["strategy"].eq(LOOKUP) * 1.0)
    first, second = verdict(drafting, about)[:2]
    assert first.startswith("math: to keep greedy's answers take prompt_lookup: 1.")
    assert re.match(r"math: without a draft model take lookahead: 1\.39 times as fast \[1\.\d\d, 1\.\d\d\]; "
                    r"suffix_decoding may be as fast\.", second)
    assert not any("without a draft" in line for line in verdict(summary, about)), "nothing here needs one"
    own = about.model_copy(update={
        "strategies": [entry.model_copy(update={"needs": []}) for entry in about.strategies]})
    assert verdict(drafting, own) == verdict(summary, about), "a model that drafts for itself needs no draft model"


def test_other_answers_are_no_way_to_keep_them(tmp_path: Path) -> None:
    lines = verdict(*run(tmp_path / "run", {LOOKUP: 1.5}, ids={LOOKUP: 8}))
    assert lines == []


def test_answers_that_part_at_a_tie_are_counted(tmp_path: Path) -> None:
    summary, about = run(tmp_path / "run", {LOOKUP: 1.5}, ids={LOOKUP: 8})
    ties = summary.assign(parted=summary["strategy"].eq(LOOKUP) * 3, margin=0.0001)
    assert "; 3 answers differ where two tokens tie." in verdict(ties, about)[0]
    assert verdict(ties.assign(margin=0.125), about) == [], "that is no tie"
    rounded = about.model_copy(update={"model": about.model.model_copy(update={"dtype": "bfloat16"})})
    assert verdict(ties.assign(margin=0.125), rounded) == verdict(ties, about), "neighbours in bfloat16 tie"
    assert verdict(ties.assign(margin=0.75), rounded) == []
    assert any(note.endswith("logits are at most 0.125 apart") for note in notes(ties.assign(margin=0.125)))


def test_an_unfinished_run_has_as_many_problems_as_are_done(tmp_path: Path) -> None:
    summary, about = run(tmp_path / "run", {LOOKUP: 1.0})
    assert verdict(summary.assign(samples=9), about)[0].endswith("is proven faster on 9 problems.")


def test_what_is_not_proven_is_not_said(tmp_path: Path) -> None:
    lines = verdict(*run(tmp_path / "run", {LOOKUP: 1.0, "suffix_decoding": 0.9}))
    assert lines == ["math: no method that keeps greedy's answers is proven faster on 24 problems."]


@pytest.mark.parametrize("count", [1, FEW - 1])
def test_few_problems_are_too_few(tmp_path: Path, count: int) -> None:
    (line,) = verdict(*run(tmp_path / "run", {LOOKUP: 3.0}, count=count))
    assert line.startswith(f"math: {count} problem")
    assert "too few" in line


def test_better_and_worse_answers_are_named_with_their_price(tmp_path: Path) -> None:
    some = [int(i % 2) for i in range(24)]
    better, worse = [1] * 24, [0] * 24
    lines = verdict(*run(tmp_path / "run", {"beam:width=4": 0.5, LOOKUP: 1.0},
                         {"greedy": some, "beam:width=4": better}))
    assert any("beam gives better answers, 1.00 instead of 0.50, at 0.5" in line for line in lines)
    assert "beam in transformers: model.generate(**inputs, do_sample=False, num_beams=4, " in lines[-1]
    lines = verdict(*run(tmp_path / "other", {"beam:width=4": 0.5}, {"greedy": some, "beam:width=4": worse}))
    assert lines[-1] == "math: worse answers: beam (0.00)."
    assert "no method's answers are proven better than greedy's (0.50)" in lines[0]


def test_what_holds_for_several_tasks_is_said_once(tmp_path: Path) -> None:
    some, names = [int(i % 2) for i in range(24)], ("math", "code", "story")
    scores = {"greedy": some, "beam:width=4": [0] * 24}
    summary, about = run(tmp_path / "run", {LOOKUP: 1.5, "beam:width=4": 0.5}, scores)
    slow = summary.assign(task="story", speedup=0.9, speedup_p_holm=1.0, quality_p_holm=1.0)
    both = pd.concat([summary, summary.assign(task="code", speedup=1.7), slow], ignore_index=True)
    of_three = about.model_copy(update={"tasks": [task(name, examples=24) for name in names]})
    faster, unproven, better, worse = verdict(both, of_three)[:4]
    assert faster.startswith("math and code: to keep greedy's answers take prompt_lookup: 1.49 times as fast [")
    assert "] and 1.70 [" in faster
    assert unproven == "story: no method that keeps greedy's answers is proven faster on 24 problems."
    assert better.startswith("math, code and story: no method's answers are proven better than greedy's (0.50, 0.50, ")
    assert worse == "math and code: worse answers: beam (0.00, 0.00)."


def test_an_embedded_model_is_not_served(tmp_path: Path) -> None:
    lines = verdict(*run(tmp_path / "run", {LOOKUP: 1.5}, model="nano"))
    assert len(lines) == 1


@pytest.mark.parametrize("spec", ["greedy", "beam:width=3", "beam:width=4,length_penalty=0.5", LOOKUP, "speculative"])
def test_generate_writes_the_same_answers_with_these_arguments(spec: str) -> None:
    target, draft, one = tiny_model("llama"), tiny_model("llama", seed=1), STRATEGIES.build(spec)
    options = generate_options(one)
    assert options
    if DRAFT in options.values():
        options = {name: draft if value == DRAFT else value for name, value in options.items()}
        settings = draft.generation_config
        settings.num_assistant_tokens = options.pop("num_assistant_tokens")
        settings.num_assistant_tokens_schedule = options.pop("num_assistant_tokens_schedule")
        settings.assistant_confidence_threshold = options.pop("assistant_confidence_threshold")
    for prompt in prompts(4):
        ids = torch.tensor([prompt])
        out = target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, pad_token_id=PAD, **options)
        tokens = out[0, len(prompt):].tolist()
        tokens = tokens[:tokens.index(EOS) + 1] if EOS in tokens else tokens
        assert decode(one, engine(target), prompt, draft=engine(draft), new=20) == tokens


@pytest.mark.parametrize("spec", ["top_p:p=0.9,temperature=0.7", "top_k", "min_p", "typical", "epsilon", "eta"])
def test_samplers_have_the_same_distribution_with_these_arguments(spec: str) -> None:
    one, model = STRATEGIES.build(spec), tiny_model("llama")
    options = generate_options(one)
    assert options
    config = GenerationConfig(**options)
    config._eos_token_tensor = config._pad_token_tensor = None
    processors = model._get_logits_processor(config, input_ids_seq_length=3)
    logits = torch.randn(5, 97, generator=torch.Generator().manual_seed(0)) * 3
    theirs = processors(torch.zeros(5, 3, dtype=torch.long), logits.clone()).softmax(-1)
    assert isinstance(one, Sampler)
    ours = drawn_at(one.temperature, one.kept())(logits.clone(), [[1, 2, 3]] * 5).softmax(-1)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=1e-4)


def test_what_generate_cannot_do_has_no_command() -> None:
    for spec in ("lookahead", "beam:length_rule=none", "prompt_lookup:latest=true", "speculative:policy=confidence"):
        assert generate_options(STRATEGIES.build(spec)) is None
    assert as_text({"assistant_model": DRAFT, "early_stopping": "never"}) == \
        "model.generate(**inputs, assistant_model=draft_model, early_stopping='never')"
