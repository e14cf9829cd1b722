"""Grammars over other strategies: what they allow, that they change nothing else, and that every answer obeys them."""

import builtins
import json
import math
from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from harness.decoding.grammar import Matching
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText, Strategy
from tests.chances import chi_square
from tests.decode import decode, engine, spelled
from tests.models import EOS, prompts, tiny_model
from tests.pair import VOCAB
from tests.scale import scaled

END, A, B, C, AB = range(5)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}, "n": {"enum": [1, 12]}},
          "required": ["name", "n"], "additionalProperties": False}


def small() -> PreTrainedTokenizerFast:
    """Five tokens: the end, a, b, c, ab."""
    raw = Tokenizer(models.BPE({"</s>": END, "a": A, "b": B, "c": C, "ab": AB}, [("a", "b")]))
    raw.decoder = ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


def request(tokenizer: Any, prompt: Sequence[int] = (A,), schema: str = "", new: int = 8, sample: int = 0) -> Request:
    text = RequestText("", lambda text: [], lambda text: [], lambda tokens: "", lambda text: None, schema=schema,
                       tokenizer=tokenizer)
    return Request(tuple(prompt), new, PhiloxStream(0, sample), frozenset({tokenizer.eos_token_id}), sample, text=text)


def regex(pattern: str) -> str:
    from llguidance import LLMatcher

    grammar: str = LLMatcher.grammar_from_regex(pattern)
    return grammar


@cache
def target(seed: int = 0) -> Engine:
    return engine(tiny_model("llama", vocab=VOCAB, seed=seed))


def ascii_model(seed: int) -> Any:
    model = tiny_model("llama", seed=seed)
    with torch.no_grad():
        model.lm_head.weight[:2] = 0
        model.lm_head.weight[:2, 0] = -1e4
    return model


def text(tokens: Sequence[int]) -> str:
    whole: str = spelled().decode([token for token in tokens if token != EOS])
    return whole


def ended(spec: str, prompt: list[int], new: int = 60, sample: int = 0) -> list[int]:
    strategy = STRATEGIES.build(spec)
    draft = target(1) if "draft" in strategy.needs else None
    return decode(strategy, target(), prompt, draft=draft, new=new, sample=sample)


def test_the_language_of_a_regex_by_enumeration() -> None:
    """{a,b}*c on five tokens: after every sequence exactly the tokens that can go on to a word of the language."""
    matching = Matching(regex("[ab]*c"), request(small()))
    for size in range(4):
        for answer in product((A, B, C, AB), repeat=size):
            mask = matching.allowed(answer)
            if C in answer[:-1]:
                assert mask is None, "impossible answers are not restricted"
            else:
                assert mask is not None
                assert set(mask.nonzero()[0].tolist()) == ({END} if C in answer else {A, B, C, AB})
    assert matching.allowed((A, C, END)) is None


def test_the_probabilities_are_those_of_the_tokens_left() -> None:
    """Counted over all continuations of four tokens, alone and with drafts."""
    model = tiny_model("llama", vocab=5, sharpness=0.8, layers=2)
    on, small_one, draws = engine(model), engine(tiny_model("llama", vocab=5, seed=1, sharpness=0.8)), scaled(100, 600)
    ask, whole = partial(request, small(), (A, B)), Matching(regex("[ab]*c"), request(small(), (A, B)))

    @torch.inference_mode()
    def following(answer: tuple[int, ...]) -> list[float]:
        logits = model(torch.tensor([[A, B, *answer]])).logits[0, -1]
        mask = whole.allowed(answer)
        if mask is None:  # after the end, which the caller cuts
            return [1.0, 0.0, 0.0, 0.0, 0.0]
        probs: list[float] = logits.masked_fill(~torch.from_numpy(mask), -math.inf).softmax(-1).tolist()
        return probs
    for spec in ("temperature", "speculative:temperature=1,gamma=2"):
        strategy = STRATEGIES.build(f"{spec}+grammar:regex=[ab]*c")

        def drawn(sample: int, strategy: Strategy = strategy) -> list[int]:
            session, answer = Session(on, Session(small_one)), list[int]()
            for block in strategy.generate(session, ask(new=4, sample=sample)):
                answer += block
                if END in answer or len(answer) >= 4:
                    break
            session.close()
            answer = answer[:4]
            return answer if END not in answer else answer[:answer.index(END)] + [END] * (4 - answer.index(END))
        with torch.inference_mode():
            answers = run_batched([on, small_one], [partial(drawn, sample) for sample in range(draws)], 64)
        assert chi_square(answers, following) > 1e-3


@pytest.mark.parametrize("spec", ["greedy", "top_p:temperature=1.5", "min_p", "beam", "diverse_beam", "speculative",
                                  "prompt_lookup:temperature=1", "forced", "rsd_s:temperature=1", "best_of_n:n=3",
                                  "repetition_penalty", "lookahead"])
