"""A rounded KV cache: the numbers, which of them are rounded when, and that none is rounded twice."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from harness.engine.cache_policy import CachePolicy
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from strategies.kv_quant import Rounding, UnrotatedRounding
from tests.decode import decode, engine
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt][:60]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def read(policy: CachePolicy | None, ends: Sequence[int], text: Sequence[int] = TEXT) -> tuple[Tensor, list[Tensor]]:
    """The logits after the text, read up to each of `ends` in turn, and the keys and values (2, G, S, D) by layer."""
    session = Session(target())
    if policy:
        session._sequence.policy = policy
    for end in ends:
        session.follow(text[:end])
        logits = session.read().logits[0]
    contents = [torch.stack(pair) for pair in target().cache.contents(session.row.index, ends[-1])]
    session.close()
    return logits, contents


def test_four_numbers_in_two_and_in_four_bits() -> None:
    for bits, numbers, wanted in ((2, (0.0, 1.0, 2.0, 7.0), (0.0, 0.0, 2.3333, 7.0)),
                                  (4, (-1.0, -0.3, 0.2, 2.0), (-1.0, -0.2, 0.2, 2.0))):
        found = Rounding(bits, 32, 0, True).of_tokens(torch.tensor([numbers]))
        torch.testing.assert_close(found, torch.tensor([wanted]), rtol=0, atol=1e-4)


def test_keys_are_rounded_along_tokens_and_values_along_channels() -> None:
    """One channel is a hundred times as large; only its own numbers may lose by it."""
    states = torch.randn(1, 2, 16, 8, generator=torch.Generator().manual_seed(0))
    states[..., 3] *= 100
    policy, others = Rounding(4, 8, 0, True), [0, 1, 2, 4, 5, 6, 7]
    by_channel, by_token = policy.of_keys(states), policy.of_tokens(states)
    assert (by_channel - states)[..., others].abs().max() < 0.2
    assert (by_token - states)[..., others].abs().max() > 2
    torch.testing.assert_close(Rounding(4, 8, 0, False).of_keys(states), by_token, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_number_moves_by_half_a_step_at_most_and_only_once(bits: int) -> None:
    states = torch.randn(1, 2, 20, 12, generator=torch.Generator().manual_seed(1))
    for by_channel in (True, False):
        policy, dim = Rounding(bits, 8, 0, by_channel), 2 if by_channel else 3
        found = policy.of_keys(states)
        for part, before in zip(found.split(8, dim), states.split(8, dim), strict=True):
            step = (before.amax(dim, True) - before.amin(dim, True)) / (2**bits - 1)
            assert ((part - before).abs() <= step / 2 + 1e-5).all()
        torch.testing.assert_close(policy.of_keys(found), found)


def test_groups_of_equal_numbers_stay_as_they_are() -> None:
    states = torch.full((1, 1, 4, 4), 0.7)
    assert Rounding(2, 4, 0, True).of_keys(states).equal(states)


def changed(policy: Rounding, ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """The slots whose keys, and whose values, in the first layer differ from exact ones."""
    difference = (read(policy, ends)[1][0] - read(None, ends)[1][0]).abs().amax((1, 3))
    keys, values = [(row > 1e-5).nonzero()[:, 0].tolist() for row in difference]
    return keys, values


def test_which_tokens_stay_exact() -> None:
    """Keys leave eight at a time, values one by one; what the last forward read is not rounded yet."""
    for count, keys, values in ((8, 0, 0), (9, 8, 0), (10, 8, 1), (16, 8, 7), (17, 16, 8), (18, 16, 9)):
        found = changed(Rounding(2, 4, 8, True), range(1, count + 1))
        assert found == (list(range(keys)), list(range(values))), count
    assert changed(Rounding(2, 4, 8, True), [30, 31])[0] == list(range(24))
    assert changed(Rounding(2, 4, 8, False), [30, 31])[0] == list(range(22))
    assert changed(Rounding(2, 4, 0, True), [30, 31])[0] == list(range(28))
    assert changed(Rounding(2, 4, 6, True), [30, 31])[0] == list(range(24)), "whole groups"


@pytest.mark.parametrize("policy", [Rounding(2, 4, 8, True), Rounding(2, 4, 3, False),
                                    UnrotatedRounding(2, 4, 8, True)])
def test_what_is_rounded_stays_as_it_is(policy: Rounding) -> None:
    early, late = read(policy, [30, 31])[1], read(policy, [30, *range(31, 50)])[1]
    for before, after in zip(early, late, strict=True):
        assert before[:, :, :22].equal(after[:, :, :22])


def test_the_model_reads_the_rounded_cache() -> None:
    """Against a sequence whose slots were overwritten by hand."""
    policy, session = Rounding(2, 4, 8, True), Session(target())
    session.follow(TEXT[:30])
    session.read()
    cache, row = target().cache, session.row.index
    contents = cache.contents(row, 30)
    cache.fill(row, [(torch.cat([policy.of_keys(keys[None, :, :24])[0], keys[:, 24:]], 1),
                      torch.cat([policy.of_tokens(values[:, :22]), values[:, 22:]], 1)) for keys, values in contents])
    session.follow(TEXT[:31])
    wanted = session.read().logits[0]
    session.close()
    found = read(policy, [30, 31])[0]
    torch.testing.assert_close(found, wanted)
    assert (found - read(None, [31])[0]).abs().max() > 0.1


def test_keys_before_their_rotation() -> None:
    """In the first layer they do not depend on the position, so the same group of tokens is rounded in the same way."""
    text = [*TEXT[:4] * 3, 5]
    policy = UnrotatedRounding(2, 4, 4, True)
    contents = read(policy, [12, 13], text)[1][0][0]
    places = torch.arange(12)[None]
    plain = target().rotary.turned(0, contents[None, :, :12], -places)[0]
    torch.testing.assert_close(plain[:, :4], plain[:, 8:], rtol=1e-4, atol=1e-4)
    rotated = read(Rounding(2, 4, 4, True), [12, 13], text)[1][0][0]
    plain = target().rotary.turned(0, rotated[None, :, :12], -places)[0]
    assert (plain[:, :4] - plain[:, 8:]).abs().max() > 0.05


def test_a_sequence_that_goes_back_is_read_again() -> None:
    text, policy = [*TEXT[:20], *TEXT[30:32]], Rounding(2, 4, 4, True)
    session = Session(target())
    session._sequence.policy = policy
    for sequence in (TEXT[:20], *(TEXT[:end] for end in range(21, 30)), text):
        session.follow(sequence)
        found = session.read().logits[0]
    session.close()
    torch.testing.assert_close(found, read(policy, [22], text)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("over", ["greedy", "temperature", "beam:width=3", "prompt_lookup"])
def test_an_exact_cache_is_the_other_strategy(over: str) -> None:
    prompt = TEXT[:20]
    plain = decode(STRATEGIES.build(over), target(), prompt, new=20, eos=None)
    for knobs in ("bits=16,residual=0", "bits=2,residual=40", "bits=2,residual=40,keys=token", "bits=8,group=8"):
        assert decode(STRATEGIES.build(f"{over}+kv_quant:{knobs}"), target(), prompt, new=20, eos=None) == plain
    assert decode(STRATEGIES.build(f"{over}+kv_quant:bits=2,group=4,residual=0"), target(), prompt, new=20,
                  eos=None) != plain


def test_only_unrotated_keys_need_rotary_embeddings() -> None:
    assert decode(STRATEGIES.build("kv_quant:residual=4"), target("gpt2"), TEXT[:10], new=4, eos=None)
    with pytest.raises(Unsupported, match="rotary"):
        decode(STRATEGIES.build("kv_quant:rotated=False"), target("gpt2"), TEXT[:10])
