"""Edits of a cached prompt: the edits of tokens, what they cost, and how near the answer is to that of a fresh read."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from random import Random

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.nano import weights
from harness.plugins.data import DataSource
from harness.plugins.prompt_parts import PLAIN, Edit, PromptParts, Span
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.strategy import Request
from strategies.pie import before, edits
from tests.decode import decode, engine, words
from tests.models import prompts, tiny_model
from tests.scale import scaled

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt][:30]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def answer(spec: str, prompt: Sequence[int], parts: PromptParts, new: int = 20) -> tuple[list[int], int]:
    """The answer and the tokens that the model read for it."""
    session, tokens = Session(target()), list[int]()
    request = Request(tuple(prompt), new, PhiloxStream(0, 1), text=replace(words(prompt, 97), parts=parts))
    for step in STRATEGIES.build(spec).generate(session, request):
        tokens += step
        if len(tokens) >= new:
            break
    session.close()
    return tokens[:new], session.work.positions


def without(first: int, last: int) -> PromptParts:
    """The edit that put tokens `first` … `last` − 1 into the text."""
    parts = TEXT[:first], TEXT[first:last], TEXT[last:]
    start, new, end = ("".join(f" t{token}" for token in part) for part in parts)
    return PromptParts((start + end)[1:], (Edit(Span(len(start) - 1, len(start) - 1), new),))


def test_edits_turn_one_sequence_into_the_other_from_left_to_right() -> None:
    random = Random(0)
    for _ in range(200):
        old = [random.randrange(6) for _ in range(random.randrange(1, 20))]
        new = list(old)
        for _ in range(random.randrange(3)):
            first = random.randrange(len(new) + 1)
            new[first:first + random.randrange(3)] = [random.randrange(6) for _ in range(random.randrange(3))]
        done = list(old)
        for first, last, tokens in edits(old, new):
            assert done[:first] == new[:first]
            done[first:last] = tokens
        assert done == new
    assert edits([1, 2, 3, 4, 5], [1, 9, 3, 4, 7, 8]) == [(1, 2, [9]), (4, 5, [7, 8])]
    assert edits([1, 2, 3, 4, 5], [1, 4, 5]) == [(1, 3, [])]
    assert edits([4, 4, 4], [4, 4, 4, 4]) == [(3, 3, [4])]


@pytest.mark.parametrize("over", ["greedy", "temperature", "beam:width=3", "prompt_lookup"])
def test_without_edits_or_with_edits_at_the_end_it_is_the_other_strategy(over: str) -> None:
    plain = answer(over, TEXT, PLAIN)[0]
    for parts in (PLAIN, without(26, 30)):
        for mode in ("turned", "conflict"):
            assert answer(f"{over}+pie:mode={mode}", TEXT, parts)[0] == plain
    assert answer(f"{over}+pie:mode=conflict", TEXT, without(5, 12))[0] != plain


def test_only_new_tokens_and_the_last_one_are_computed_again() -> None:
    plain = answer("greedy", TEXT, PLAIN, 1)[1]
    assert plain == len(TEXT) == 30
    for first, last in ((5, 12), (20, 21)):
        count = last - first
        assert answer("pie", TEXT, without(first, last), 1)[1] == (30 - count) + count + 1


def test_stale_continues_the_old_prompt() -> None:
    old = [*TEXT[:5], *TEXT[12:]]
    assert answer("pie:mode=stale", TEXT, without(5, 12))[0] == decode(
        STRATEGIES.build("greedy"), target(), old, new=20, eos=None)


def test_the_old_prompt_is_found_within_a_chat() -> None:
    text = replace(words(TEXT[:4], 97), prompt="t50 t1 t2 t3 t60", parts=PromptParts("t1 t7 t2 t3", (
        Edit(Span(3, 6), ""),)))
    assert before(text) == [50, 1, 7, 2, 3, 60]
    with pytest.raises(Unsupported, match="contains the edited text"):
        before(replace(text, prompt="t50 t1 t2 t60"))


def test_learned_positions_cannot_be_turned() -> None:
    with pytest.raises(Unsupported, match="rotary"):
        decode(STRATEGIES.build("pie"), target("gpt2"), TEXT)


@torch.inference_mode()
def test_turned_keys_hardly_change_what_nano_writes() -> None:
    """The divergence of the next token from that of a fresh read; keys that are not turned change it a lot."""
    tokenizer = AutoTokenizer.from_pretrained(weights("nano"))
    on = Engine(AutoModelForCausalLM.from_pretrained(weights("nano"), dtype=torch.float32), 1024)

    def after(old: Sequence[int], new: Sequence[int], turned: bool) -> Tensor:
        session = Session(on)
        session.follow(old)
        session.read()
        for edit in edits(old, new):
            session.edit(*edit, turned=turned)
        logits = session.read().logits[0]
        session.close()
        return logits.log_softmax(-1)

    found = {True: list[float](), False: list[float]()}
    for one in islice(TASKS.build("nano_edit_prompt:kind=delete").examples(DataSource()), scaled(6, 24)):
        old, new = (tokenizer(text)["input_ids"] for text in (one.gold["earlier"], one.turns[0]))
        wanted = after(new, new, True)
        for turned, values in found.items():
            values.append(float((wanted.exp() * (wanted - after(old, new, turned))).sum()))
    assert max(found[True]) < 1e-3
    assert sum(found[False]) / len(found[False]) > 0.1
