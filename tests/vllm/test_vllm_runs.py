"""Real vLLM from the command line on the nano family, held against the reference; and what goes wrong in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.report import render
from harness.measure.summary import combine
from harness.store.folder import Store
from harness.store.schema import Record

pytestmark = pytest.mark.xdist_group("runs")  # one process: its tests share runs of engines that take long to start
EXACT = ("greedy", "prompt_lookup", "speculative", "suffix_decoding", "greedy+repetition_penalty:penalty=1.3",
         "greedy+frequency_penalty:presence=0.5", "greedy+no_repeat_ngram:n=3",
         "greedy+repetition_penalty:prompt=false", "top_nsigma:n=0")
OTHERS = ("top_p:p=0.9", "min_p", "typical", "beam")


def decodebench(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True,
                          env=os.environ | {"COLUMNS": "120"} | environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    folder = tmp_path_factory.mktemp("runs")
    asked = [word for spec in (*EXACT, *OTHERS) for word in ("-s", spec)]
    stores = []
    for backend in ("vllm", "transformers"):
        done = decodebench("run", "--backend", backend, *asked, "-t", "nano_math", "--limit", "2", "--max-new-tokens",
                           "40", "--no-texts", "-o", str(folder / backend))
        assert done.returncode == 0, done.stderr
        stores.append(Store.open(folder / backend))
    return stores[0], stores[1]


def by_key(store: Store) -> dict[tuple[str, ...], Record]:
    return {tuple(map(str, record.key)): record for record in store.records()}


def test_every_strategy_ran_and_none_failed(runs: tuple[Store, Store]) -> None:
    native = by_key(runs[0])
    assert len(native) == (len(EXACT) + len(OTHERS)) * 2
    assert {record.status for record in native.values()} == {"ok"}
    assert not [entry.unsupported for entry in runs[0].manifest.strategies if entry.unsupported]


def test_what_draws_nothing_writes_the_tokens_of_the_reference(runs: tuple[Store, Store]) -> None:
    native, reference = map(by_key, runs)
    exact = [key for key in native if not key[2].startswith(("top_p", "min_p", "typical", "beam"))]
    assert len(exact) == len(EXACT) * 2
    for key in exact:
        mine, theirs = native[key].turns[0], reference[key].turns[0]
        assert (mine.tokens, mine.text, mine.stop) == (theirs.tokens, theirs.text, theirs.stop), key
        assert (mine.prompt, mine.prompt_tokens) == (theirs.prompt, theirs.prompt_tokens)


def test_steps_tell_what_was_drafted_and_accepted(runs: tuple[Store, Store]) -> None:
    for key, record in by_key(runs[0]).items():
        for turn in record.turns:
            steps = turn.steps
            assert sum(steps.tokens) == len(turn.tokens)
            assert all(seconds > 0 for seconds in steps.seconds)
            if key[2].startswith("beam"):
                continue
            assert all(0 <= kept <= drafted for kept, drafted in zip(steps.accepted, steps.drafted, strict=True))
            assert all(count <= kept + 1 for count, kept in zip(steps.tokens, steps.accepted, strict=True))
            drafts = key[2].startswith(("speculative", "prompt_lookup", "suffix"))
            assert drafts or not sum(steps.drafted)
    speculative = [r for key, r in by_key(runs[0]).items() if key[2].startswith("speculative")]
    assert all(sum(r.turns[0].steps.accepted) > 0 for r in speculative)


def test_one_report_holds_both(runs: tuple[Store, Store], tmp_path: Path) -> None:
    rows = combine(runs)
    assert set(rows["run"]) == {"vllm", "transformers"}
    page = render([store.folder for store in runs], tmp_path / "report").read_text()
    assert "decoded by vllm" in page


def test_beams_are_those_of_the_reference_or_likelier(runs: tuple[Store, Store]) -> None:
    beams = [[r.turns[0] for key, r in by_key(store).items() if key[2].startswith("beam")] for store in runs]
    assert [turn.prompt for turn in beams[0]] == [turn.prompt for turn in beams[1]]
    assert [turn.tokens for turn in beams[0]] == [turn.tokens for turn in beams[1]]


@pytest.mark.parametrize(("words", "sentence"), [
    (("--engine", "kv_cache_memory_bytes=4096"), "it does not fit into memory"),
    (("--engine", 'speculative_config={"method": "eagel", "model": "x", "num_speculative_tokens": 2}'),
     "has no speculative method 'eagel'"),
    (("--engine", "no_such_option=1"), "no_such_option")])
def test_what_cannot_start_is_one_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    done = decodebench("run", "--backend", "vllm", "-s", "greedy", "-t", "nano_math", "--limit", "1", *words, "-o",
                       str(tmp_path / "run"))
    shown = done.stdout + done.stderr + (
        (tmp_path / "run" / "manifest.json").read_text() if (tmp_path / "run").exists() else "")
    assert sentence in shown
    assert "Traceback" not in done.stdout + done.stderr
