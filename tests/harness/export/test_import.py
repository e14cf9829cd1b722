"""Results of other tools as runs: what is known is exact, what is unknown is empty, and bad files are refused."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.export import export, import_run
from harness.measure.summary import samples, summarise
from harness.report import page
from harness.store.folder import Store
from harness.store.schema import Turn
from tests.program import call
from tests.runs import manifest, realistic, record, strategy, task, turn, write

UNKNOWN = ["forwards_per_token", "positions_per_token", "draft_forwards_per_token", "accept_rate", "same_as_baseline",
           "truncated"]


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def brought(folder: Path, format: str, *files: object) -> Store:
    return import_run([str(file) for file in files], format, folder / "run", "decodebench import")


def cell(store: Store, task: str, strategy: str) -> Any:
    return summarise(store).set_index(["task", "strategy"]).loc[(task, strategy)]


def turns(store: Store) -> list[Turn]:
    return [turn for one in store.records() for turn in one.turns]


def answer(number: int, lengths: list[int], steps: list[int], tokens: list[int], seconds: list[float],
           category: str = "writing") -> dict[str, Any]:
    """A row as Spec-Bench writes it."""
    choice = {"index": 0, "turns": ["text"] * len(tokens), "decoding_steps": steps, "new_tokens": tokens,
              "wall_time": seconds, "accept_lengths": lengths}
    return {"question_id": number, "category": category, "answer_id": "x", "model_id": "vicuna-7b-v1.3-eagle",
            "choices": [choice], "tstamp": 1.5}


@pytest.mark.parametrize(("steps", "kept"), [
    ([2, 3], [[1, 3, 2], [0, 1, 2, 4]]),
    ([1, 2], [[1, 3, 2], [0, 1, 2, 4]]),  # as EAGLE counts: the index of the last step
    ([9, 9], [[0, 3, 2, 1], [1, 2, 4]]),  # as nobody counts: the steps are dealt out by the tokens
])
def test_spec_bench_answers(tmp_path: Path, steps: list[int], kept: list[list[int]]) -> None:
    base = lines(tmp_path / "base.jsonl", answer(81, [1] * 12, [5, 7], [5, 7], [0.5, 0.7]),
                 answer(161, [1] * 4, [4], [4], [1.0], "translation"))
    eagle = lines(tmp_path / "eagle.jsonl", answer(81, [3, 2, 1, 2, 4], steps, [6, 7], [0.2, 0.3]),
                  answer(161, [2, 2], [2], [4], [1.0], "translation"))
    store = brought(tmp_path, "spec-bench", f"vanilla={base}", eagle)
    assert store.manifest.baseline == "vanilla"
    assert [turn.steps.tokens for turn in turns(store)[3:5]] == kept
    row = cell(store, "spec_bench", "vicuna-7b-v1.3-eagle")
    if steps != [9, 9]:
        assert row["tau_pooled"] == (3 + 2 + 1 + 2 + 4 + 2 + 2) / 7  # what speed.py calls mean accepted tokens
    assert row["tokens_per_second"] == pytest.approx(17 / 1.5)
    assert row["speedup"] == pytest.approx(math.sqrt((13 / 0.5) / (12 / 1.2)))
    assert row[[*UNKNOWN, "ttft_median", "decode_tokens_per_second", "quality"]].isna().all()
    assert {one.category for one in store.records()} == {"writing", "translation"}


def test_times_of_turns_that_are_unknown_are_shared_by_their_tokens(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", answer(81, [1] * 4, [3, 1], [3, 1], [0.5, 0.1]))
    store = brought(tmp_path, "spec-bench", path)
    row = json.loads(export(store, "spec-bench", tmp_path / "out").files[0].read_text())
    assert row["choices"][0]["wall_time"] == pytest.approx([0.4, 0.2])  # with one for the prompt: 4 to 2


def test_spec_bench_oddities(tmp_path: Path) -> None:
    old = answer(81, [], [3], [8], [0.5])
    old["choices"][0]["idxs"] = old["choices"][0].pop("decoding_steps")
    del old["choices"][0]["accept_lengths"]
    failed = answer(82, [1, 1], [1, 1], [1, 1], [0.1, 0.1])
    failed["choices"][0]["turns"][1] = "ERROR"
    over = answer(83, [3, 3], [2], [5], [0.1])
    store = brought(tmp_path, "spec-bench", lines(tmp_path / "a.jsonl", old, failed, over))
    first, second, third = store.records()
    assert first.turns[0].steps.tokens == [8]  # one step of unknown length: no tau
    assert (second.status, second.turns) == ("failed", [])
    assert third.turns[0].steps.tokens == [0, 3, 2]  # the answer ended inside the last step


def test_files_of_one_strategy_are_its_repeats(tmp_path: Path) -> None:
    files = [lines(tmp_path / str(run) / "a.jsonl", answer(81, [1], [1], [1], [0.1 * run])) for run in (1, 2, 3)]
    store = brought(tmp_path, "spec-bench", *files)
    assert [(one.repeat, one.seconds) for one in store.records()] == [(0, 0.1), (1, 0.2), (2, pytest.approx(0.3))]
    assert len(store.manifest.strategies) == 1


def test_our_own_spec_bench_files_come_back(tmp_path: Path) -> None:
    store = realistic(tmp_path / "ours")
    back = brought(tmp_path, "spec-bench", *export(store, "spec-bench", tmp_path / "out").files)
    mine, theirs = (summarise(one).set_index(["task", "strategy"]) for one in (store, back))
    same = ["samples", "tokens_per_second", "speedup", "speedup_low", "speedup_high", "tokens_mean", "tau_pooled"]
    pd.testing.assert_frame_equal(theirs[same], mine.loc[theirs.index, same], check_dtype=False, rtol=1e-12)
    assert len(theirs) == len(mine) - 4  # medusa was not run
    assert theirs[UNKNOWN].isna().all(axis=None)


def test_our_own_lm_eval_files_come_back(tmp_path: Path) -> None:
    store = realistic(tmp_path / "ours")
    back = brought(tmp_path, "lm-eval", *export(store, "lm-eval", tmp_path / "out").files)
    assert back.manifest.model.name == "nano"
    mine, theirs = (summarise(one).set_index(["task", "strategy"]) for one in (store, back))
    same = ["samples", "quality", "quality_low", "quality_high", "truncated"]
    pd.testing.assert_frame_equal(theirs[same], mine.loc[theirs.index, same], check_dtype=False)
    unknown = [*UNKNOWN[:-1], "tokens_mean", "tokens_per_second", "speedup", "ttft_median", "tau_pooled"]
    assert theirs[unknown].isna().all(axis=None)
    texts = {(one.key[:3]): [turn.text for turn in one.turns] for one in store.records() if one.status == "ok"}
    assert texts == {one.key[:3]: [turn.text for turn in one.turns] for one in back.records()}


def sample(number: int, filter: str, score: object, texts: list[str], arg: object = None) -> dict[str, Any]:
    """What lm-eval's evaluator hands to its writer."""
    return {"doc_id": number, "doc": {"question": "q"}, "target": 18, "filter": filter, "metrics": ["exact_match"],
            "arguments": [(f"Q: {number}\nA:", {"until": ["Q:"], "max_gen_toks": 256} if arg is None else arg)],
            "resps": [texts], "filtered_resps": texts[:1], "exact_match": score, "doc_hash": str(number),
            "prompt_hash": f"p{number}", "target_hash": "t"}


