"""The embedded family: its corpus is seeded and sound, its rules judge, its tokenizer loses nothing."""

import json
from functools import partial
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.nano import NAMES, attention, samples, shipped, train, weights
from harness.nano.corpus import KINDS, Problem, canonical, drawn, problems, split_of
from harness.nano.documents import batches, documents
from harness.nano.rules import CHANGES, CHECKS, change, follows
from harness.nano.team import launch
from harness.nano.tokenizer import ASSISTANT, END, USER, VOCABULARY, chat_prefix, train_tokenizer
from tests.scale import scaled
from tests.worker import write_team

SAMPLE = 200
COUNT = scaled(30, 200)


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Problem]]:
    return {kind: problems(kind, "train", SAMPLE) for kind in KINDS}


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(text for kind in KINDS for one in corpus[kind] for text in one.turns + one.answers)


@pytest.fixture
def one_thread():
    """Several threads for so small a model are slower than one, by far on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_problems(kind, corpus):
    count = scaled(30, shipped.COUNT)
    for split in shipped.SPLITS:  # the first ones come from a file
        assert list(islice(drawn(kind, split), count)) == problems(kind, split, count)
    assert problems(kind, "train", 50, seed=1) != corpus[kind][:50]
    assert corpus[kind][3].id == f"{kind}/train/0003"


@pytest.mark.parametrize("kind", KINDS)
def test_no_problem_is_in_two_splits(kind):
    texts = {split: {canonical(one) for one in problems(kind, split, COUNT)} for split in ("train", "dev", "test")}
    assert all(len(found) == COUNT for found in texts.values())
    assert not (texts["train"] & texts["dev"])
    assert not (texts["train"] & texts["test"])
    assert not (texts["dev"] & texts["test"])
    assert not texts["train"] & {canonical(one) for one in problems(kind, "test", 50, seed=7)}
    assert {split_of(one) for one in problems(kind, "test", 20)} == {"test"}


def test_prompts_have_the_formats_of_the_benchmarks():
    first = {kind: problems(kind, "test", 1)[0] for kind in KINDS}
    assert first["math"].turns[0].startswith("Question: ")
    assert first["math"].turns[0].endswith("\nAnswer:")
    assert first["code"].turns[0].startswith("def ")
    assert first["code"].turns[0].endswith('"""\n')
    assert len(first["chat"].turns) == len(first["chat"].answers) == 2
    assert first["edit"].turns[0].startswith("Text: ")
    assert first["edit"].turns[0].endswith("\nCorrected:")
    assert first["summary"].turns[0].startswith("Text: ")
    assert "\nSummary of " in first["summary"].turns[0]


@pytest.mark.parametrize("kind", KINDS)
def test_problems_are_plain_text_and_json(kind, corpus):
    for one in corpus[kind]:
        assert all(text.isascii() and text for text in one.turns + one.answers)
        assert json.loads(json.dumps(one.check)) == one.check


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no kind of problem called 'verse'"):
        problems("verse", "test", 1)
    with pytest.raises(ValueError, match="no split called 'final'"):
        problems("math", "final", 1)
    with pytest.raises(ValueError, match="shipped models are nano"):
        weights("mega")
    assert [weights(name).name for name in NAMES] == list(NAMES)


def test_math_answers_end_with_their_number(corpus):
    for one in corpus["math"]:
        *steps, last = one.answers[0].split("\n")
        assert last == f"#### {one.check['answer']}"
        for step in steps:
            before, _, after = step.partition(" = ")
            left, operator, right = before.split()[-3:]
            value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}[operator]
            assert value(int(left), int(right)) == int(after.split()[0].rstrip("."))


def test_reference_functions_pass_their_own_tests(corpus):
    for one in corpus["code"]:
        scope: dict[str, object] = {}
        exec(one.turns[0] + one.answers[0] + "\n" + str(one.check["test"]), scope)
        scope["check"](scope[one.check["entry_point"]])
        assert str(one.check["test"]).count("assert ") >= 4
        assert one.answers[0].startswith("    ")
        assert one.answers[0].endswith("\n")


def test_an_empty_function_fails_its_test(corpus):
    for one in corpus["code"][:50]:
        scope: dict[str, object] = {}
        exec(one.turns[0] + "    return None\n" + str(one.check["test"]), scope)
        with pytest.raises(AssertionError):
            scope["check"](scope[one.check["entry_point"]])


