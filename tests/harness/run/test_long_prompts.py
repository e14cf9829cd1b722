"""Prompts that exceed the context: worked examples go first and whole, then the answer gets shorter, then it fails."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from harness import nano
from harness.errors import UserError
from harness.models.loading import Model, load
from harness.models.prompts import encode
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task
from harness.run.prepared_prompt import end_of, prepare, recorded_ids
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Steps, Turn
from tasks.gsm8k import GSM8K, worked_examples
from tasks.gsm8k_5shot import SHOTS, GSM8K5Shot
from tasks.gsm8k_chat import GSM8KChat
from tasks.gsm8k_zeroshot import GSM8KZeroShot
from tests.program import call

QUESTION = "Ann has 2 pens and buys 3. How many?"
ROW = {"question": QUESTION, "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}
CONFIG = RunConfig(model="nano")


@cache
def model() -> Model:
    loaded = load("nano")
    return replace(loaded, tokenizer=nano_with_bos(loaded))


def nano_with_bos(loaded: Model) -> object:
    """nano's tokenizer as that of a model that starts every text with BOS."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = loaded.tokenizer
    bos = tokenizer.eos_token
    tokenizer.bos_token = bos
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))])
    return tokenizer


def recorded(prompt_tokens: int) -> Turn:
    """A turn with a prompt of so many tokens."""
    return Turn(prompt="", prompt_tokens=prompt_tokens, raw="", text="", tokens=[], stop="eos", steps=Steps())


@pytest.fixture
def example(tmp_path: Path) -> Example:
    folder = tmp_path / "data" / "gsm8k"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "train.jsonl").write_text("".join(json.dumps(ROW | {"question": f"{QUESTION} ({i})\n\nQ: not a new one"})
                                                + "\n" for i in range(8)))
    return GSM8K().examples(DataSource(tmp_path / "data"))[0]


def test_a_prompt_that_fits_is_whole(example: Example) -> None:
    done = prepare(CONFIG, model(), 2048, GSM8K(), example, [])
    assert (done.cut, done.max_tokens, done.limited) == (0, 512, False)
    assert list(done.prompt) == encode(model(), GSM8K().prompt(example, []))
    assert done.prompt[0] == model().tokenizer.bos_token_id


@pytest.mark.parametrize("longest", range(1500, 500, -61))
def test_worked_examples_go_whole_from_the_start(example: Example, longest: int) -> None:
    done = prepare(CONFIG, model(), longest, GSM8K(), example, [])
    text = model().tokenizer.decode(done.prompt, skip_special_tokens=True)
    kept = text.count("Q: ") - 1
    shown = "".join(f"Q: {row['question']}\nA: {row['answer']}\n\n" for row in worked_examples()[8 - kept:])
    assert text == f"{shown}Q: {QUESTION}\nA:"
    assert done.prompt[0] == model().tokenizer.bos_token_id
    whole = encode(model(), GSM8K().prompt(example, []))
    assert done.cut == len(whole) - len(done.prompt)
    assert len(done.prompt) + done.max_tokens <= longest
    more = "".join(GSM8K().exemplars(example)[8 - kept - 1:]) + f"Q: {QUESTION}\nA:"
    assert kept == 8 or len(encode(model(), more)) + 512 > longest, "one more would not have fitted"
    assert done.text.prompt == text
    assert recorded_ids(model(), GSM8K(), example, [recorded(len(done.prompt))], 0) == list(done.prompt)


def test_the_answer_gets_shorter_before_the_question(example: Example) -> None:
    """A model that reads 512 tokens, and the default answers of 512 tokens."""
    question = encode(model(), f"Q: {QUESTION}\nA:")
    for longest in (512, len(question) + 1):
        done = prepare(CONFIG, model(), longest, GSM8K(), example, [])
        assert list(done.prompt) == question
        assert (done.max_tokens, done.limited) == (longest - len(question), True)


@pytest.mark.parametrize("task", [GSM8K(), GSM8KZeroShot(), GSM8KChat(), GSM8K5Shot()], ids=lambda task: task.name)
def test_a_question_that_does_not_fit_fails_by_name(example: Example, task: Task, tmp_path: Path) -> None:
    one = task.examples(DataSource(tmp_path / "data"))[0]
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens but the context of the model is 12; "):
        prepare(CONFIG, model(), 12, task, one, [])


def test_the_examples_of_each_problem_are_dropped_too(example: Example, tmp_path: Path) -> None:
    task = GSM8K5Shot()
    one = task.examples(DataSource(tmp_path / "data"))[0]
    assert len(task.exemplars(one)) == SHOTS
    assert "".join(task.exemplars(one)) + f"Question: {QUESTION}\nAnswer:" == task.prompt(one, [])
    assert GSM8KZeroShot().exemplars(one) == ()


def test_what_the_user_lets_be_cut_keeps_bos_and_half_the_context(example: Example) -> None:
    cut = replace(CONFIG, truncate_prompts=True)
    whole = encode(model(), GSM8KZeroShot().prompt(example, []))
    done = prepare(cut, model(), 20, GSM8KZeroShot(), example, [])
    assert list(done.prompt) == [whole[0], *whole[-9:]]
    assert (done.cut, done.max_tokens) == (len(whole) - 10, 10)
    done = prepare(replace(cut, max_new_tokens=4), model(), 20, GSM8KZeroShot(), example, [])
    assert list(done.prompt) == [whole[0], *whole[-15:]]
    assert recorded_ids(model(), GSM8KZeroShot(), example, [recorded(16)], 0) == list(done.prompt)
    assert [len(end_of(model(), whole, count)) for count in (0, 1, 2, 99)] == [0, 1, 2, len(whole)]
    assert end_of(model(), whole, 1) == whole[-1:]


def test_a_model_that_reads_512_tokens(example: Example, tmp_path: Path) -> None:
    """The run from the folder of a model whose context is too short for eight examples and 512 new tokens."""
    folder = shutil.copytree(nano.weights("nano"), tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    call("run", "-m", folder, "-s", "greedy", "-t", "gsm8k", "--data", tmp_path / "data", "-o", tmp_path / "run")
    (record,) = Store.open(tmp_path / "run").records()
    (turn,) = record.turns
    assert turn.prompt == f"Q: {QUESTION}\nA:"
    assert turn.prompt_cut > 800
