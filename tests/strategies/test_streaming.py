"""Streaming and windows against a plain computation that keeps keys without rotation, one token at a time."""

from collections.abc import Callable, Sequence
from functools import cache
from math import pi

import pytest
import torch
from torch import Tensor

from harness.decoding.governed import GovernedCache
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.streaming import Streaming
from strategies.window import Window
from tests.by_hand import by_hand, rotated, weighted
from tests.decode import decode, engine
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def reference(text: Sequence[int], seen: Callable[[int], list[int]], on: Engine) -> Tensor:
    """The logits after each token of `text`, which sees the keys of tokens `seen` in these places."""
    def attend(layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        kept = seen(keys.shape[1] - 1)
        places = torch.arange(len(kept))
        return weighted(rotated(query, places[-1:]), rotated(keys[:, kept], places), values[:, kept])

    return by_hand(text, attend, on)[0]


def forced(policy: GovernedCache, text: Sequence[int], first: int, on: Engine, at_once: int = 1
           ) -> tuple[Tensor, Session]:
    """The logits after each token of `text` from number `first` − 1 on, read `at_once` together after the first."""
    session, found = Session(on), list[Tensor]()
    with session.with_cache_policy(policy.policy()), torch.inference_mode():
        for end in range(first, len(text) + 1, at_once):
            session.follow(text[:end])
            found.append(session.read().logits[0])
    return torch.stack(found), session


def ends(step: int, sinks: int, window: int) -> list[int]:
    return [token for token in range(step + 1) if token < sinks or token >= step - window]


def test_what_a_token_sees() -> None:
    """Golden: with two sinks and a window of three, token 5 sees all, token 6 all but 2, in places 0 to 5."""
    assert ends(5, 2, 3) == [0, 1, 2, 3, 4, 5]
    assert ends(6, 2, 3) == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize(("sinks", "window"), [(2, 3), (4, 9), (0, 5)])
def test_streaming_is_the_cache_that_rotates_keys_by_their_place_in_it(arch: str, sinks: int, window: int) -> None:
    on, policy = target(arch), Streaming(over=STRATEGIES.build("greedy"), sinks=sinks, window=window, whole=False)
    wanted = reference(TEXT[:60], lambda step: ends(step, sinks, window), on)
    found, session = forced(policy, TEXT[:60], 1, on)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert session.row.end <= sinks + 2 * window + 1
    assert session.work.positions == 60, "no token is read twice"
    session.close()


def test_a_whole_prompt_is_read_before_anything_is_dropped() -> None:
    on, policy = target(), Streaming(over=STRATEGIES.build("greedy"), sinks=2, window=6)
    wanted = reference(TEXT[:50], lambda step: list(range(step + 1)) if step < 30 else ends(step, 2, 6), on)
    found, session = forced(policy, TEXT[:50], 30, on)
    torch.testing.assert_close(found, wanted[29:], rtol=1e-3, atol=1e-3)
    session.close()


def test_tokens_read_together_see_what_they_see_one_by_one() -> None:
    on, policy = target(), Streaming(over=STRATEGIES.build("greedy"), sinks=2, window=6, whole=False)
    one, first = forced(policy, TEXT, 7, on)
    many, second = forced(policy, TEXT, 7, on, at_once=7)
    torch.testing.assert_close(many, one[::7], rtol=1e-3, atol=1e-3)
    first.close()
    second.close()


def test_a_sequence_that_fits_is_that_of_the_other_strategy() -> None:
    prompt = TEXT[:20]
    for over in ("greedy", "temperature", "beam:width=3", "prompt_lookup"):
        plain = decode(STRATEGIES.build(over), target(), prompt, new=20, eos=None)
        for name in ("streaming", "window"):
            assert decode(STRATEGIES.build(f"{over}+{name}:window=40"), target(), prompt, new=20, eos=None) == plain


def test_drafts_are_verified_as_if_they_were_decoded_one_by_one() -> None:
    prompt = TEXT[:20]
    for knobs in ("streaming:sinks=2,window=5", "window:window=5", "streaming:sinks=1,window=7,whole=False"):
        alone = decode(STRATEGIES.build(f"greedy+{knobs}"), target(), prompt, new=60, eos=None)
        assert alone != decode(STRATEGIES.build("greedy"), target(), prompt, new=60, eos=None)
        for over in ("prompt_lookup", "token_recycling", "suffix_decoding"):
            assert decode(STRATEGIES.build(f"{over}+{knobs}"), target(), prompt, new=60, eos=None) == alone


def test_the_branches_of_a_search_leave_out_what_has_left_the_window() -> None:
    prompt = TEXT[:40]
    plain = decode(STRATEGIES.build("beam:width=3"), target(), prompt, new=20, eos=None)
    for knobs in ("streaming:sinks=2,window=5", "window:window=5"):
        assert decode(STRATEGIES.build(f"beam:width=3+{knobs}"), target(), prompt, new=20, eos=None) != plain
    alone = decode(STRATEGIES.build("greedy+streaming:sinks=2,window=5"), target(), prompt, new=20, eos=None)
    assert decode(STRATEGIES.build("beam:width=1+streaming:sinks=2,window=5"), target(), prompt, new=20,
                  eos=None) == alone


def test_a_text_may_be_longer_than_the_context_of_the_model() -> None:
    on = Engine(tiny_model("llama"), 64)
    session, tokens = Session(on), list[int]()
    for block in STRATEGIES.build("streaming:sinks=2,window=20").generate(
            session, Request(tuple(TEXT[:30]), 300, PhiloxStream(0))):
        tokens += block
        assert session.row.end <= 2 + 2 * 20 + 1
        if len(tokens) == 300:
            break
    assert on.cache.slots <= 256
    session.close()


def test_the_keys_that_tokens_attend_to_are_counted() -> None:
    on = target()
    for policy, sinks in ((Streaming(over=STRATEGIES.build("greedy"), sinks=2, window=6, whole=False), 2),
                          (Window(over=STRATEGIES.build("greedy"), window=6, whole=False), 0)):
        _, session = forced(policy, TEXT[:60], 1, on, at_once=1)
        counts = session.work.compute.numbers()
        assert counts["keys"] == 2 * sum(len(ends(step, sinks, 6)) for step in range(60)), "in two layers"
        assert counts["all_keys"] == 2 * sum(range(1, 61))
        session.close()


def test_what_was_dropped_is_read_again_if_the_sequence_goes_back() -> None:
    on, policy = target(), Streaming(over=STRATEGIES.build("greedy"), sinks=2, window=5, whole=False)
    session = Session(on)
    with session.with_cache_policy(policy.policy()), torch.inference_mode():
        for end in (10, 20, 30, 40):
            session.follow(TEXT[:end])
            session.read()
        session.follow([*TEXT[:12], *TEXT[20:22]])
        found = session.read().logits[0]
    wanted, other = forced(policy, [*TEXT[:12], *TEXT[20:22]], 14, on)
    torch.testing.assert_close(found, wanted[0], rtol=1e-3, atol=1e-3)
    session.close()
    other.close()


@pytest.mark.parametrize("arch", ["gpt2", "opt"])
def test_models_without_rotary_embeddings_are_refused(arch: str) -> None:
    with pytest.raises(Unsupported, match="rotary"):
        decode(STRATEGIES.build("streaming"), target(arch), TEXT[:5])


def test_two_policies_are_refused() -> None:
    with pytest.raises(Unsupported, match="another strategy that governs the KV cache"):
        decode(STRATEGIES.build("streaming+window"), target(), TEXT[:5])


def test_the_angles_of_this_test_are_those_of_a_quarter_turn() -> None:
    found = rotated(torch.tensor([[1.0, 0.0]]), torch.tensor([pi / 2]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0]]))