def logged(folder: Path, *rows: dict[str, Any]) -> Path:
    """The file that lm-eval itself writes of these samples."""
    tracker = pytest.importorskip("lm_eval.loggers.evaluation_tracker").EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "me__model"
    tracker.date_id = "2026-01-02T03-04-05.678901"
    tracker.save_results_samples("gsm8k", list(rows))
    return next(folder.rglob("samples_*.jsonl"))


def test_lm_eval_logs_by_its_own_writer(tmp_path: Path) -> None:
    path = logged(tmp_path, *(sample(n, filter, float(n == 1 or filter == "flexible-extract"), [f"a {n}"])
                              for filter in ("strict-match", "flexible-extract") for n in (0, 1)))
    store = brought(tmp_path, "lm-eval", f"beam:width=4={path}")
    entry, = store.manifest.tasks
    assert (entry.spec, entry.headline, entry.examples, entry.max_new_tokens) == ("gsm8k", "exact_match,strict-match",
                                                                                  2, 256)
    assert store.manifest.model.name == "me__model"
    assert [one.scores for one in store.records()] == [
        {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0},
        {"exact_match,strict-match": 1.0, "exact_match,flexible-extract": 1.0}]
    assert [(turn.prompt, turn.text, turn.stop) for turn in turns(store)] == [("Q: 0\nA:", "a 0", "unknown"),
                                                                             ("Q: 1\nA:", "a 1", "unknown")]
    row = cell(store, "gsm8k", "beam:width=4")
    assert row["quality"] == 0.5
    assert row[["tokens_mean", "tokens_per_second", "truncated", "ttft_median"]].isna().all()