def test_reference_chats_follow_their_own_rules(corpus):
    assert len({one.check["category"] for one in corpus["chat"]}) == 8
    for one in corpus["chat"]:
        (first, second), (rule, then) = one.answers, one.check["turns"]
        assert follows(first, rule, previous="")
        assert follows(second, then, previous=first)
        assert not follows("", rule, previous="")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"kind": "equals", "text": "Oslo"}, "oslo.", "Oslo, Norway"),
        ({"kind": "one_of", "texts": ["a", "b"]}, "B", "c"),
        ({"kind": "contains", "text": "cat"}, "My cat sleeps.", "A catalog."),
        ({"kind": "lacks", "text": "cat"}, "A catalog.", "The cat."),
        ({"kind": "starts", "text": "Today"}, "Today it rains.", "It rains today."),
        ({"kind": "ends", "text": "?"}, "Are you well?", "I am well."),
        ({"kind": "items", "count": 3, "separator": ","}, "a, b, c", "a, b"),
        ({"kind": "items", "count": 2, "separator": ",", "among": ["cat", "dog"]}, "Dog, cat.", "dog, cart"),
        ({"kind": "items", "count": 2, "separator": ";"}, "a; b", "a; a"),
        ({"kind": "lines", "count": 2}, "one\n\ntwo", "one"),
        ({"kind": "words", "count": 2}, "two words", "one"),
        ({"kind": "sentences", "count": 2}, "One. Two!", "Version 1.2 is one."),
        ({"kind": "number", "value": -3}, "It is -3.", "3"),
        ({"kind": "upper"}, "HELLO", "Hello"),
        ({"kind": "lower"}, "hello", "Hello"),
        ({"kind": "new"}, "fox", "cow"),
        ({"kind": "previous", "change": "upper"}, "COW, ANT 4", "Cow, ant 4"),
        ({"kind": "previous", "change": "sorted"}, "ant 4, cow", "cow, ant 4"),
        ({"kind": "previous_number", "operator": "+", "by": 5}, "9", "10"),
        ({"kind": "previous_number", "operator": "-", "by": 5}, "-1", "1"),
        ({"kind": "previous_number", "operator": "*", "by": 5}, "20", "4"),
        ({"kind": "all", "rules": [{"kind": "upper"}, {"kind": "words", "count": 1}]}, "HI", "HI ALL"),
    ],
)
def test_rules(rule, good, bad):
    assert follows(good, rule, previous="cow, ant 4")
    assert not follows(bad, rule, previous="cow, ant 4")


def test_every_kind_of_rule_is_used_or_tested_and_unknown_ones_are_refused():
    with pytest.raises(ValueError, match="no rule of the kind 'rhymes'"):
        follows("x", {"kind": "rhymes"}, previous="")
    with pytest.raises(ValueError, match="no change called 'sung'"):
        change("x", "sung")
    assert follows("no number before", {"kind": "previous_number", "operator": "+", "by": 5}, previous="") is False
    assert CHECKS.keys() >= {"equals", "contains", "items", "upper", "starts"}
    assert [change("b, a.", how) for how in CHANGES] == [
        "B, A.",
        "b, a.",
        "a, b",
        "a, b",
        "b",
        "a",
        "b; a",
        "a",
        "b,",
        "b, a!",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "plain words",
        "  two  blanks \n\n\tand a tab \n",
        "x = 12 + 345*6 - 7",
        "caf\u00e9 na\u00efve \u4f60\u597d \U0001f600 \u0663",
        f"{USER}\nhi\n{ASSISTANT}\nyou{END}",
        "don't , stop . 's",
        "\r\n\x00",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tokenizer_is_small_and_splits_digits(tokenizer):
    assert len(tokenizer) == VOCABULARY
    ids = tokenizer("2026 + 81 = 2107").input_ids
    digits = [token for token in tokenizer.convert_ids_to_tokens(ids) if any(c.isdigit() for c in token)]
    assert digits == list("2026812107")
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)]


def test_specials_and_chat_template(tokenizer):
    end = tokenizer.convert_tokens_to_ids(END)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == tokenizer.bos_token_id == end
    assert end not in tokenizer("no specials").input_ids
    first = {"role": "user", "content": "Name a color."}
    asked = tokenizer.apply_chat_template([first], tokenize=False, add_generation_prompt=True)
    assert asked == chat_prefix("Name a color.")
    more = [first, {"role": "assistant", "content": "red"}, {"role": "user", "content": "And one more."}]
    whole = tokenizer.apply_chat_template(more, tokenize=False, add_generation_prompt=True)
    assert whole == f"{asked}red{END}{chat_prefix('And one more.')}"


