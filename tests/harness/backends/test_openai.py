"""Runs against a server: records, settings of a request, misbehaviour, resume, arrivals, and what a person is told."""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import Result

from harness.backends import openai
from harness.backends.openai import arrivals
from harness.backends.openai_connection import Connection
from harness.errors import UserError
from harness.measure.raw import read
from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES, TASKS
from harness.report.tables import notes
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.completions import Server, serving
from tests.harness.run.test_runner import TASK
from tests.models import EOS
from tests.pair import saved
from tests.program import call
from tests.watch import Quiet

KEY = "sk-very-secret-0123456789"
PROBES = 2  # requests that find out how a server answers


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for another try."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    start = Connection.__init__

    def made(self: Connection, *given: Any, **more: Any) -> None:
        start(self, *given, **more)
        self.pause = lambda seconds: None
    monkeypatch.setattr(Connection, "__init__", made)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    (tmp_path / "words.py").write_text(TASK)
    yield RunConfig(model="toy", tokenizer=str(saved("llama")), tasks=("words",), threads=1, backend="openai",
                    plugins=(tmp_path / "words.py",), device="cpu", output=tmp_path / "run", strategies=("greedy",))
    STRATEGIES._files.clear()
    TASKS._files.clear()


def go(config: RunConfig, server: Server, **more: Any) -> list[Record]:
    outcome = run(replace(config, base_url=server.url, **more), Quiet(), "decodebench run")
    return list(Store.open(outcome.folder).records())


def asked(server: Server) -> list[dict[str, Any]]:
    """The requests for answers, without probes and warm-up."""
    return [body for body in server.bodies if body["max_tokens"] == 12]


def test_a_run_stores_what_came_back(config: RunConfig) -> None:
    with serving() as server:
        records = go(config, server)
    assert [record.status for record in records] == ["ok"] * 3
    turn = records[0].turns[0]
    assert (turn.prompt, turn.prompt_tokens, turn.stop) == ("one two", 7, "length")
    last = asked(server)[0]["prompt"][-1]
    assert turn.tokens == [5 + (last + i) % 40 for i in range(12)]
    assert turn.steps.tokens == [1, 2, 1, 2, 1, 2, 1, 2]
    assert [second >= 0 for second in turn.steps.seconds] == [True] * 8
    assert records[0].seconds == pytest.approx(sum(turn.steps.seconds))
    assert [record.scores for record in records] == [{"length": 12.0}] * 3
    facts = Store.open(config.output or Path()).manifest.environment["backend"]
    assert facts | {"address": ""} == {
        "name": "openai", "address": "", "prompts": "token ids", "answers": "token ids", "server": {
            "kind": "vLLM", "version": "0.32.0", "model": "toy", "max_len": 128, "counts": False, "speculates": False}}


def test_answers_end_where_the_reference_ends_them(config: RunConfig) -> None:
    """The task's stop string is zz, token 0x7a + 3 - 33 + … of the tokenizer; tokens after it and after EOS are cut."""
    z = next(token for token in range(3, 259) if saved_text([token]) == "z")
    said = {7: [[8], [9, EOS, 10], [11]], 5: [[8, z], [z, 9], [10]], 13: [[8], [9]]}
    with serving(say=lambda body: said[len(body["prompt"])] if body["max_tokens"] == 12 else [[8]]) as server:
        ended, stopped, short = (record.turns[0] for record in go(config, server))
    assert (ended.tokens, ended.stop, ended.steps.tokens) == ([8, 9, EOS], "eos", [1, 2])
    assert (stopped.tokens, stopped.stop, stopped.steps.tokens) == ([8, z, z], "stop", [2, 1])
    assert stopped.raw == f"{stopped.text}zz"
    assert (short.tokens, short.stop) == ([8, 9], "eos")  # the server says that it was its end


def saved_text(tokens: list[int]) -> str:
    from tests.pair import tokenizer

    return str(tokenizer().decode(tokens))