def test_lm_eval_settings_make_the_strategy(tmp_path: Path) -> None:
    paths = [logged(tmp_path / name, sample(0, "none", 1, ["x"], {"do_sample": heat > 0, "temperature": heat,
                                                                 "max_gen_toks": 9, "until": ["Q"]}))
             for name, heat in (("a", 0.0), ("b", 0.7), ("c", 0.7))]
    store = brought(tmp_path, "lm-eval", *paths)
    assert [(one.strategy, one.repeat) for one in store.records()] == [
        ("lm-eval:do_sample=False,temperature=0.0", 0), ("lm-eval:do_sample=True,temperature=0.7", 0),
        ("lm-eval:do_sample=True,temperature=0.7", 1)]
    other = paths[0].parent.parent / "another" / paths[0].name
    other.parent.mkdir()
    other.write_bytes(paths[0].read_bytes())
    done = call("import", paths[0], other, "--format", "lm-eval", "-o", tmp_path / "two")
    assert done.exit_code == 2
    assert "ran on another here, but on me__model in earlier files" in done.stderr


def test_lm_eval_oddities(tmp_path: Path) -> None:
    store = brought(tmp_path, "lm-eval", logged(tmp_path / "a", sample(0, "none", 1, ["x", "y"]),
                                                sample(1, "none", [1, 2], ["x", "y"])))
    assert [(one.sample, one.scores) for one in store.records()] == [(0, {"exact_match": 1.0}), (1, {}), (0, {}),
                                                                     (1, {})]
    assert sum("is not a number" in warning for warning in store.manifest.warnings) == 1
    chosen = call("import", logged(tmp_path / "b", sample(0, "none", 1, ["-3.2"], " Paris")), "--format", "lm-eval",
                  "-o", tmp_path / "c")
    assert chosen.exit_code == 2
    assert "line 1: the task compares likelihoods" in chosen.stderr


def benchmark(**more: Any) -> dict[str, Any]:
    """A result of `vllm bench serve --save-result --save-detailed`, cut to what matters."""
    return {"date": "20260801-120000", "backend": "openai", "model_id": "me/model", "max_concurrency": 1,
            "request_throughput": 1.0, "duration": 4.0, "input_lens": [7, 9, 5], "output_lens": [4, 6, 0],
            "ttfts": [0.1, 0.2, 0.0], "itls": [[0.01, 0.02, 0.03], [0.1, 0.1], []], "start_times": [5.0, 6.0, 7.5],
            "generated_texts": ["a", "b", ""], "errors": ["", "", "Traceback\nServerDisconnected"]} | more