def test_every_answer_that_ends_fits_the_schema(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(SCHEMA))
    over = f"greedy+{spec}" if spec == "repetition_penalty" else spec
    answers = [ended(f"{over}+json_schema:file={path},spaces=False", prompt) for prompt in prompts(3, VOCAB, 2)]
    assert all(answer[-1] == EOS for answer in answers)
    for answer in answers:
        value = json.loads(text(answer))
        assert list(value) == ["name", "n"]
        assert len(value["name"]) <= 3
        assert value["n"] in (1, 12)


@pytest.mark.parametrize("spec", ["speculative:gamma=3", "prompt_lookup", "forced", "lookahead", "jacobi",
                                  "token_recycling"])
def test_drafts_change_no_token(spec: str, tmp_path: Path) -> None:
    path, steps = tmp_path / "s.json", 0
    path.write_text(json.dumps(SCHEMA))
    for prompt in prompts(4, VOCAB, 5):
        expected = ended(f"greedy+json_schema:file={path}", prompt)
        assert ended(f"{spec}+json_schema:file={path}", prompt) == expected
        steps += len(expected)
    assert steps > 40


@pytest.mark.parametrize("spec", ["greedy", "temperature", "beam", "speculative:temperature=1"])
def test_a_grammar_of_all_texts_changes_nothing(spec: str) -> None:
    """The tokens of this model but its end are the letters of ASCII: the first two have probability 0."""
    strategy, all_texts, same = STRATEGIES.build(spec), STRATEGIES.build(f"{spec}+grammar:regex=(?s:.*)"), 0
    on, draft = (engine(ascii_model(seed)) for seed in (0, 1))
    for number, prompt in enumerate(prompts(6, 97, 7)):
        free, bound = (decode(one, on, prompt, draft=draft if "draft" in one.needs else None, sample=number % 3)
                       for one in (strategy, all_texts))
        assert bound == free
        same += len(free)
    assert same > 30


def test_a_grammar_of_all_texts_allows_every_byte_of_a_character() -> None:
    matching, start = Matching(regex("(?s:.*)"), request(spelled())), list[int]()
    for token in spelled()("aé€😀\n\x00")["input_ids"]:
        mask = matching.allowed(tuple(start))
        assert mask is not None
        assert mask[token]
        assert mask[EOS] == ("\ufffd" not in text(start)), "the end comes after whole characters only"
        start.append(token)
    assert len(start) == 12


def test_a_batch_gets_what_each_gets_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(SCHEMA))
    for spec in ("greedy", "beam:width=3", "speculative:gamma=2,temperature=1"):
        strategy = STRATEGIES.build(f"{spec}+json_schema:file={path}")
        draft = target(1) if "draft" in strategy.needs else None
        jobs = [partial(decode, strategy, target(), prompt, draft=draft, new=30) for prompt in prompts(5, VOCAB, 3)]
        with torch.inference_mode():
            assert run_batched([target(), draft] if draft else [target()], jobs, 4) == [job() for job in jobs]


def test_states_are_a_function_of_the_sequence_alone() -> None:
    """Drafts that are rolled back, in any order, and with room for few states."""
    answers = [answer for size in range(5) for answer in product((A, B, C), repeat=size)]
    fresh = [Matching(regex("(ab|ba)*c"), request(small())).allowed(answer) for answer in answers]
    one = Matching(regex("(ab|ba)*c"), request(small()))
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(1)).tolist()
    for place in [*order, *order[::-1]]:
        mask, wanted = one.allowed(answers[place]), fresh[place]
        assert (mask is None) == (wanted is None)
        assert mask is None or wanted is None or (mask == wanted).all()
    assert sum(mask is not None for mask in fresh) > 10


def test_old_states_are_dropped_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.decoding.grammar.KEPT", 3)
    one, tokens = Matching(regex("a{0,9}"), request(small())), list[int]()
    for _ in range(9):
        mask = one.allowed(tuple(tokens))
        assert mask is not None
        assert mask[A]
        tokens.append(A)
    mask = one.allowed(tuple(tokens))
    assert mask is not None
    assert mask.nonzero()[0].tolist() == [END]
    assert len(one._states) == 3


def test_the_mask_comes_before_temperature_and_truncation() -> None:
    """Otherwise a nucleus of one token leaves none that the grammar allows."""
    for prompt in prompts(4, VOCAB, 1):
        assert ended("top_p:p=0+grammar:regex=[0-9][0-9]", prompt) == ended("greedy+grammar:regex=[0-9][0-9]", prompt)
        assert len(ended("top_k:k=1,temperature=2+grammar:regex=[0-9][0-9]", prompt)) == 3


