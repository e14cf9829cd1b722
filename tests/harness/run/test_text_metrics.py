"""What is found out about texts once a run is over: on which tasks, from which tokens, and when it is done again."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import harness.run.text_metrics
from harness.errors import UserError
from harness.models.likelihood import score_answers
from harness.models.loading import load
from harness.models.prompts import encode
from harness.plugins.registry import TASKS
from harness.run import plan
from harness.run.plan import make
from harness.run.runner import run
from harness.stats.mauve import mauve
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record, TextMetrics, TextScore
from tests import runs
from tests.pair import saved
from tests.watch import Quiet

TASK = '''"""Words to go on from."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class NAME(Task):
    version: ClassVar[int] = 1
    source: ClassVar[str] = "test"
    headline: ClassVar[str] = "length"
    max_new_tokens: ClassVar[int] = 12
    open_ended: ClassVar[bool] = OPEN

    def examples(self, data):
        return [Example(str(i), turns, reference="and so on, and on") for i, turns in enumerate(TURNS)]

    def answer(self, example, text):
        return str(len(text))

    def score(self, example, answers):
        return {"length": float(len(answers[-1]))}
'''


def task(folder: Path, name: str, open_ended: bool, turns: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(TASK.replace("NAME", name.title()).replace("OPEN", str(open_ended)).replace("TURNS", turns))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RunConfig]:
    files = (task(tmp_path, "open", True, '(("one two",), ("three",), ("four five six",))'),
             task(tmp_path, "closed", False, '(("one", "two"),)'))
    yield RunConfig(model=str(saved("llama")), tasks=("open", "closed"), plugins=files, threads=1, device="cpu",
                    output=tmp_path / "run", strategies=("top_p", "prompt_lookup"))
    TASKS._files.clear()


def go(config: RunConfig) -> tuple[Store, list[Record]]:
    store = Store.open(run(config, Quiet(), "decodebench run").folder)
    return store, list(store.records())


def known(store: Store) -> TextMetrics:
    texts = store.text_metrics()
    assert texts is not None
    return texts


def named(texts: TextMetrics) -> dict[tuple[str, str, str, int, int], TextScore]:
    found = {one.key: one for one in texts.scores}
    assert len(found) == len(texts.scores)
    return found


def test_every_answer_and_reference_of_an_open_task_is_looked_at(config: RunConfig) -> None:
    store, records = go(config)
    texts, model = known(store), load(config.model)
    scores = named(texts)
    answers = [record for record in records if record.task == "open"]
    assert (texts.scorer, texts.own, texts.tasks) == (config.model, True, ["open"])
    assert set(scores) == {record.key for record in answers} | {("open", str(i), "", 0, 0) for i in range(3)}
    for record in answers:
        score, turn = scores[record.key], record.turns[0]
        prompt = tuple(encode(model, turn.prompt))
        one = (prompt, tuple(turn.tokens))
        assert score.logp == pytest.approx(score_answers(model, [one])[one].logp, abs=1e-3)
        text = (prompt, tuple(model.tokenizer(turn.text, add_special_tokens=False)["input_ids"]))
        assert score.scorer_logp == pytest.approx(score_answers(model, [text])[text].logp, abs=1e-3)
        assert (score.tokens, score.scorer_tokens) == (len(turn.tokens), len(text[1]))
        if record.strategy == "greedy":
            assert score.greedy == 1
        same = {scores[other.key].answer for other in answers if len(other.turns[0].text) == len(turn.text)}
        assert same == {score.answer}
    reference = scores["open", "0", "", 0, 0]
    assert reference.text == "and so on, a"  # as long as an answer may be
    assert reference.tokens == 12
    [likeness] = [one for one in texts.likeness if one.strategy.startswith("top_p")]
    assert (likeness.texts, likeness.references, len(likeness.scores)) == (3, 3, 5)


def test_a_prompt_that_was_cut_is_read_as_it_was(config: RunConfig, tmp_path: Path) -> None:
    long = task(tmp_path, "long", True, '(("one two " * 100,),)')
    store, records = go(replace(config, plugins=(long,), tasks=("long",), truncate_prompts=True))
    model, scores = load(config.model), named(known(store))
    for record in records:
        turn = record.turns[0]
        assert turn.prompt_cut > 0
        text = (tuple(encode(model, turn.prompt)[turn.prompt_cut:]), tuple(turn.tokens))
        assert scores[record.key].logp == pytest.approx(score_answers(model, [text])[text].logp, abs=1e-4)


def test_mauve_is_of_the_scorers_last_hidden_states(config: RunConfig) -> None:
    store, records = go(config)
    model = load(config.model)

    def features(texts: list[tuple[str, str]]) -> torch.Tensor:
        pairs = [(tuple(encode(model, prompt)), tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"]))
                 for prompt, text in texts]
        return torch.stack([score_answers(model, pairs)[pair].feature for pair in pairs])

    mine = [(r.turns[0].prompt, r.turns[0].text) for r in records if (r.task, r.strategy) == ("open", "greedy")]
    found = mauve(features([(prompt, "and so on, a") for prompt, _ in mine]).numpy(), features(mine).numpy())
    [likeness] = [one for one in known(store).likeness if one.strategy == "greedy"]
    assert likeness.scores[0] == pytest.approx(found)


@pytest.mark.parametrize(("more", "tasks"), [
    ({"samples": 2}, ["open", "closed"]), ({"texts": True}, ["open", "closed"]), ({"texts": False}, None),
    ({"texts": False, "samples": 2}, None)])
def test_which_tasks_are_looked_at(config: RunConfig, more: dict[str, int], tasks: list[str] | None) -> None:
    store, records = go(replace(config, **more))
    texts = store.text_metrics()
    assert (texts.tasks if texts else None) == tasks
    if texts:
        several = {record.key: record for record in records if record.task == "closed"}
        for key, score in named(texts).items():
            if key in several:
                assert score.tokens == sum(len(turn.tokens) for turn in several[key].turns)  # of both turns


def test_it_is_done_once_and_again_when_something_is_new(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compute = [], harness.run.text_metrics.compute
    monkeypatch.setattr("harness.run.text_metrics.compute", lambda *all_: calls.append(1) or compute(*all_))
    without, _ = go(replace(config, texts=False))
    assert (calls, without.text_metrics()) == ([], None)
    store, _ = go(config)  # the same run: nothing is decoded again
    first = known(store)
    go(config)
    assert len(calls) == 1
    other = str(saved("gpt2", 3))
    store, _ = go(replace(config, scorer=other))
    second = known(store)
    assert (len(calls), second.scorer, second.own) == (2, other, False)
    assert [one.logp for one in second.scores] == pytest.approx([one.logp for one in first.scores], abs=1e-3)
    assert [one.scorer_logp for one in second.scores] != pytest.approx([one.scorer_logp for one in first.scores])
    go(replace(config, scorer=other, texts=True))
    assert len(calls) == 3
    go(replace(config, scorer=other, texts=False))
    assert len(calls) == 3


@pytest.mark.parametrize("which", ["scorer", "model", "draft"])
def test_models_are_looked_for_before_data_sets_are_read(config: RunConfig, which: str, monkeypatch: pytest.MonkeyPatch
                                                         ) -> None:
    monkeypatch.setattr(plan, "choose_tasks", lambda config: pytest.fail("read"))
    with pytest.raises(UserError, match="There is no model 'nanoo'"):
        make(replace(config, **{which: "nanoo"}), "decodebench run")
    assert not config.output or not config.output.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_can_be_read_again(tmp_path: Path, value: float) -> None:
    described = runs.manifest([runs.strategy("greedy")], [runs.task("math")])
    store = runs.write(tmp_path / "run", described, [
        runs.record("math", "a", "greedy", [runs.turn([1], [0.1])], value)])
    [found] = store.records()
    assert repr(found.scores["accuracy"]) == repr(value)


def test_broken_metrics_are_refused(config: RunConfig) -> None:
    store, _ = go(config)
    (store.folder / "texts.json").write_text("{}")
    with pytest.raises(UserError, match=r"texts\.json: not metrics of texts"):
        store.text_metrics()
