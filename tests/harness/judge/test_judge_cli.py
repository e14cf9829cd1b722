"""`decodebench judge` as a person meets it: what it asks before, exit codes, a judge run here, and secret keys."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from harness.judge import verdicts as disk
from harness.judge.local import Local, merge_system_prompt
from harness.judge.reply import Reply
from harness.measure.judged import judge_notes
from harness.report import write
from harness.store.folder import Store
from tests.endpoint import serving
from tests.judged import data, numbered, run
from tests.pair import saved
from tests.program import call

LOCAL = "http://localhost:1/v1"
KEY = "sk-very-secret-0123456789"
ROWS = {"greedy": [(n % 10, (3 * n) % 10) for n in range(12)], "top_p": [(n % 7, (n * n) % 10) for n in range(12)]}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DECODEBENCH_DATA", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    source = data(tmp_path / "data", 12)
    return run(tmp_path / "run", source, {spec: numbered(*rows) for spec, rows in ROWS.items()})


def judge(store: Store, *options: str, answer: str | None = None) -> Result:
    return call("judge", store.folder, "--data", store.folder.parent / "data", *options, typed=answer)


def test_a_judged_run_shows_its_scores_and_asks_nothing_again(store: Store) -> None:
    with serving() as server:
        options = ("-j", "m", "--base-url", server.url, "--price-in", "1", "--price-out", "100")
        found = judge(store, *options, "--yes")
        assert found.exit_code == 0, found.output
        count = len(server.seen)
        assert f"48 verdicts of m ({server.url}): 0 done, {48 - count} reused, {count} to " \
               "request." in found.output
        assert "Price: about " in found.output
        assert "mt_bench_score" in found.output
        assert "Judge: ratings" in found.output
        again = judge(store, *options)  # nothing to ask: nothing to agree to
        assert again.exit_code == 0
        assert "48 done, 0 reused, 0 to request." in again.output
        assert set(server.seen.values()) == {1}


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cli.report.render", lambda runs, folder: folder / "index.html")


def test_nothing_is_sent_before_somebody_agrees(store: Store) -> None:
    with serving() as server:
        found = judge(store, "-j", "m", "--base-url", server.url)
        assert found.exit_code == 2
        assert "Price: unknown, give --price-in and --price-out." in found.output
        assert "pass --yes to send them, or --max-price with --price-in and --price-out" in found.output
        assert not server.seen
    assert not (store.folder / "judge").exists()


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(("answer", "sent"), [("n", False), ("y", True)])
def test_a_person_is_asked(store: Store, monkeypatch: pytest.MonkeyPatch, answer: str, sent: bool) -> None:
    monkeypatch.setattr("harness.cli.judge._at_terminal", lambda: True)
    with serving() as server:
        found = judge(store, "-j", "m", "--base-url", server.url, answer=f"{answer}\n")
        assert found.exit_code == 0, found.output
        assert bool(server.seen) == sent
        assert ("Nothing was sent." in found.output) == (not sent)


@pytest.mark.usefixtures("_no_report")
def test_a_price_limit_is_kept_and_the_same_command_goes_on(store: Store) -> None:
    with serving() as server:
        options = ("-j", "m", "--base-url", server.url, "--max-tokens", "10", "--price-in", "1000", "--price-out", "0")
        found = judge(store, *options, "--max-price", "1")  # 0.1 a verdict
        assert found.exit_code == 3
        assert "--max-price 1 allows no further request. The same command resumes." in found.output
        assert 5 < len(server.seen) <= 10
        assert list(judge_notes(store, "single"))[-1].endswith("were requested: the same command resumes")
        assert judge(store, *options, "--max-price", "100").exit_code == 0
        assert set(server.seen.values()) == {1}


@pytest.mark.usefixtures("_no_report")
def test_failures_are_counted_and_the_exit_code_is_three(store: Store) -> None:
    with serving(lambda prompt, number: "400" if "{4}" in prompt else "") as server:
        found = judge(store, "-j", "m", "--base-url", server.url, "--yes")
        assert found.exit_code == 3
        assert "verdicts failed: see" in found.output
        server.wrong = lambda prompt, number: ""
        assert judge(store, "-j", "m", "--base-url", server.url, "--yes").exit_code == 0


@pytest.mark.parametrize(("options", "words"), [
    (["--mode", "singel"], "There is no mode 'singel'. Did you mean 'single'?"),
    (["--max-price", "1"], "--max-price needs --price-in and --price-out"),
    (["-j", "gpt-4"], "The variable OPENAI_API_KEY holds no key"),
    (["-j", "m", "--base-url", LOCAL, "--key-variable", "MY_KEY"], "The variable MY_KEY holds no key"),
    (["-j", "nano", "--repeats", "2"], "A local judge is deterministic: omit --repeats"),
    (["-j", "nano", "--setting", "seed=1"], "--setting works with endpoints only"),
    (["-j", "m", "--base-url", LOCAL, "--setting", "seed"], "--setting must be NAME=VALUE, not 'seed'"),
    (["--mode", "pairwise", "--baseline", "beam"], "The run has no strategy 'beam'."),
    (["-t", "mt_bensh"], "has no task 'mt_bensh' to judge. Did you mean 'mt_bench'?"),
    (["-j", "./nowhere/"], "There is no model './nowhere/'"),
])
def test_wrong_input_is_one_sentence(store: Store, options: Sequence[str], words: str) -> None:
    found = judge(store, *options)
    assert found.exit_code == 2, found.output
    assert words in found.output
    assert "Traceback" not in found.output
    assert not (store.folder / "judge").exists()


@pytest.mark.usefixtures("_no_report")
def test_a_key_goes_to_the_named_endpoint_only_and_into_no_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda prompt, number: ["key", "400", "key"][len(prompt) % 3]) as server:
        found = judge(store, "-j", "m", "--base-url", server.url, "--yes", "--concurrency", "1")
        assert not any(KEY in one["authorization"] for one in server.headers)  # OpenAI's key is for OpenAI
        mine = judge(store, "-j", "n", "--base-url", server.url, "--yes", "--key-variable", "MY_KEY")
        assert any(one["authorization"] == f"Bearer {KEY}" for one in server.headers)
        assert any(one.text and "[key]" in one.text for one in disk.load(store.folder))
        server.wrong = lambda prompt, number: "401"
        refused = judge(store, "-j", "o", "--base-url", server.url, "--yes", "--key-variable", "MY_KEY")
        assert refused.exit_code == 2
        assert "refuses to judge with 'o' (401: no, not with Bearer [key])" in refused.output
    assert KEY not in found.output + mine.output + refused.output
    write([store], store.folder / "report")
    written = [path for path in store.folder.parent.rglob("*") if path.is_file()]
    assert len(written) > 8
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_a_judge_that_is_run_here_decodes_greedily(store: Store) -> None:
    judge = Local(str(saved("llama")), 12, device="cpu", concurrency=3)
    asked = [[{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": text}]
             for text in ("Rate this.", "And that, please.", "x" * 9000, "Or those?")]
    found = dict[int, Reply]()
    assert judge.answer(asked, found.__setitem__) is None
    model, tokenizer = judge.model.engine.model, judge.model.tokenizer
    for number in (0, 1, 3):
        ids = tokenizer(f"User: {asked[number][1]['content']}\nAssistant:", return_tensors="pt").input_ids
        with torch.no_grad():
            wanted = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)[0, ids.shape[1]:]
        reply = found[number]
        assert reply.text == tokenizer.decode(wanted, skip_special_tokens=True)
        assert (reply.tokens_in, reply.error) == (ids.shape[1], None)
    assert "tokens but the context" in str(found[2].error)


def test_system_prompts_are_put_before_the_question() -> None:
    user = {"role": "user", "content": "Q"}
    assert merge_system_prompt([{"role": "system", "content": "You are a helpful assistant."}, user]) == [user]
    merged, = merge_system_prompt([{"role": "system", "content": "Judge."}, user])
    assert merged["content"] == "[Instruction]\nJudge.\n\nQ"


@pytest.mark.usefixtures("_no_report")
def test_the_command_runs_a_judge_of_its_own(store: Store) -> None:
    found = judge(store, "-j", str(saved("llama")), "--max-tokens", "4", "--device", "cpu")
    assert found.exit_code == 0, found.output
    assert "48 verdicts of" in found.output
    verdicts = disk.load(store.folder)
    assert {one.status for one in verdicts} == {"unparsed"}
    assert all(one.where.startswith("weights ") for one in verdicts)
