"""A real server of vLLM on the nano family: against the reference, killed in mid-run, resumed, and one that drafts."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import nano
from harness.store.folder import Store
from harness.store.schema import Record

pytestmark = pytest.mark.xdist_group("served")  # one process: its tests share runs of engines that take long to start
ASKED = ("greedy", "temperature:temperature=0.7", "top_p:p=0.9", "greedy+repetition_penalty:penalty=1.3",
         "beam:width=3,length_rule=none", "typical", "prompt_lookup")
QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
         "NUMBA_NUM_THREADS": "1"}
NGRAM = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}'
START = 600  # seconds


@contextmanager
def server(folder: Path, *options: str) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", str(nano.weights("nano")), "--served-model-name", "served", "--host", "127.0.0.1", "--port",
             str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8",
             "--gpu-memory-utilization", "0.1", "--kv-cache-memory-bytes", str(256 << 20), *options]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words], stdout=log,
                                   stderr=log, env=os.environ | QUIET, start_new_session=True)
    try:
        for _ in range(START):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill the server and its engine, which are a process group of their own."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()


def command(url: str, output: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "harness.cli", "run", "--backend", "openai", "--base-url", url, "-m", "nano", "-t",
            "nano_math", "--max-new-tokens", "40", "--no-texts", "--engine", "tries=2", "-o", str(output), *words]


def decodebench(words: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})


def by_key(store: Store) -> Mapping[tuple[str, str, str], Record]:
    return {(record.task, record.example, record.strategy): record for record in store.records()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str, str], Record]:
    folder = tmp_path_factory.mktemp("reference") / "run"
    done = decodebench([sys.executable, "-m", "harness.cli", "run", "-m", "nano", "-t", "nano_math", "--limit", "4",
                        "--max-new-tokens", "40", "--no-texts", "-o", str(folder), "-s", ASKED[3]])
    assert done.returncode == 0, done.stderr
    return by_key(Store.open(folder))


def test_a_run_is_killed_with_its_server_and_goes_on_with_the_next(reference: Mapping[tuple[str, str, str], Record],
                                                                  tmp_path: Path) -> None:
    output, asked = tmp_path / "run", [word for spec in ASKED for word in ("-s", spec)]
    with server(tmp_path) as (url, process):
        run = subprocess.Popen(command(url, output, *asked, "--limit", "4"), stderr=subprocess.PIPE, text=True)
        lines = output / "records" / "0000.jsonl"
        while run.poll() is None and (not lines.exists() or lines.read_bytes().count(b"\n") < 5):
            time.sleep(0.05)
        stop(process)
        said = run.communicate()[1]
        assert run.returncode == 2, said
        assert "start it again: the same command resumes." in " ".join(said.split())
        assert "Traceback" not in said
        kept = lines.read_bytes().count(b"\n")
        assert 5 <= kept < 20
    with server(tmp_path) as (again, _):  # at another address
        done = decodebench(command(again, output, *asked, "--limit", "4"))
        assert done.returncode == 0, done.stderr
    store = Store.open(output)
    native = by_key(store)
    assert len(list(store.records())) == len(native) == 20
    assert {record.status for record in native.values()} == {"ok"}
    refused = {entry.name: str(entry.unsupported) for entry in store.manifest.strategies if entry.unsupported}
    assert sorted(refused) == ["prompt_lookup", "typical"]
    for key, record in native.items():
        turn = record.turns[0]
        assert sum(turn.steps.tokens) == len(turn.tokens)
        assert all(seconds >= 0 for seconds in turn.steps.seconds)
        if key in reference:  # what draws nothing writes the reference's tokens in fp32
            assert (turn.tokens, turn.text, turn.stop) == (reference[key].turns[0].tokens, reference[key].turns[0].text,
                                                           reference[key].turns[0].stop)
    assert sum(key in reference for key in native) == 8


def test_a_server_that_drafts_tells_its_counters_and_writes_the_same(reference: Mapping[tuple[str, str, str], Record],
                                                                    tmp_path: Path) -> None:
    output = tmp_path / "run"
    with server(tmp_path, "--speculative-config", NGRAM, "--per-request-spec-decode-metrics", "detailed") as (url, _):
        done = decodebench(command(url, output, "-s", "greedy", "-s", "min_p", "--limit", "4", "--concurrency", "2"))
    assert done.returncode == 0, done.stderr
    store = Store.open(output)
    records = list(store.records())
    assert [record.strategy for record in records] == ["greedy"] * 4
    for record in records:
        steps = record.turns[0].steps
        assert record.turns[0].tokens == reference["nano_math", record.example, "greedy"].turns[0].tokens
        assert sum(steps.tokens) == len(record.turns[0].tokens)
    drafted = sum(sum(record.turns[0].steps.drafted) for record in records)
    accepted = sum(sum(record.turns[0].steps.accepted) for record in records)
    assert drafted > 0
    assert sum(record.counted["drafted"] for record in records) == pytest.approx(drafted)
    assert sum(record.counted["accepted"] for record in records) == pytest.approx(accepted)
    assert sum(record.counted["written"] for record in records) == sum(len(r.turns[0].tokens) for r in records)
    assert "by its own counters" in " ".join((done.stdout + done.stderr).split())
