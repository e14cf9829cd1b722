"""Sets of texts that all begin at one place: places, masks, and answers of the model itself for every order."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import permutations

import pytest
import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.engine import PREFILL, Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.prompt_parts import PLAIN, PromptParts, Span
from harness.plugins.strategy import Request, Strategy
from strategies.greedy import Greedy
from strategies.parts.places import Layout, pieces
from strategies.set_based_prompting import SetBasedPrompting
from strategies.top_p import TopP
from tests.decode import decode, engine, words
from tests.models import prompts, tiny_model

ARCHS = ("llama", "qwen2", "gpt2", "opt")
BEFORE, MEMBERS, AFTER = [5, 6, 7], [[20, 21], [30, 31, 32, 33], [40, 41, 42]], [9, 8]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def text(tokens: Sequence[int]) -> str:
    return " ".join(f"t{token}" for token in tokens)


def marked(before: Sequence[int], members: Sequence[Sequence[int]], after: Sequence[int]) -> str:
    inside = "<|split_2d|>".join(map(text, members))
    return f"{text(before)} <|start_2d|>{inside}<|end_2d|> {text(after)}"


def written(method: Strategy, target: Engine, prompt: str, new: int = 10, sample: int = 0,
            parts: PromptParts = PLAIN) -> list[int]:
    told = replace(words([5], 97), prompt=prompt, parts=parts)
    session, found = Session(target), list[int]()
    request = Request(tuple(told.encode(prompt)), new, PhiloxStream(0, sample), text=told)
    try:
        for block in method.generate(session, request):
            found += block
            if len(found) >= new:
                return found
    finally:
        session.close()
    return found


def test_the_places_of_the_sheet() -> None:
    layout = Layout()
    layout.add([1, 1, 1])
    layout.add_set([[3] * 2, [4] * 4])
    layout.add([5])
    assert layout.places == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    assert layout.next == 8
    layout.add_set([[9], [8, 8]])
    assert (layout.places[10:], layout.tokens[10:], layout.next) == ([8, 9, 8], [8, 8, 9], 10), "members are sorted"
    seen = ~layout.hidden() & torch.ones(13, 13, dtype=torch.bool).tril()
    assert seen[4].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert seen[6].nonzero()[:, 0].tolist() == [0, 1, 2, 5, 6]
    assert seen[9].nonzero()[:, 0].tolist() == list(range(10))
    assert seen[12].nonzero()[:, 0].tolist() == [*range(10), 12]


def test_a_prompt_is_split_at_its_marks() -> None:
    assert pieces("a <|start_2d|>b<|split_2d|> c<|end_2d|> d<|start_2d|>e<|end_2d|>") == [
        "a ", ["b", " c"], " d", ["e"], ""]
    assert pieces("no sets") == ["no sets"]
    with pytest.raises(UserError, match="has no"):
        pieces("a <|start_2d|>b<|split_2d|>c")
    with pytest.raises(UserError, match="outside of a set"):
        pieces("a<|end_2d|> <|start_2d|>b<|end_2d|>")


@torch.inference_mode()
def by_model(arch: str, before: Sequence[int], members: Sequence[Sequence[int]], after: Sequence[int], new: int
             ) -> list[int]:
    """The answer of the model with an explicit mask and positions, without a cache, in the order given."""
    model, owner, places = tiny_model(arch, layers=2), [0] * len(before), list(range(len(before)))
    for number, member in enumerate(members, 1):
        owner += [number] * len(member)
        places += range(len(before), len(before) + len(member))
    ids = [*before, *(token for member in members for token in member)]
    start = len(before) + max(map(len, members))
    tail = list(after)
    while len(tail) < len(after) + new:
        owners = torch.tensor(owner + [-1] * len(tail))
        size = len(owners)
        seen = (owners[:, None] == owners) | (owners == 0) | (owners[:, None] == -1)
        seen &= torch.ones(size, size, dtype=torch.bool).tril()
        mask = torch.zeros(1, 1, size, size).masked_fill(~seen, torch.finfo(torch.float32).min)
        logits: Tensor = model(input_ids=torch.tensor([ids + tail]), attention_mask=mask, position_ids=torch.tensor(
            [places + list(range(start, start + len(tail)))])).logits
        tail.append(int(logits[0, -1].argmax()))
    return tail[len(after):]


@pytest.mark.parametrize("arch", ARCHS)
def test_every_order_has_one_answer_which_is_that_of_the_model(arch: str) -> None:
    orders = list(permutations(MEMBERS))
    found = {tuple(written(SetBasedPrompting(), target(arch), marked(BEFORE, order, AFTER))) for order in orders}
    assert len(found) == 1
    assert {tuple(by_model(arch, BEFORE, order, AFTER, 10)) for order in orders[::2]} == found


def test_members_that_the_task_names_need_no_marks() -> None:
    first, *others = map(text, MEMBERS)
    plain, places = f"{text(BEFORE)} {first}", [Span(len(text(BEFORE)) + 1, len(text(BEFORE)) + 1 + len(first))]
    for other in others:
        places.append(Span(len(plain), len(plain) + 1 + len(other)))
        plain += f" {other}"
    found = written(SetBasedPrompting(), target(), f"{plain} {text(AFTER)}", parts=PromptParts(members=tuple(places)))
    assert found == written(SetBasedPrompting(), target(), marked(BEFORE, MEMBERS, AFTER))


def test_in_plain_decoding_orders_have_different_answers() -> None:
    plain = {tuple(decode(Greedy(), target(), [*BEFORE, *(t for member in order for t in member), *AFTER], new=10,
                          eos=None)) for order in permutations(MEMBERS)}
    assert len(plain) > 1


@pytest.mark.parametrize("arch", ARCHS)
def test_a_single_member_and_no_set_are_plain_decoding(arch: str) -> None:
    for prompt in prompts(3, 97, 5):
        whole, middle = prompt * 2, len(prompt) // 2
        shown = marked(whole[:middle], [whole[middle:-1]], whole[-1:])
        expected = decode(Greedy(), target(arch), whole, new=10, eos=None)
        assert written(SetBasedPrompting(), target(arch), shown) == expected
        for sample in range(2):
            found = written(SetBasedPrompting(temperature=1.0, p=0.9), target(arch), shown, sample=sample)
            assert found == written(TopP(p=0.9), target(arch), text(whole), sample=sample)
        assert written(SetBasedPrompting(), target(arch), text(whole)) == expected


def test_two_sets_and_a_prompt_longer_than_a_chunk() -> None:
    """The second set is cut by the end of a chunk of the prefill."""
    before = (prompts(40, 97, 2)[3] * 200)[:PREFILL - 300]
    small = engine(tiny_model("llama", layers=2))
    long = [[10 + i % 80 for i in range(n)] for n in (150, 100, 190)]
    shown = marked(before, long, AFTER)
    small.max_len = 4096
    assert written(SetBasedPrompting(), small, shown, new=4) == by_model("llama", before, sorted(long), AFTER, 4)
    first = f"{marked(BEFORE, MEMBERS, AFTER)} <|start_2d|>t50 t51<|split_2d|>t60<|end_2d|> t61"
    second = f"{marked(BEFORE, MEMBERS[::-1], AFTER)} <|start_2d|>t60<|split_2d|>t50 t51<|end_2d|> t61"
    assert written(SetBasedPrompting(), target(), first) == written(SetBasedPrompting(), target(), second)


@torch.inference_mode()
def test_several_prompts_at_once_are_those_alone() -> None:
    shown = [marked(BEFORE, MEMBERS, AFTER), marked(BEFORE, MEMBERS[:2], AFTER), marked([5], MEMBERS, [6, 7])]
    jobs = [partial(written, SetBasedPrompting(temperature=1.0), target(), prompt, 8, sample)
            for prompt in shown for sample in range(2)]
    assert run_batched([target()], jobs, 6) == [job() for job in jobs]
    assert target().open_rows == 0


def test_tokens_that_belong_to_the_answer_follow_the_sets() -> None:
    prompt = marked(BEFORE, MEMBERS, AFTER)
    whole, told = written(SetBasedPrompting(), target(), prompt), replace(words([5], 97), prompt=prompt)
    request = Request((5, 6), 10, PhiloxStream(0), text=told).behind(whole[:4])
    session, found = Session(target()), list[int]()
    for block in SetBasedPrompting().generate(session, request):
        found += block
        if len(found) == 6:
            break
    session.close()
    assert found == whole[4:]
