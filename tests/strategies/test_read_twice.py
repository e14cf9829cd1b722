"""Prompts whose context is read several times: the text, its tokens, and the strategies below."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from harness.backends.transformers import open_session
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.errors import Unsupported, UserError
from harness.models.loading import Model, load
from harness.models.prompts import encode, request_text
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from harness.plugins.task import Message
from strategies.greedy import Greedy
from strategies.read_twice import ReadTwice
from tests.decode import decode, engine
from tests.models import MAX_POSITIONS, prompts, tiny_model

PROMPT = "Text: Tom found a hat.\nHe lost a kite.\nSummary of Tom:"


@cache
def nano() -> Model:
    return load("nano")


def asked(prompt: str | list[Message], new: int = 12) -> Request:
    tokens = encode(nano(), prompt)
    rule = StopRule(nano().tokenizer, tokens, nano().eos, ())
    return Request(tuple(tokens), new, PhiloxStream(0), nano().eos, text=request_text(nano(), prompt, rule, str))


@torch.inference_mode()
def written(strategy: Strategy, request: Request, target: Engine | None = None) -> list[int]:
    session, tokens = open_session(strategy, [target or nano().engine]), list[int]()
    try:
        for block in strategy.generate(session, request):
            tokens += block
            if len(tokens) >= request.max_new_tokens:
                break
        return tokens
    finally:
        session.close()


@pytest.mark.parametrize(("copies", "first", "expected"), [
    (2, True, "Q:\nA.\nB.\nA.\nB.\nQ:"), (2, False, "A.\nB.\nA.\nB.\nQ:"), (3, False, "A.\nB.\nA.\nB.\nA.\nB.\nQ:")])
def test_the_context_is_repeated_and_the_question_ends_the_prompt(copies: int, first: bool, expected: str) -> None:
    method = ReadTwice(over=Greedy(), copies=copies, question_first=first)
    assert method.again("A.\nB.\nQ:") == expected
    assert method.again("A.\nB.\nQ:\n") == expected + "\n", "line breaks at the end stay there"


def test_a_single_line_is_repeated_whole() -> None:
    assert ReadTwice(over=Greedy()).again("Write a list.") == "Write a list.\nWrite a list."


def test_in_a_chat_the_last_message_of_the_user_is_repeated() -> None:
    chat: list[Message] = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."},
                           {"role": "user", "content": "A.\nQ?"}]
    request = ReadTwice(over=Greedy()).repeated(asked(chat))
    assert request.as_text.prompt.count("Hi?") == request.as_text.prompt.count("Yes.") == 1
    assert "Q?\nA.\nA.\nQ?" in request.as_text.prompt
    assert request.prompt == tuple(encode(nano(), [*chat[:2], {"role": "user", "content": "Q?\nA.\nA.\nQ?"}]))
    again = request.as_text.edited(str.lower).prompt
    assert again == request.as_text.prompt.replace("Q?\nA.\nA.\nQ?", "q?\na.\na.\nq?"), "an edit of an edit"


def test_the_answer_is_that_to_the_repeated_prompt() -> None:
    text = "Summary of Tom:\nText: Tom found a hat.\nHe lost a kite.\nText: Tom found a hat.\nHe lost a kite.\n" \
           "Summary of Tom:"
    assert written(ReadTwice(over=Greedy()), asked(PROMPT)) == written(Greedy(), asked(text))
    assert written(ReadTwice(over=Greedy()), asked(PROMPT)) != written(Greedy(), asked(PROMPT))


def test_tokens_that_belong_to_the_answer_stay_behind_the_prompt() -> None:
    method, request = ReadTwice(over=Greedy()), asked(PROMPT)
    whole = written(method, request)
    assert written(method, request.behind(whole[:5])) == whole[5:]


@pytest.mark.parametrize("over", ["greedy", "beam:width=3", "top_p:p=0.9", "speculative", "prompt_lookup", "typical"])
def test_a_single_copy_is_the_other_strategy(over: str) -> None:
    target = engine(tiny_model("llama"))
    for prompt in prompts(3, 97, 2):
        one, other = STRATEGIES.build(f"{over}+read_twice:copies=1"), STRATEGIES.build(over)
        assert decode(one, target, prompt, draft=target) == decode(other, target, prompt, draft=target)


@pytest.mark.parametrize("over", ["beam:width=3", "speculative", "greedy+no_repeat_ngram:n=2"])
def test_other_strategies_read_the_repeated_prompt(over: str) -> None:
    """One line of tokens in text is repeated whole."""
    target = engine(tiny_model("llama"))
    for prompt in prompts(3, 97, 2):
        found = decode(STRATEGIES.build(f"{over}+read_twice"), target, prompt, draft=target)
        assert found == decode(STRATEGIES.build(over), target, prompt * 2, draft=target)


def test_a_warp_outside_is_refused_because_it_does_not_know_the_prompt() -> None:
    with pytest.raises(Unsupported, match="must come last"):
        decode(STRATEGIES.build("greedy+read_twice+no_repeat_ngram:n=2"), engine(tiny_model("llama")), [5, 6, 7])


def test_what_does_not_fit_is_refused_before_anything_is_read() -> None:
    target, prompt = engine(tiny_model("llama")), [5 + i % 50 for i in range(MAX_POSITIONS // 2 - 9)]
    assert decode(ReadTwice(over=Greedy()), target, prompt, new=18) == decode(Greedy(), target, prompt * 2, new=18)
    with pytest.raises(UserError, match="lower copies"):
        decode(ReadTwice(over=Greedy()), target, prompt, new=19)
    with pytest.raises(Unsupported, match="only its token ids"):
        written(ReadTwice(over=Greedy()), replace(asked(PROMPT), text=None))


def test_both_readings_are_counted() -> None:
    request, method = asked(PROMPT, 1), ReadTwice(over=Greedy(), question_first=False)

    def positions(strategy: Strategy) -> int:
        session = open_session(strategy, [nano().engine])
        session.shares_prefixes = False
        with torch.inference_mode():
            next(iter(strategy.generate(session, request)))
        session.close()
        return session.work.positions

    def length(text: str) -> int:
        return len(encode(nano(), text))
    context = PROMPT.rpartition("\n")[0]
    assert positions(method) == length(f"{context}\n{PROMPT}")
    assert positions(Greedy()) == length(PROMPT)