def test_vllm_benchmarks(tmp_path: Path) -> None:
    path = lines(tmp_path / "ngram.json", benchmark(), benchmark(ttfts=[0.2, 0.2, 0.0]))
    store = brought(tmp_path, "vllm", path)
    first, second, failed, *again = store.records()
    assert [one.repeat for one in again] == [1, 1, 1]
    assert (first.turns[0].steps.tokens, first.turns[0].steps.seconds) == ([1] * 4, [0.1, 0.01, 0.02, 0.03])
    assert second.turns[0].steps.tokens == [1, 2, 3]  # five tokens in two chunks
    assert (failed.status, failed.error, failed.started) == ("failed", "Traceback\nServerDisconnected", 2.5)
    row = cell(store, "requests", "ngram")
    assert row["ttft_median"] == pytest.approx(0.2)
    assert row["decode_tokens_per_second"] == pytest.approx((3 + 5) / (0.06 + 0.2))
    assert row["tokens_per_second"] == pytest.approx(20 / (0.16 + 0.4 + 0.26 + 0.4))
    assert row[UNKNOWN].isna().all()
    assert sum("spread evenly" in warning for warning in store.manifest.warnings) == 1


def test_requests_that_ran_together_share_the_time(tmp_path: Path) -> None:
    store = brought(tmp_path, "vllm", lines(tmp_path / "a.json", benchmark(max_concurrency=None)))
    assert store.manifest.config["concurrency"] == 3
    assert [one.seconds for one in store.records()][:2] == [4 / 3, 4 / 3]
    assert cell(store, "requests", "a")["ttft_median"] == pytest.approx(0.15)


def response(drafts: dict[str, Any] | None, tokens: int, **more: Any) -> dict[str, Any]:
    """A response of vLLM's server with its metrics."""
    return {"model": "me/model", "choices": [{"index": 0, "text": "ok", "finish_reason": "stop", "stop_reason": None}],
            "usage": {"prompt_tokens": 12, "completion_tokens": tokens},
            "metrics": {"time_to_first_token_ms": 50.0, "generation_time_ms": 300.0,
                        "speculative_decoding": drafts}} | more


def test_vllm_responses(tmp_path: Path) -> None:
    summary = {"acceptance_histogram": [1, 0, 2, 0], "num_draft_tokens": 9, "num_spec_steps": 3}
    detailed = summary | {"per_step_accepted": [2, 0, 2], "per_step_drafted": [3, 3, 3]}
    chat = {"choices": [{"message": {"content": "hi"}, "finish_reason": "length", "token_ids": [4, 5]}]}
    store = brought(tmp_path, "vllm", lines(
        tmp_path / "spec.jsonl", response(detailed, 9), response(detailed, 7), response(summary, 8),
        {"custom_id": "q4", "response": {"status_code": 200, "body": response(None, 2) | chat}, "error": None},
        {"custom_id": "q5", "response": None, "error": {"message": "busy"}}))
    found = turns(store)
    assert [turn.steps.tokens for turn in found] == [[1, 3, 1, 3, 1], [1, 3, 1, 2], [1, 1, 3, 3], [1, 1]]
    assert (found[0].steps.accepted, found[0].steps.drafted) == ([0, 2, 0, 2, 0], [0, 3, 3, 3, 0])
    assert found[0].steps.seconds == [0.05, *[0.3 / 4] * 4]
    assert [turn.stop for turn in found] == ["eos", "eos", "eos", "length"]
    assert (found[3].text, found[3].tokens) == ("hi", [4, 5])
    assert [(one.example, one.status) for one in store.records()][3:] == [("q4", "ok"), ("q5", "failed")]
    assert found[2].steps.accepted == [0, 0, 2, 2]
    row = cell(store, "requests", "spec")
    assert row["tau_pooled"] == (8 + 6 + 7 + 1) / (4 + 3 + 3 + 1)
    assert row["ttft_median"] == pytest.approx(0.05)


def test_sglang_benchmarks(tmp_path: Path) -> None:
    gaps = [[0.1, 0.1, 0.1, 0.4, 0.2, 0.2], [0.1], []]
    run = benchmark(backend="sglang", itls=gaps, output_lens=[7, 2, 0])
    store = brought(tmp_path, "sglang", lines(tmp_path / "eagle.jsonl", run))
    first = next(store.records()).turns[0].steps
    assert first.tokens == [1, 3, 1, 2]  # tokens that came together have equal shares of their gap
    assert first.seconds == pytest.approx([0.1, 0.3, 0.4, 0.4])
    assert not any("spread" in warning for warning in store.manifest.warnings)