def test_training_batches_hold_whole_documents(tokenizer):
    found = documents("dev", dict.fromkeys(KINDS, 30), 0, tokenizer)
    assert found == documents("dev", dict.fromkeys(KINDS, 30), 0, tokenizer)
    assert all(one.ids[-1] == tokenizer.eos_token_id and one.weights[-1] >= 1.0 for one in found)
    stream, rows = batches(found, 1000, seed=0), 0
    while rows < len(found):
        ids, weight = next(stream)
        assert ids.shape == weight.shape
        assert ids.numel() < 1100
        rows += len(ids)
    assert rows == len(found)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_training_by_steps_is_repeatable_and_can_go_on(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "TRAIN", dict.fromkeys(KINDS, 20))
    monkeypatch.setattr(train, "HELD_OUT", dict.fromkeys(KINDS, 2))
    monkeypatch.setattr(train, "SAMPLES", {"chat": 2, "edit": 2})
    monkeypatch.setattr(samples, "LONGEST", 8)
    monkeypatch.setattr(train, "TOKENS", 256)
    monkeypatch.setattr(train, "new_tokenizer", lambda seed: tokenizer)
    found = []
    for name, more in (("one", []), ("two", []), ("three", ["--start", str(tmp_path / "one"), "--rate", "0.5"])):
        train.main(["--out", str(tmp_path / name), "--steps", "2", "--draft-share", "0.5", "--workers", "1", *more])
        found.append([(tmp_path / name / model / "model.safetensors").read_bytes() for model in train.SHAPES])
        assert sorted(folder.name for folder in (tmp_path / name).iterdir()) == sorted(train.SHAPES)
    assert found[0] == found[1] != found[2]
    facts = json.loads((tmp_path / "three" / "nano" / "training.json").read_text())
    assert facts["curve"][-1]["step"] == facts["went_on_from"]["curve"][-1]["step"] == 2
    assert set(KINDS) < set(facts["curve"][-1])


@pytest.mark.usefixtures("one_thread")
def test_the_draft_learns_from_what_the_target_wrote(tokenizer, monkeypatch):
    monkeypatch.setattr(samples, "LONGEST", 5)
    monkeypatch.setattr(samples, "TOGETHER", 2)
    torch.manual_seed(0)
    model = train.build("nano-draft", tokenizer)
    found = list(samples.samples(model, tokenizer, {"chat": 2, "math": 2}, seed=3))
    chat, word_problem = problems("chat", "train", 2, seed=3)[0], problems("math", "train", 2, seed=3)[0]
    assert tokenizer.decode(found[0].ids).startswith(chat_prefix(chat.turns[0]))
    assert chat_prefix(chat.turns[1]) in tokenizer.decode(found[0].ids)
    prompt = tokenizer(word_problem.turns[0]).input_ids
    first = torch.tensor([prompt])
    alone = model.generate(first, attention_mask=torch.ones_like(first), do_sample=False, max_new_tokens=5,
                           eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
    assert list(found[2].ids) == alone[0].tolist(), "beside another text, the answer is the same"
    assert list(found[2].weights) == pytest.approx([0.1] * len(prompt) + [1.0] * (len(found[2].ids) - len(prompt)))
    assert [list(one.ids) for one in samples.samples(model, tokenizer, {"chat": 2, "math": 2}, seed=3)] == [
        list(one.ids) for one in found]


@pytest.mark.parametrize(("more", "message"), [
    (["--steps", "0"], "--steps must be above 0"), (["--minutes", "-1"], "--minutes must be above 0"),
    (["--workers", "0"], "--workers must be above 0"), (["--start", "nowhere"], "nowhere does not hold the trained"),
])
def test_bad_options_of_the_trainer_are_one_sentence(more, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--out", str(tmp_path / "out"), *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_attention_for_training_makes_its_mask_where_the_query_is():
    query = torch.empty(1, 2, 4, 8, device="meta")
    mixed, _ = attention.causal_attention(torch.nn.Module(), query, query, query, None, 1.0)
    assert (mixed.device.type, mixed.shape) == ("meta", (1, 4, 2, 8))


@pytest.mark.slow
def test_workers_add_up_and_agree(tmp_path):
    launch(partial(write_team, tmp_path), 2)
    assert (tmp_path / "0").read_text() == "3.0 5.0 True 2"
    assert (tmp_path / "1").read_text() == "3.0 5.0 False 2"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", train.SHAPES)
def test_shipped_models_load_in_fp32_and_share_a_tokenizer(name):
    model = AutoModelForCausalLM.from_pretrained(weights(name), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights(name))
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(weights("nano")).get_vocab()
    assert tokenizer.decode(tokenizer("a  b , 12 \u00e9").input_ids) == "a  b , 12 \u00e9"
    assert model.config.vocab_size == len(tokenizer) == VOCABULARY
    assert model.config.num_key_value_heads == model.config.num_attention_heads
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    logits = model(torch.tensor([tokenizer("Question: How many").input_ids])).logits
    assert logits.shape[-1] == VOCABULARY
    assert bool(logits.isfinite().all())


@pytest.mark.usefixtures("one_thread")
def test_shipped_target_solves_a_problem_it_has_never_seen():
    model = AutoModelForCausalLM.from_pretrained(weights("nano"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights("nano"))
    solved = 0
    for one in problems("math", "test", 3):
        ids = tokenizer(one.turns[0], return_tensors="pt").input_ids
        written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=120)
        solved += tokenizer.decode(written[0, ids.shape[1] :]).endswith(f"#### {one.check['answer']}{END}")
    assert solved >= 1
