"""A server that drafts against one that does not: right ones pass, and every planted fault is found and named."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.backends.openai_connection import Connection
from harness.backends.openai_stream import Reply
from harness.plugins.registry import STRATEGIES, TASKS
from harness.report import verify as shown
from harness.stats.two_samples import Text, same_distribution
from harness.store.completion import Choice, TokenLogprob, logprobs_of
from harness.store.config import RunConfig
from harness.verify.answers import parting
from harness.verify.distribution import Distribution
from harness.verify.results import Report, StrategyResult
from harness.verify.servers import Without, verify_server
from tests.completions import Server
from tests.drafting_server import FAULTS, drafting
from tests.models import EOS
from tests.pair import saved
from tests.program import call

TASK = '''"""Words to go on from; an answer is right if it has an even number of characters."""
from dataclasses import dataclass
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Evens(Task):
    version = 1
    source = "test"
    headline = "even"
    max_new_tokens = 24

    def examples(self, data):
        return [Example(str(i), ("word " + "o" * i,)) for i in range(30)]

    def score(self, example, answers):
        return {"even": float(len(answers[0]) % 2 == 0)}
'''
HOT = (Distribution(1.0),)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    start = Connection.__init__

    def made(self: Connection, *given: Any, **more: Any) -> None:
        start(self, *given, **more)
        self.pause = lambda seconds: None
    monkeypatch.setattr(Connection, "__init__", made)
    monkeypatch.setenv("COLUMNS", "120")
    yield
    STRATEGIES._files.clear()
    TASKS._files.clear()


@pytest.fixture(scope="module")
def evens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "evens.py"
    path.write_text(TASK)
    return path


def compare(evens: Path, server: Server, plain: Server | None = None, dtype: str = "bfloat16", limit: int = 8,
            **more: Any) -> Report:
    config = RunConfig(model="toy", tokenizer=str(saved("llama")), tasks=("evens",), plugins=(evens,), threads=1,
                       backend="openai", device="cpu", dtype=dtype, limit=limit, concurrency=8, base_url=server.url)
    without = Without(plain.url) if plain else Without(None, ("drafts=false",))
    return verify_server(config, without, **{"distributions": HOT, **more})


def by_name(report: Report) -> dict[str, StrategyResult]:
    return {finding.name: finding for finding in report.findings}


def verdicts(report: Report) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in report.findings if not finding.ok}


@pytest.mark.parametrize("script", [
    {}, {"ids": False, "owner": "somebody"}, {"ids": False, "owner": "llamacpp", "as_chat": True}, {"tops": None},
    {"ids": False, "owner": "somebody", "tops": None}], ids=["ids", "tokens", "chat", "ids alone", "text alone"])
def test_a_right_server_passes(evens: Path, script: dict[str, Any]) -> None:
    with drafting(**script) as server, drafting(**script) as plain:
        report = compare(evens, server, plain, "float32")
        assert not any("drafts" in body for body in [*server.bodies, *plain.bodies])
    assert report.ok, report.findings
    found = by_name(report)
    assert [finding.verdict for finding in report.findings] == [
        "same tokens", "same tokens", "no log-probs" if "tops" in script else "log-probs agree", "scores agree",
        "same distribution"]
    assert found["tokens with drafts"].same == found["tokens with drafts"].total == 8
    assert found["sampled texts with drafts"].p_value > 1e-3
    assert f"{server.url} against {plain.url}, 8 requests at a time" in shown.notes(report)[0]


def test_one_server_with_a_field_that_turns_drafts_off(evens: Path) -> None:
    with drafting("wrong") as server:
        report = compare(evens, server, distributions=())
        assert {body.get("drafts") for body in server.bodies} == {None, False}
    found = by_name(report)
    assert found["asked again without drafts"].verdict == "same tokens"
    assert found["tokens with drafts"].verdict == "wrong token"
    assert "against the same server with drafts=False" in report.about


FOUND = {
    "cold": {"sampled texts with drafts": "distribution rejected"},
    "no end": {"tokens with drafts": "stop token dropped", "log-probs of the tokens": "not the likeliest"},
    "past the end": {"tokens with drafts": "stop token dropped"},
    "wrong": {"tokens with drafts": "wrong token", "log-probs of the tokens": "not the likeliest"},
    "other": {"log-probs of the tokens": "log-probs differ"},
    "near": {},
}
SAID = {
    "cold": "with drafts the server samples as if the temperature were lower",
    "no end": "a stop token was dropped: the answer ends here, and goes on while the server drafts",
    "past the end": "a stop token was dropped: the answer ends here, and goes on while the server drafts",
    "wrong": "a wrong token (log-probs of best and second", "other": "tokens differ by up to",
    "near": "a tie that rounding decides",
}


def test_a_temperature_that_is_ignored_is_found_without_log_probs(evens: Path) -> None:
    with drafting("cold", ids=False, owner="somebody", tops=None) as server:
        report = compare(evens, server)
    assert verdicts(report) == {"sampled texts with drafts": "distribution rejected"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(evens: Path, fault: str) -> None:
    with drafting(fault) as server:
        report = compare(evens, server)
    bad = verdicts(report)
    assert bad.items() >= FOUND[fault].items()
    assert bad.keys() - FOUND[fault].keys() <= {"sampled texts with drafts"}  # a fault of drafts may show there, too
    assert report.ok == (not bad)
    assert any(SAID[fault] in line for line in shown.notes(report, 99))


def test_a_tie_is_no_tie_in_another_precision(evens: Path) -> None:
    with drafting("near") as server:
        for more, verdict in (({}, "same except ties"), ({"dtype": "float32"}, "wrong token"),
                              ({"tie": 0.1}, "wrong token")):
            report = compare(evens, server, distributions=(), **more)
            assert by_name(report)["tokens with drafts"].verdict == verdict


@pytest.mark.parametrize("fault", ["no end", "past the end"])
def test_a_dropped_end_is_found_without_log_probs(evens: Path, fault: str) -> None:
    with drafting(fault, tops=None) as server:
        report, exact = (compare(evens, server, dtype=dtype, distributions=()) for dtype in ("bfloat16", "float32"))
    assert by_name(report)["tokens with drafts"].verdict in ("stop token dropped", "differs, cause unknown")
    assert report.ok == (fault == "no end")  # then a token is not EOS, which rounding might explain
    assert not exact.ok


def test_without_log_probs_the_cause_is_unknown(evens: Path) -> None:
    with drafting("wrong", tops=None) as server:
        unsure, sure = (compare(evens, server, dtype=dtype, distributions=()) for dtype in ("bfloat16", "float32"))
    assert by_name(unsure)["tokens with drafts"].verdict == "differs, cause unknown"
    assert by_name(unsure)["tokens with drafts"].ok
    assert not by_name(sure)["tokens with drafts"].ok  # equal by definition where nothing is rounded


def test_fields_that_a_server_refuses_are_left_out(evens: Path) -> None:
    known = frozenset({"model", "prompt", "max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty",
                       "seed", "stop", "stream", "stream_options"})
    with (drafting(ids=False, owner="me", fields=known) as server,
          drafting(ids=False, owner="me", fields=known) as plain):
        report = compare(evens, server, plain)
    assert report.ok
    assert by_name(report)["log-probs of the tokens"].verdict == "no log-probs"


def test_scores_are_compared_in_pairs(evens: Path) -> None:
    """The worse server's answers have all an odd number of characters: McNemar's test over 30 answers rejects."""
    def say(body: Any) -> list[list[int]]:
        return [[8], [9] if body.get("drafts", True) else [9, 9], [10, EOS]]
    with drafting(say=say, tops=None) as server:
        report = compare(evens, server, limit=30, distributions=())
    scores = by_name(report)["scores of evens"]
    assert (scores.verdict, scores.ok, scores.same, scores.total) == ("scores differ", False, 0, 30)
    assert scores.p_value == pytest.approx(2 ** -29)
    assert scores.remarks == ["even 0 with drafts, 1 without; of 30 answers 0 are better and 30 worse"]


def test_a_plain_server_that_differs_from_itself_is_told(evens: Path) -> None:
    count = iter(range(1000))
    with (drafting(say=lambda body: [[8, 9, 10 + next(count) % 7, EOS]], tops=None) as plain,
          drafting(say=lambda body: [[8, 9, 10, EOS]], tops=None) as server):
        report = compare(evens, server, plain, distributions=())
    assert by_name(report)["asked again without drafts"].verdict == "differs by itself"
    assert report.ok


def test_counters_tell_whether_a_server_drafts(evens: Path) -> None:
    idle, busy = 'vllm:generation_tokens_total{a="b"} 1\n', 'vllm:spec_decode_num_drafts_total{a="b"} 1\n'
    with drafting(counters=lambda server: idle) as server, drafting(counters=lambda server: busy) as plain:
        report = compare(evens, server, plain, distributions=())
    assert [line.split(" at ")[0] for line in report.warnings] == [
        "By its counters the server", "The server that should not draft,"]


def test_a_failed_answer_fails(evens: Path) -> None:
    def wrong(body: Any, number: int) -> str:
        return "400" if body and body.get("drafts", True) and len(body["prompt"]) == 7 else ""
    with drafting(wrong=wrong) as server:
        report = compare(evens, server, distributions=())
    tokens = by_name(report)["tokens with drafts"]
    assert (tokens.verdict, tokens.failed, tokens.same) == ("failed", 1, 7)
    assert not report.ok


def options(evens: Path, server: Server, *more: object) -> list[object]:
    return ["verify", "--backend", "openai", "--base-url", server.url, "-m", "toy", "--tokenizer", saved("llama"), "-t",
            "evens", "--plugin", evens, "--limit", 6, "--device", "cpu", "--threads", 1, *more]


def test_the_command(evens: Path, tmp_path: Path) -> None:
    with drafting() as server, drafting("cold") as cold:
        right = call(*options(evens, server, "--plain-field", "drafts=false", "--temperature", 1, "-o", tmp_path))
        wrong = call(*options(evens, cold, "--plain-url", server.url, "--draws", 48))
    assert right.exit_code == 0, right.output
    assert "all 5 checks passed" in right.output
    found = json.loads((tmp_path / "verify.json").read_text())
    assert [finding["name"] for finding in found["findings"]][2:4] == ["log-probs of the tokens", "scores of evens"]
    assert "tokens with drafts" in (tmp_path / "verify.html").read_text()
    assert wrong.exit_code == 1, wrong.output
    assert "samples as if the temperature were lower" in " ".join(wrong.output.split())
    assert max(map(len, wrong.output.splitlines())) <= 120


@pytest.mark.parametrize(("more", "said"), [
    ([], "name a second server with --plain-url, or with --plain-field NAME=VALUE"),
    (["--plain-field", "drafts"], "Write --plain-field as NAME=VALUE, not 'drafts'."),
    (["--plain-url", "http://127.0.0.1:9/v1"], "No server answers at http://127.0.0.1:9/v1"),
    (["-s", "greedy", "--plain-field", "a=1"], "tests the drafts of the server itself: leave --strategy out."),
])
def test_wrong_input_is_one_sentence(evens: Path, more: list[object], said: str) -> None:
    with drafting() as server:
        found = call(*options(evens, server, *more))
    assert found.exit_code == 2, found.output
    assert said in " ".join(found.output.split())
    assert "Traceback" not in found.output


@pytest.mark.parametrize("option", [("--plain-url", "http://x/v1"), ("--plain-field", "a=1"), ("--tie", "0.1")])
def test_options_of_a_server_want_one(option: tuple[str, str]) -> None:
    found = call("verify", *option)
    assert found.exit_code == 2
    assert "are for a server: give --backend openai" in found.output


def reply(ids: list[int], stop: str | None = None, reason: str = "stop") -> Reply:
    return Reply(ids=ids, has_ids=True, last=Choice(finish_reason=reason, stop_reason=stop))


@pytest.mark.parametrize(("one", "other", "cause", "at"), [
    (reply([5, 6, EOS]), reply([5, 6, EOS]), None, 0),
    (reply([5, 6, EOS]), reply([5, 6]), "end missing", 2),
    (reply([5, 6, EOS]), reply([5, 6, EOS, 7]), "end ignored", 3),
    (reply([5, 6], "zz"), reply([5, 6, 7], "zz"), None, 0),  # a draft's tokens after a stop string
    (reply([5, 6], "zz"), reply([5, 6, 7], reason="length"), "end ignored", 2),
    (reply([5, 6, 7]), reply([5, 8, 7]), "unknown", 1)])
def test_where_answers_part(one: Reply, other: Reply, cause: str | None, at: int) -> None:
    found = parting(one, other, frozenset({EOS}), 0.5)
    assert (found and (found.cause, found.at)) == (cause and (cause, at))


def test_a_token_outside_the_top_is_below_all_of_them() -> None:
    top = {f"token_id:{token}": -float(token) for token in range(5)}
    one = replace(reply([0]), logprobs=[TokenLogprob("token_id:0", 0.0, top)])
    found = parting(one, reply([9]), frozenset(), 0.5)
    assert found is not None
    assert found.gap == (1.0, 4.0)
    assert (found.cause, found.said()) == (
        "wrong token", "a wrong token (log-probs of best and second 1 apart, and its token is 4 below the likeliest)")


@pytest.mark.parametrize("value", [None, {}, {"tokens": None}, [1], {"content": [{"token": "a"}]},
                                   {"tokens": ["a", "b"], "token_logprobs": [-1.0]},
                                   {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None]}])
def test_log_probs_in_an_unknown_form_are_none(value: Any) -> None:
    assert logprobs_of(Choice(logprobs=value)) == []


def texts(rows: Any) -> list[Text]:
    return [Text(row) for row in rows.tolist()]


def test_two_samples_of_one_distribution_are_rejected_as_often_as_they_should() -> None:
    rng, found = np.random.default_rng(0), list[float]()
    for seed in range(100):
        rows = rng.choice(6, (4, 10, 4), p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]).cumsum(-1)
        found.append(same_distribution([(texts(rows[0]), texts(rows[1])), (texts(rows[2]), texts(rows[3]))],
                                       draws=199, seed=seed)[0])
    assert 0.02 < np.mean(np.array(found) < 0.1) < 0.2
    assert 0.35 < np.mean(found) < 0.65


def test_two_samples_of_different_distributions_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    one, other = (texts(rng.choice(6, (40, 4), p=p)) for p in ([0.4, 0.2, 0.1, 0.1, 0.1, 0.1],
                                                              [0.1, 0.2, 0.1, 0.1, 0.1, 0.4]))
    p_value, tests = same_distribution([(one, other)])
    assert p_value == pytest.approx(1 / 20_000)
    assert tests["units"] == pytest.approx(1 / 20_000)
    assert tests["alike"] > 0.01  # both vary as much
    first = rng.integers(3, size=(60, 1))
    p_value, tests = same_distribution([(texts(first.repeat(2, 1)), texts(rng.integers(3, size=(60, 2))))])
    assert p_value < 1e-3  # the second unit repeats the first one in one of them only
    assert tests["units"] > 0.01 > 1e-3 > tests["neighbours"]
    figures = [[Text([1], (float(value),)) for value in rng.normal(mean, 1, 40)] for mean in (0, 2)]
    p_value, tests = same_distribution([(figures[0], figures[1])], ("height",))
    assert p_value == tests["height"] == pytest.approx(1 / 20_000)
    assert tests["units"] == 1
    assert same_distribution([([Text([1]), Text([1, 2])], [])])[0] == 1.0
    assert same_distribution([([Text([])], [Text([])])])[0] == 1.0