def info(tokens: int, **more: Any) -> dict[str, Any]:
    return {"text": "ok", "output_ids": [1, 2], "meta_info": {
        "id": "x", "prompt_tokens": 11, "completion_tokens": tokens, "finish_reason": {"type": "stop", "matched": 2},
        "e2e_latency": 0.5} | more}


def test_sglang_responses(tmp_path: Path) -> None:
    # The first one's counts are those that a maintainer printed for 106 tokens of DeepSeek with DSpark (PR 33518).
    published = {"spec_verify_ct": 43, "spec_num_correct_drafts": 63, "spec_num_proposed_drafts": 215,
                 "spec_correct_drafts_histogram": [11, 14, 11, 4, 0, 3]}
    older = {"spec_verify_ct": 188, "spec_accept_token_num": 11, "spec_draft_token_num": 940}
    store = brought(tmp_path, "sglang", lines(
        tmp_path / "eagle.jsonl", info(106, **published),
        info(200, finish_reason={"type": "length", "length": 200}, **older),
        info(3, finish_reason={"type": "stop", "matched": "\n"}), info(0, finish_reason={"type": "abort"})))
    first, second, third = turns(store)
    assert (len(first.steps.tokens), sum(first.steps.tokens), sum(first.steps.accepted)) == (44, 106, 63)
    assert sum(first.steps.drafted) == 215
    assert (len(second.steps.tokens), sum(second.steps.tokens), sum(second.steps.accepted)) == (189, 200, 11)
    assert third.steps.tokens == [1, 1, 1]
    assert [turn.stop for turn in (first, second, third)] == ["eos", "length", "stop"]
    row = cell(store, "requests", "eagle")
    assert (row["samples"], row["failed"]) == (3, 1)
    assert row["tokens_per_second"] == pytest.approx(309 / 1.5)
    assert row[["ttft_median", "decode_tokens_per_second"]].isna().all()


