"""A memory beside the context: against plain loops over heads and tokens, and what it is made of."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from strategies.extended_mind import Recall
from strategies.parts.states import States, read, windows
from tests.by_hand import by_hand, causal, rotated, weighted
from tests.decode import decode, engine, traced
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt]
DOCUMENT, PROMPT = TEXT[:25], TEXT[30:42]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def memory_of(*texts: Sequence[int], on: Engine | None = None, context: int = 100, stride: int = 50,
              special: Sequence[int] = ()) -> States:
    session = Session(on or target())
    found = read(session, texts, context, stride, special)
    session.close()
    return found


def found(policy: Recall, on: Engine, text: Sequence[int] = PROMPT) -> Tensor:
    """The logits after `text`, read in two parts."""
    session = Session(on)
    with session.with_cache_policy(policy):
        for end in (5, len(text)):
            session.follow(text[:end])
            logits = session.read().logits[0]
    session.close()
    return logits


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize(("k", "floor", "where"), [(1, -1.0, "all"), (3, -1.0, "upper"), (6, 0.25, "all"),
                                                   (100, -1.0, "all")])
def test_each_head_attends_to_its_most_similar_tokens(arch: str, k: int, floor: float, where: str) -> None:
    on = target(arch)
    known = by_hand(DOCUMENT, causal, on)[1]
    left_out = 0

    def attend(layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        nonlocal left_out
        places, heads = torch.arange(keys.shape[1]), list[Tensor]()
        query, keys = rotated(query, places[-1:]), rotated(keys, places)
        for head in range(len(query)):
            cosine = normalize(known[layer][0][head], dim=-1) @ normalize(query[head, 0], dim=0)
            best = [i for i in cosine.argsort(descending=True)[:k].tolist() if cosine[i] >= floor]
            left_out += len(cosine[:k]) - len(best)
            if where == "upper" and layer == 0:
                best = []
            more, kept = known[layer][0][head, best], known[layer][1][head, best]
            heads.append(weighted(query[head][None], torch.cat([more, keys[head]])[None],
                                  torch.cat([kept, values[head]])[None])[0])
        return torch.stack(heads)

    wanted = by_hand(PROMPT, attend, on)[0][-1]
    logits = found(Recall(memory_of(DOCUMENT, on=on), k, floor, where), on)
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-3)
    assert (logits - by_hand(PROMPT, causal, on)[0][-1]).abs().max() > 0.05
    assert bool(left_out) == (floor > -1)


def test_a_long_text_is_read_in_windows() -> None:
    assert list(windows(10, 4, 2)) == [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    assert list(windows(5, 4, 3)) == [(0, 0, 4), (3, 4, 5)]
    assert list(windows(4, 4, 2)) == [(0, 0, 4)]
    assert list(windows(9, 3, 5)) == [(0, 0, 3), (3, 3, 6), (6, 6, 9)], "no token is left out"
    states = memory_of(TEXT[:10], TEXT[50:53], context=4, stride=2)
    assert states.count == 13
    for slot, window, place in ((3, TEXT[:4], 3), (6, TEXT[4:8], 2), (9, TEXT[6:10], 3), (11, TEXT[50:53], 1)):
        alone = memory_of(window)
        for layer in (0, 1):
            torch.testing.assert_close(states.keys[layer][:, slot], alone.keys[layer][:, place], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(states.values[layer][:, slot], alone.values[layer][:, place], rtol=1e-3,
                                       atol=1e-4)


def test_special_tokens_are_read_but_not_kept() -> None:
    whole, less = memory_of([1, *TEXT[:5]]), memory_of([1, *TEXT[:5]], special=(0, 1, 2))
    assert (whole.count, less.count) == (6, 5)
    torch.testing.assert_close(whole.keys[1][:, 1:], less.keys[1])
    assert memory_of([1, 2], special=(1, 2)).count == 0


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.txt"
    path.write_text("\n".join(" ".join(f"t{token}" for token in line) for line in (TEXT[:12], TEXT[12:20])) + "\n")
    return path


@pytest.mark.parametrize("over", ["greedy", "temperature", "beam:width=3", "prompt_lookup"])
def test_without_a_memory_it_is_the_other_strategy(over: str, documents: Path) -> None:
    plain = decode(STRATEGIES.build(over), target(), PROMPT, new=20, eos=None)
    for knobs in (f"documents={documents},k=0", "last=12"):
        assert decode(STRATEGIES.build(f"{over}+extended_mind:{knobs}"), target(), PROMPT, new=20, eos=None) == plain
    for knobs in (f"documents={documents}", "last=6"):
        assert decode(STRATEGIES.build(f"{over}+extended_mind:{knobs}"), target(), PROMPT, new=20, eos=None) != plain


def test_drafts_are_verified_as_if_they_were_decoded_one_by_one(documents: Path) -> None:
    for knobs in (f"documents={documents}", "last=6,k=2"):
        alone = decode(STRATEGIES.build(f"greedy+extended_mind:{knobs}"), target(), PROMPT, new=40, eos=None)
        assert decode(STRATEGIES.build(f"prompt_lookup+extended_mind:{knobs}"), target(), PROMPT, new=40,
                      eos=None) == alone


def test_a_file_is_read_once_and_a_prompt_for_each_answer(documents: Path) -> None:
    on = engine(tiny_model("llama"))
    strategy = STRATEGIES.build(f"extended_mind:documents={documents}")
    first, work, _ = traced(strategy, on, PROMPT, new=5, eos=None)
    before = on.forwards
    assert traced(strategy, on, PROMPT, new=5, eos=None)[:2] == (first, work)
    assert (work.forwards, work.positions, on.forwards - before) == (5, len(PROMPT) + 4, 5)
    documents.write_text(" ".join(f"t{token}" for token in TEXT[60:70]))
    assert decode(strategy, on, PROMPT, new=5, eos=None) != first, "the file has changed"
    work = traced(STRATEGIES.build("extended_mind:last=4"), on, PROMPT, new=5, eos=None)[1]
    assert (work.forwards, work.positions) == (6, len(PROMPT) + 4)


@torch.inference_mode()
def test_prompts_side_by_side_share_the_memory_of_a_file(documents: Path) -> None:
    strategy, on = STRATEGIES.build(f"extended_mind:documents={documents}"), engine(tiny_model("llama"))
    jobs = [partial(decode, strategy, on, list(TEXT[i:i + 8]), new=10, eos=None) for i in range(0, 40, 8)]
    side_by_side = run_batched([on], jobs)
    before = on.forwards
    assert [job() for job in jobs] == side_by_side
    assert on.forwards == before + 50
    run_batched([on], jobs)
    assert on.forwards == before + 60


def test_the_first_special_token_of_a_prompt_also_begins_the_rest() -> None:
    session = Session(target())
    memory = read(session, [[1, *PROMPT[:6]]], 3072, 512, (0, 1, 2))
    session.close()
    wanted = found(Recall(memory, 12, -1.0, "all"), target(), [1, *PROMPT[6:]])
    tokens = decode(STRATEGIES.build("extended_mind:last=6"), target(), [1, *PROMPT], new=1, eos=None)
    assert tokens == [int(wanted.argmax())]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="has no text"):
        STRATEGIES.build(f"extended_mind:documents={tmp_path / 'empty'}")
    with pytest.raises(UserError, match="cannot be read"):
        STRATEGIES.build("extended_mind:documents=/no/such/file")
    with pytest.raises(Unsupported, match="rotary"):
        decode(STRATEGIES.build("extended_mind:last=2"), target("gpt2"), PROMPT)
