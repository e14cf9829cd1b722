"""Texts that strategies score: each token as a plain forward scores it, under a policy as that lets it be read."""

import json
from math import exp, log
from pathlib import Path

import pytest
import torch

from harness.backends.trace import trace
from harness.decoding.given_text import GivenText
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.models.likelihood import score_answers
from harness.models.loading import Model, load
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.strategy import Request
from harness.plugins.task import Example
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from strategies.streaming import Ends
from tests.pair import saved
from tests.scale import scaled
from tests.watch import Quiet

TEXT = "The sky was clear and the wind came from the sea. A boat lay on the sand, and nobody was there."
PROMPT, ANSWER = list(range(20, 30)), [(7 * i) % 90 + 5 for i in range(24)]
SCORING = sorted(name for name in STRATEGIES.built_in() if STRATEGIES.build(name).scores_given)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)


def records(*strategies: str, task: str = "stream:file=text.txt,tokens=60,after=20,block=16", model: str = "",
            **more: object) -> dict[str, Record]:
    config = RunConfig(model=model or str(saved("llama")), tasks=(task,), strategies=strategies, output=Path("run"))
    outcome = run(RunConfig(**{**vars(config), **more}), Quiet(), "")
    assert not outcome.failed
    return {record.strategy: record for record in Store.open(outcome.folder).records()}


def scored(spec: str, on: Model, given: list[int]) -> list[float]:
    request = Request(tuple(PROMPT), len(given), PhiloxStream(0))
    with torch.inference_mode():
        done = trace(STRATEGIES.build(spec), Session(on.engine), request,
                     StopRule(on.tokenizer, PROMPT, frozenset(), ()), lambda: 0.0, given=given)
    assert done.tokens == given
    return done.surprisal


def exact(on: Model, prompt: list[int], answer: list[int]) -> list[float]:
    text = tuple(prompt), tuple(answer)
    return score_answers(on, [text])[text].surprisal


def test_all_tokens_are_scored_as_a_plain_forward_scores_them() -> None:
    model = load(str(saved("llama")))
    ids = list(model.tokenizer(TEXT)["input_ids"])
    found = records("greedy", "greedy+window:window=9", "greedy+streaming:sinks=2,window=100", concurrency=2)
    turn = found["greedy"].turns[0]
    assert turn.tokens == ids[1:60]
    assert turn.text == TEXT[1:60]
    assert turn.surprisal == pytest.approx(exact(model, ids[:1], ids[1:60]), abs=1e-4)
    assert found["greedy+streaming:sinks=2,window=100,whole=True"].turns[0].surprisal == pytest.approx(
        turn.surprisal, abs=1e-4)  # the budget exceeds the text
    windowed = found["greedy+window:window=9,whole=True"].turns[0].surprisal
    session, losses = Session(model.engine), list[float]()
    with torch.inference_mode(), session.with_cache_policy(Ends(0, 9, False)):
        session.follow(ids[:1])
        logits = session.read(TokenTree.chain(ids[1:60])).logits[:-1]
        losses = (-logits.log_softmax(-1)[range(59), ids[1:60]]).tolist()
    assert windowed == pytest.approx(losses, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(windowed, turn.surprisal, strict=True)) > 0.1


def test_blocks_of_nano() -> None:
    """Golden: tokens of stories have these perplexities in blocks of 256."""
    golden = {256: 2.0, 512: 5.6, 768: 8.5, 1024: 7.0, 1280: 3.5}
    tokens = scaled(257, 1281)
    record = records("greedy", task=f"stream:tokens={tokens},after=0", model="nano", limit=1)["greedy"]
    blocks = {int(name[4:]): value for name, value in record.scores.items() if name.startswith("ppl_")}
    assert blocks == pytest.approx({end: value for end, value in golden.items() if end < tokens}, abs=0.06)


def test_scores_leave_out_the_start() -> None:
    task = TASKS.build("stream:tokens=7,prefix=2,after=4,block=3")
    scores = task.score_given(Example("0", ("",)), [log(2), log(2), log(2), log(4), log(4)])
    assert scores == pytest.approx({"likelihood": (2 * 4 * 4) ** (-1 / 3), "perplexity": (2 * 4 * 4) ** (1 / 3),
                                    "ppl_3": 2, "ppl_5": 4})
    assert task.score_given(Example("0", ("",)), [log(3)])["likelihood"] == pytest.approx(1 / 3)  # cut by a limit


@pytest.mark.parametrize("spec", SCORING)
def test_every_strategy_that_can_scores_given_texts(spec: str) -> None:
    model = load(str(saved("llama")))
    found = scored(spec, model, ANSWER)
    assert len(found) == len(ANSWER)
    assert min(found) > 0
    if spec != "dynamic_evaluation":  # all others read the prompt as the model does
        assert found[0] == pytest.approx(exact(model, PROMPT, ANSWER)[0], abs=1e-4)


def test_learning_from_a_given_text_makes_it_likelier() -> None:
    model, twice = load(str(saved("llama"))), ANSWER * 3
    learnt = scored("dynamic_evaluation:rate=0.003,own=8", model, twice)
    assert sum(learnt[-24:]) < sum(exact(model, PROMPT, twice)[-24:]) - 5
    assert sum(scored("dynamic_evaluation:rate=0", model, twice)) == pytest.approx(sum(exact(model, PROMPT, twice)))


def test_a_strategy_that_chooses_other_tokens_is_an_error() -> None:
    text = GivenText(2, [5, 6])
    warped = text.warp(torch.zeros(1, 8), [[1, 2]])
    assert int(warped.argmax()) == 5
    assert text.surprisal([5]) == pytest.approx([log(8)])
    with pytest.raises(ValueError, match="other tokens"):
        text.surprisal([6])


@pytest.mark.parametrize(("spec", "more", "words"), [
    ("beam", {}, "The task 'stream' scores a given text, which beam cannot;"),
    ("temperature+window", {}, "The task 'stream' scores a given text, which temperature+window cannot;"),
    ("greedy", {"backend": "vllm"}, "The task 'stream' scores a given text, which only --backend transformers can."),
])
def test_what_cannot_score_is_refused(spec: str, more: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        records(spec, **more)
    assert str(caught.value).startswith(words)
    assert not Path("run").exists()


@pytest.mark.parametrize(("knobs", "words"), [
    ("file=absent.txt", "There is no file absent.txt"),
    ("file=text.txt,tokens=600", "No example of stream:file=text.txt,tokens=600"),
    ("file=text.txt,tokens=20,after=20", "stream: prefix and after must be below tokens=20, not 1 and 20."),
])
def test_bad_knobs(knobs: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        records("greedy", task=f"stream:{knobs}")
    assert str(caught.value).startswith(words)


def test_a_row_is_a_text() -> None:
    Path("rows.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in (TEXT, "Short.", TEXT[4:])))
    record = records("greedy", task="stream:file=rows.jsonl,tokens=30,after=1", limit=2)["greedy"]
    store = Store.open(Path("run"))
    assert {one.example for one in store.records()} == {"stream/0", "stream/2"}
    assert store.manifest.warnings == ["stream: 1 of 3 examples are too short and left out."]
    assert record.scores["likelihood"] == pytest.approx(exp(-sum(record.turns[0].surprisal) / 29))