def test_forced_tokens_are_drafted_and_accepted(tmp_path: Path) -> None:
    path = tmp_path / "g.lark"
    path.write_text('start: "hello" /[0-9]/ "world"\n')
    strategy, session = STRATEGIES.build(f"forced+grammar:file={path}"), Session(target())
    steps = []
    for block in strategy.generate(session, request(spelled(), [5, 6, 7], new=20)):
        steps.append(list(block))
        if EOS in block:
            break
    assert [len(step) for step in steps] == [1, 5, 6]
    assert text([*steps[0], *steps[1]]).startswith("hello")
    assert (session.work.drafted, session.work.accepted) == (9, 9)
    session.close()


def test_forced_without_a_grammar_drafts_nothing() -> None:
    prompt = prompts(1, VOCAB, 1)[0]
    assert ended("forced", prompt) == ended("greedy", prompt)


@pytest.mark.parametrize(("given", "file", "starts"), [
    ("", "", ('"', "{", "[", "-", "t")), (json.dumps(SCHEMA), "", ("{",)),
    (json.dumps(SCHEMA), '{"type": "array"}', ("[",))])
def test_whose_schema_counts(given: str, file: str, starts: tuple[str, ...], tmp_path: Path) -> None:
    """That of the knob, else that of the example, else any JSON."""
    path = tmp_path / "s.json"
    path.write_text(file)
    strategy: Any = STRATEGIES.build(f"json_schema:file={path}" if file else "json_schema")
    ask = request(spelled(), schema=given)
    mask = Matching(strategy.grammar(ask), ask).allowed(())
    assert mask is not None
    first = {text([token]) for token in mask.nonzero()[0].tolist()}
    assert set(starts) <= first
    assert len(starts) > 1 or len(first) == 1


def first_step(spec: str, asked: Request) -> None:
    session = Session(target())
    try:
        next(iter(STRATEGIES.build(spec).generate(session, asked)))
    finally:
        session.close()


@pytest.mark.parametrize(("spec", "content", "reason"), [
    ("grammar:file=missing", "", "missing cannot be read: No such file"), ("grammar", "", "give regex"),
    ("grammar:regex=a(", "", "The grammar cannot be used"),
    ("grammar:file={}", "start: x", "unknown name"), ("json_schema:file={}", "{", "is not JSON"),
    ("json_schema:file={}", "", "is not JSON"),
    ("json_schema:file={}", '{"uniqueItems": true}', "Unimplemented keys"),
    ("json_schema:file={}", '{"enum": []}', "Unsatisfiable schema")])
def test_wrong_grammars_are_refused_in_a_sentence(spec: str, content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as refused:
        first_step(spec.format(path), request(spelled()))
    assert "\n" not in str(refused.value)


def test_two_grammars_are_refused() -> None:
    with pytest.raises(UserError, match="not both"):
        STRATEGIES.build("grammar:regex=a,file=b")


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def refuse(name: str, *others: Any) -> Any:
        if name.startswith("llguidance"):
            raise ImportError(name)
        return known(name, *others)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(Unsupported, match=r"pip install 'decodebench\[grammar\]'"):
        first_step("grammar:regex=a", request(spelled()))


def test_a_row_without_tokens_is_an_error() -> None:
    """A model without the letter that must come, a warp that masks it, and tokens without text."""
    ask = request(spelled(), (5,))
    matching = Matching(regex("xyz"), ask)
    with pytest.raises(Unsupported, match="no token is left"):
        matching.warp(torch.zeros(1, 50), [[5]])
    with pytest.raises(Unsupported, match="no token is left"):
        matching.warp(torch.full((1, VOCAB), -math.inf), [[5]])
    with pytest.raises(Unsupported, match="as text"):
        Matching(regex("a"), Request((5,), 3, PhiloxStream(0)))


def test_a_strategy_that_ignores_the_mask_is_refused() -> None:
    matching = Matching(regex("[0-9]+x"), request(spelled(), (5,)))
    digit, letter = spelled()("1x")["input_ids"]
    assert matching.checked([digit], [digit, letter, EOS]) == [digit, letter, EOS]
    with pytest.raises(Unsupported, match="cannot obey a grammar"):
        matching.checked([], [letter])
    with pytest.raises(Unsupported, match="cannot obey a grammar"):
        matching.checked([digit], [EOS])


def test_rows_after_another_prompt_are_not_restricted() -> None:
    matching, logits = Matching(regex("1"), request(spelled(), (5, 6))), torch.zeros(2, VOCAB)
    warped: Tensor = matching.warp(logits, [[7, 8], [5, 6]])
    assert torch.equal(warped[0], logits[0])
    assert int((warped[1] > -math.inf).sum()) == 1