def test_an_imported_run_is_reported(tmp_path: Path) -> None:
    base = lines(tmp_path / "base.jsonl", answer(81, [1] * 5, [5], [5], [0.5]))
    fast = lines(tmp_path / "fast.jsonl", answer(81, [3, 2], [2], [5], [0.25]))
    done = call("import", f"base={base}", f"fast={fast}", "--format", "spec-bench", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"Run: {tmp_path / 'run'}\n"
    assert "Note: Spec-Bench's answers have no prompts" in done.stderr
    shown = call("report", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    assert "2.00" in shown.stdout
    assert "unknown (unknown)" in shown.stdout
    text = page.render([Store.open(tmp_path / "run")])
    assert "decodebench run" not in text
    assert not (tmp_path / "run.part").exists()


BAD = [
    ("spec-bench", "{", "line 1: this is not JSON"),
    ("spec-bench", "[1]", "line 1: this is not a JSON object."),
    ("spec-bench", "", "has no rows."),
    ("spec-bench", '{"question_id": 1, "choices": []}', "line 1: the field 'choices'"),
    ("spec-bench", json.dumps(answer(1, [1], [1], [1], [0.1])) + "\n\n" + json.dumps(answer(1, [1], [1], [1], [0.1])),
     "line 3: the question 1 already has an answer"),
    ("spec-bench", json.dumps(answer(1, [1], [1], [1], [0.1, 0.2])), "line 1, choice 0: 'wall_time' has 2 entries"),
    ("spec-bench", json.dumps(answer(1, [1], [1], [1], [0.1])).replace("0.1", '"x"'), "wall_time.0"),
    ("spec-bench", json.dumps(answer(1, [1], [1], [-1], [0.1])), "line 1: the field 'choices.0.new_tokens.0'"),
    ("spec-bench", json.dumps(answer(1, [1], [1], [1], [math.nan])), "wall_time.0"),
    ("spec-bench", json.dumps(answer(1, [1], [1], [1], [0.1])).replace("text", "\\ud800"), "an unpaired surrogate"),
    ("lm-eval", '{"doc_id": 1, "resps": [["x"]]}', "line 1: the field 'arguments'"),
    ("lm-eval", '{"doc_id": 1, "resps": [["x"]], "arguments": {"a": {"arg_0": "p", "arg_1": {}}}}\n' * 2,
     "line 2: the problem 1 occurs twice"),
    ("vllm", '{"request_throughput": 3.0}', "run the benchmark with --save-detailed"),
    ("sglang", '{"request_throughput": 3.0}', "run the benchmark with --output-details"),
    ("vllm", '{"a": 1}', "line 1: this is neither"),
    ("sglang", '{"a": 1}', "line 1: this is neither"),
    ("vllm", json.dumps(benchmark(ttfts=[0.1])), "'ttfts' has 1 entries and 'input_lens' 3"),
    ("vllm", json.dumps(response(None, 2) | {"choices": [{"text": "a"}, {"text": "b"}]}), "the field 'choices'"),
    ("vllm", json.dumps(response({"acceptance_histogram": [1], "num_draft_tokens": 3, "per_step_accepted": [1],
                                  "per_step_drafted": []}, 2)), "'per_step_drafted' has 0 entries"),
    ("sglang", json.dumps({"text": "x", "meta_info": {"prompt_tokens": 1}}), "meta_info.completion_tokens"),
]


@pytest.mark.parametrize(("format", "text", "problem"), BAD)
def test_bad_files_are_refused_with_their_line(format: str, text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    done = call("import", path, "--format", format, "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {path}")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_input_to_import(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", answer(1, [1], [1], [1], [0.1]))
    other = lines(tmp_path / "b.jsonl", answer(1, [1], [1], [1], [0.1], "qa"))
    for arguments, problem in [
        ((path, "--format", "specbench", "-o", tmp_path / "run"), "Did you mean 'spec-bench'?"),
        ((path, "--format", "spec-bench", "-o", tmp_path), "is not empty; choose another folder with -o."),
        ((tmp_path / "none", "--format", "spec-bench", "-o", tmp_path / "run"), "There is no file"),
        ((path, other, "--format", "spec-bench", "-o", tmp_path / "run"), "b.jsonl: the example spec_bench/1"),
        ((path, "--format", "spec-bench"), "--output"),
    ]:
        done = call("import", *arguments)
        assert done.exit_code == 2
        assert problem in done.stderr
        assert not (tmp_path / "run").exists()


def test_names_may_be_specs_or_anything(tmp_path: Path) -> None:
    path = lines(tmp_path / "k=4.jsonl", answer(1, [1], [1], [1], [0.1]))
    store = brought(tmp_path, "spec-bench", f"a:k=4={path}", f"my method, v2: odd={path}", path)
    assert [entry.spec for entry in store.manifest.strategies] == ["a:k=4", "my-method-v2-odd", "vicuna-7b-v1.3-eagle"]
    assert samples(store)["strategy"].nunique() == 3


def test_a_run_may_be_made_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "a.jsonl", answer(1, [1], [1], [1], [0.1]))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = call("import", path, "--format", "spec-bench", "-o", ".")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "here" / "manifest.json").exists()


def test_an_unfinished_import_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "run.part").mkdir()
    (tmp_path / "run.part" / "manifest.json").write_text("{")
    store = brought(tmp_path, "spec-bench", lines(tmp_path / "a.jsonl", answer(1, [1], [1], [1], [0.1])))
    assert len(list(store.records())) == 1


def test_an_ordinary_run_knows_its_zeros(tmp_path: Path) -> None:
    """Only what is missing is unknown: an empty answer has no tokens, and greedy drafted nothing."""
    store = write(tmp_path / "run", manifest([strategy("greedy")], [task("math")]),
                  [record("math", "a", "greedy", [turn([0], [0.1], ids=[], text="")], 0)])
    row = samples(store).iloc[0]
    assert (row["tokens"], row["forwards"], row["drafted"], row["truncated"]) == (0, 1, 0, False)
    assert cell(store, "math", "greedy")["same_as_baseline"] == 1