def test_without_token_ids_text_and_usage_are_what_is_known(config: RunConfig) -> None:
    with serving(ids=False, owner="somebody") as server:
        records = go(config, server)
    store = Store.open(config.output or Path())
    assert any("tells no token ids" in warning for warning in store.manifest.warnings)
    turn = records[0].turns[0]
    assert (turn.tokens, sum(turn.steps.tokens), len(turn.steps.tokens)) == ([], 12, 8)
    assert turn.steps.tokens[0] == 1
    assert len(turn.text) == 12
    assert read(store).samples["tokens"].tolist() == [12.0] * 3
    assert read(store).samples["ids"].isna().all()  # nobody may compare tokens that are not known


def test_a_plain_server_is_asked_what_it_knows_and_in_text(config: RunConfig) -> None:
    plain = frozenset({"model", "prompt", "max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty",
                       "seed", "stop", "stream", "stream_options"})
    with serving(ids=False, owner="me", fields=plain, reads_ids=False, model={"id": "toy"}) as server:
        records = go(config, server, strategies=("top_p:p=0.5", "top_k:k=3", "beam"))
        assert {body["prompt"] for body in asked(server)} == {"one two", "three", "four five six"}
        assert {body["top_p"] for body in asked(server)} == {0.5, 1.0}
    assert [record.status for record in records] == ["ok"] * 6
    manifest = Store.open(config.output or Path()).manifest
    assert [entry.unsupported for entry in manifest.strategies] == [
        None, None, "a request to an OpenAI-compatible server has no top_k",
        "an OpenAI-compatible server has no beam search"]
    assert manifest.environment["backend"]["prompts"] == "text"


def test_a_server_with_another_tokenizer_is_noticed(config: RunConfig) -> None:
    other = saved("llama", 3)

    class Halves:
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [0] * (len(text) // 2)}

        def decode(self, ids: list[int]) -> str:
            return "x" * len(ids)
    with serving(tokenizer=Halves()) as server:
        go(config, server, tokenizer=str(other))
    _, warning = Store.open(config.output or Path()).manifest.warnings
    assert warning.startswith("The server makes 42 tokens of a text of which the tokenizer of")
    assert "makes 84: if they are not the same, name the right one with --tokenizer." in warning


def test_seeds_are_of_the_sample_and_the_same_again(config: RunConfig, tmp_path: Path) -> None:
    seeds = list[list[int]]()
    for place, seed in enumerate((0, 0, 1)):
        with serving() as server:
            go(config, server, strategies=("temperature",), samples=3, seed=seed, output=tmp_path / str(place))
            seeds.append(sorted(body["seed"] for body in asked(server) if body["temperature"]))
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == 9
    assert 0 <= min(seeds[0]) <= max(seeds[0]) < 2**31


@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_are_under_way_at_the_same_time(config: RunConfig, concurrency: int) -> None:
    with serving(late=0.02) as server:
        records = go(config, server, concurrency=concurrency)
        assert server.busiest == concurrency
    assert [math.isnan(record.batch) for record in records] == [concurrency > 1] * 3


def test_requests_arrive_whatever_is_under_way(config: RunConfig) -> None:
    with serving(late=0.05) as server:
        records = go(config, server, request_rate=1000.0)
        assert server.busiest == 3
    due = arrivals(1000.0, 3, 0, "words", 0, 0)
    first = records[0].started
    for record, at in zip(records, due, strict=True):
        assert record.started - first >= at - due[0] - 0.02  # none is sent before it is due


def test_arrivals_are_a_poisson_process_of_the_seed() -> None:
    due = arrivals(4.0, 2000, 7)
    gaps = [late - early for early, late in zip([0.0, *due], due, strict=False)]
    assert stats.kstest(gaps, stats.expon(scale=0.25).cdf).pvalue > 0.01
    assert stats.kstest(gaps, stats.expon(scale=0.3).cdf).pvalue < 1e-6
    assert due == arrivals(4.0, 2000, 7) != arrivals(4.0, 2000, 8)
    assert arrivals(8.0, 2000, 7) == pytest.approx([at / 2 for at in due])


@pytest.mark.parametrize("kind", ["dropped", "429", "429 soon", "500", "503", "page", "cut", "error", "miscounted"])
def test_what_may_pass_is_asked_again(config: RunConfig, kind: str) -> None:
    with serving(wrong=lambda body, number: kind if body and number < 2 and body["max_tokens"] == 12 else "") as server:
        records = go(config, server)
        assert [count for key, count in server.seen.items()][-3:] == [3, 3, 3]
    assert [record.status for record in records] == ["ok"] * 3
    assert {sum(record.turns[0].steps.tokens) for record in records} == {12}


def test_a_server_that_is_too_slow_is_asked_again(config: RunConfig) -> None:
    def wrong(body: Any, number: int) -> str:
        return "slow" if body and not number and body["max_tokens"] == 12 else ""
    with serving(wrong=wrong) as server:
        assert [record.status for record in go(config, server, engine=("timeout=0.5",))] == ["ok"] * 3


def of_second(body: Any) -> bool:
    return bool(body) and body["max_tokens"] == 12 and len(body["prompt"]) == 5


@pytest.mark.parametrize(("kind", "words", "tries"), [
    ("400", "UserError: the server gave no answer: 400: no", 1), ("500", "gave no answer in 2 tries: 500: no", 2),
    ("429", "the server gave no answer: 429: no", 2), ("cut", "it ended before the answer did", 2),
    ("dropped", "gave no answer in 2 tries: ", 2)])
def test_a_request_that_fails_is_a_failed_sample(config: RunConfig, kind: str, words: str, tries: int) -> None:
    with serving(wrong=lambda body, number: kind if of_second(body) else "") as server:
        records = go(config, server, engine=("tries=2",))
        assert sum(of_second(body) for body in server.bodies) == tries
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert words in str(records[1].error)


def test_prompts_that_are_too_long_for_the_server_fail_by_themselves(config: RunConfig) -> None:
    with serving(model={"id": "toy", "max_model_len": 13}) as server:
        records = go(config, server)
    assert [record.status for record in records] == ["ok", "ok", "failed"]
    assert "the prompt has 13 tokens but the context of the model is 13" in str(records[2].error)
    assert [(record.turns[0].stop, len(record.turns[0].tokens)) for record in records[:2]] == [("context", 6),
                                                                                              ("context", 8)]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_server_killed_in_mid_run_keeps_what_was_done_and_the_same_command_goes_on(config: RunConfig,
                                                                                    concurrency: int) -> None:
    lives = iter(range(1000))

    def wrong(body: Any, number: int) -> str:
        return "kill" if body and body["max_tokens"] == 12 and next(lives) == 4 else ""
    with (serving(wrong=wrong) as server,
          pytest.raises(UserError, match=r"no longer answers \(.*\); start it again: the same command resumes\.$")):
        go(config, server, strategies=("temperature", "top_p"), concurrency=concurrency, engine=("tries=2",))
    kept = list(Store.open(config.output or Path()).records())
    assert 1 <= len(kept) <= 5
    assert {record.status for record in kept} == {"ok"}
    with serving() as again:  # another port: the address is not what a run is
        records = go(config, again, strategies=("temperature", "top_p"), concurrency=concurrency, engine=("tries=2",))
        assert len(asked(again)) == 9 - len(kept)
    assert [record.model_dump_json() for record in records[:len(kept)]] == [r.model_dump_json() for r in kept]
    assert len({record.key for record in records}) == len(records) == 9


def test_five_failures_in_a_row_end_the_run(config: RunConfig) -> None:
    with (serving(wrong=lambda body, number: "500" if body and body["max_tokens"] == 12 else "") as server,
          pytest.raises(UserError, match=r"no longer answers \(500: no")):
        go(config, server, strategies=("temperature", "top_p"), engine=("tries=1",))
    kept = list(Store.open(config.output or Path()).records())
    assert [record.status for record in kept] == ["failed"] * 4


def test_a_key_that_is_refused_later_ends_the_run(config: RunConfig) -> None:
    with (serving(wrong=lambda body, number: "401" if of_second(body) else "") as server,
          pytest.raises(UserError, match=r"refuses requests for 'toy' \(401: no, not with Bearer none\)")):
        go(config, server)
    assert len(list(Store.open(config.output or Path()).records())) == 1


def test_an_interrupted_run_does_not_wait_for_its_streams(config: RunConfig) -> None:
    connection = list[Connection]()
    with serving(late=0.2) as server:
        served = openai.connect(replace(config, base_url=server.url), _target(), None)
        connection.append(served.connection)
        threading.Timer(0.3, served.connection.stopped.set).start()
        start = time.perf_counter()
        from harness.backends.backend import BackendLost
        from harness.backends.external import GenerationRequest

        found = served.generate(STRATEGIES.build("greedy"), [GenerationRequest((5, 6), 60, 0)], 1)
        assert isinstance(found[0], BackendLost)
        assert time.perf_counter() - start < 5  # of 8 seconds


def _target() -> Any:
    from harness.models.loading import outline

    return outline(str(saved("llama")))


COUNTERS = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{{engine="0",model_name="toy"}} {drafts}.0
vllm:spec_decode_num_draft_tokens_total{{engine="0",model_name="toy"}} {drafted}
vllm:spec_decode_num_accepted_tokens_total{{engine="0",model_name="toy"}} 1e1
vllm:spec_decode_num_accepted_tokens_total{{engine="1",model_name="toy"}} {drafts}
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="toy",position="1"}} {drafts}.0
vllm:generation_tokens_total{{model_name="toy"}} {written}
python_info{{version="3.11"}} 1.0
"""


def test_counters_of_a_server_that_drafts_are_recorded_as_its_own(config: RunConfig) -> None:
    def page(server: Server) -> str:
        done = len(asked(server))
        return COUNTERS.format(drafts=3 * done, drafted=9 * done, written=16 * done)
    with serving(counters=page) as server:
        records = go(config, server, strategies=("greedy", "min_p", "prompt_lookup"))
    assert {tuple(sorted(record.counted.items())) for record in records} == {
        (("accepted", 3.0), ("accepted_at_1", 3.0), ("drafted", 9.0), ("drafts", 3.0), ("written", 16.0))}
    manifest = Store.open(config.output or Path()).manifest
    assert any("drafts by itself" in warning for warning in manifest.warnings)
    assert [bool(entry.unsupported) for entry in manifest.strategies] == [False, True, True]
    assert "leaves out min_p" in str(manifest.strategies[1].unsupported)
    assert records[0].turns[0].steps.drafted == []  # not the strategy's doing
    said, = (note for note in notes(summarise(Store.open(config.output or Path()))) if "own counters" in note)
    assert said == ("greedy on words: the server drafted by itself; by its own counters 33 % of its drafts were "
                    "accepted, 2.00 tokens per step, and 25 % of its tokens were for other clients")


def test_another_server_does_not_go_on_with_a_run(config: RunConfig) -> None:
    with serving() as server:
        go(config, server)
    with serving(owner="sglang") as other, pytest.raises(UserError, match=r"another run \(config\.server differs"):
        go(config, other)


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cli.report.render", lambda runs, folder: folder / "index.html")


def run_as(config: RunConfig, *options: str) -> Result:
    return call("run", "-m", "toy", "--tokenizer", config.tokenizer, "-t", "words", "--plugin", config.plugins[0],
                "-s", "greedy", "-o", config.output, *options)


WRONG: list[tuple[dict[str, Any], list[str], str]] = [
    ({}, [], "--backend openai needs the address of a server: --base-url"),
    ({}, ["--base-url", "localhost:8000"], "--base-url must be an address such as"),
    ({}, ["--base-url", "http://me:secret@localhost/v1"], "must hold no key and no password"),
    ({}, ["--base-url", "http://127.0.0.1:9/v1"], "No server answers at http://127.0.0.1:9/v1"),
    ({}, ["--base-url", "URL", "--key-variable", "MY_KEY"], "The variable MY_KEY holds no key"),
    ({}, ["--base-url", "URL", "--engine", "retries=2"], "has no option 'retries'. Did you mean 'tries'?"),
    ({}, ["--base-url", "URL", "--engine", "timeout=soon"], "--engine timeout must be a number above 0, not 'soon'."),
    ({}, ["--base-url", "URL", "--request-rate", "0"], "--request-rate must be above 0, not 0.0."),
    ({}, ["--base-url", "URL", "--request-rate", "3", "--concurrency", "2"], "leave --concurrency out"),
    ({"model": {"id": "toys"}}, ["--base-url", "URL"], "has no model 'toy'. Did you mean 'toys'?"),
    ({"wrong": lambda body, number: "404"}, ["--base-url", "URL"], "check --base-url, which ends in /v1"),
    ({"wrong": lambda body, number: "401"}, ["--base-url", "URL"], "and the key (--key-variable)."),
    ({"wrong": lambda body, number: "page"}, ["--base-url", "URL"], "is no OpenAI-compatible server"),
    ({"wrong": lambda body, number: "400" if body else ""}, ["--base-url", "URL"], "completes no prompt (400: no"),
    ({"wrong": lambda body, number: "404" if body else ""}, ["--base-url", "URL"], "must offer completions, and not"),
    ({"usage": False, "ids": False}, ["--base-url", "URL"], "it counts no tokens: stream_options.include_usage"),
]


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(("script", "options", "words"), WRONG, ids=[words[:40] for *_, words in WRONG])
def test_wrong_input_is_one_sentence(config: RunConfig, script: dict[str, Any], options: list[str], words: str) -> None:
    with serving(**script) as server:
        found = run_as(config, "--backend", "openai", *(server.url if text == "URL" else text for text in options))
    assert found.exit_code == 2, found.output
    assert words in " ".join(found.output.split())
    assert "Traceback" not in found.output
    assert not (config.output or Path()).exists()


@pytest.mark.parametrize("option", [("--base-url", "http://x/v1"), ("--key-variable", "K"), ("--request-rate", "2")])
def test_options_of_a_server_want_one(config: RunConfig, option: tuple[str, str]) -> None:
    found = run_as(config, *option)
    assert found.exit_code == 2
    assert f"{option[0]} is for a server: give --backend openai" in found.output


@pytest.mark.usefixtures("_no_report")
def test_a_key_goes_to_the_server_and_into_no_file(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-others")
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(wrong=lambda body, number: "400" if of_second(body) else "") as server:
        found = run_as(config, "--backend", "openai", "--base-url", server.url, "--key-variable", "MY_KEY")
        assert {head["authorization"] for head in server.headers} == {f"Bearer {KEY}"}
        assert found.exit_code == 3
        other = run_as(replace(config, output=config.output / "x"), "--backend", "openai",  # type: ignore[operator]
                       "--base-url", server.url)
        assert server.headers[-1]["authorization"] == "Bearer none"
    written = [path for path in (config.output or Path()).rglob("*") if path.is_file()]
    assert len(written) >= 4
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in found.output + other.output
    assert any("[key]" in str(record.error) for record in Store.open(config.output or Path()).records())


def test_a_model_may_be_named_by_its_folder(config: RunConfig) -> None:
    folder = str(saved("llama"))
    with serving(model={"id": "served", "root": folder + "/", "max_model_len": 128}) as server:
        go(config, server, model=folder, tokenizer=None)
        assert {body["model"] for body in server.bodies} == {"served"}
    assert Store.open(config.output or Path()).manifest.model.name == folder
