"""Saguaro: the tokens of speculative decoding, what is foreseen, its forwards, and its distribution for any factor."""

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor

from benchmarks.ssd import modelled
from harness.backends.transformers import open_session
from harness.decoding.accept import at, rejection
from harness.decoding.loop import draft_and_verify
from harness.engine.engine import Engine
from harness.engine.logit_warps import identity
from harness.engine.random_stream import CPU, PhiloxStream, Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from strategies.ssd import Branch, Foreseeing, Ssd, favouring
from tests.chances import MASS, PROMPT, VOCAB, by_token, target
from tests.chances import draft as small_draft
from tests.decode import decode, engine, traced
from tests.law.test_accept import one_position
from tests.models import prompts, tiny_model
from tests.scale import scaled

PROMPTS = [prompt * 2 for prompt in prompts(scaled(2, 4), 97, 1)]


@cache
def model(seed: int = 0) -> Engine:
    return engine(tiny_model("llama", seed=seed, layers=2))


def run(strategy: Ssd, prompt: Sequence[int], new: int, draft: Engine, stream: Stream | None = None, room: int = 0,
        target: Engine | None = None) -> tuple[list[int], Foreseeing, Session]:
    """Return the tokens, the drafter with its counts, and the closed session; `room` tokens more could follow."""
    session, tokens = open_session(strategy, [target or model(), draft]), list[int]()
    request = Request(tuple(prompt), new + room, stream or PhiloxStream(0))
    drafter = strategy.drafter(session, request)
    for step in draft_and_verify(session, drafter, at(strategy.temperature, strategy.rule()), request,
                                 strategy.logit_warp()):
        tokens += step
        if len(tokens) >= new:
            break
    session.close()
    return tokens[:new], drafter, session


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_without_a_fan_it_is_speculative_decoding(temperature: float) -> None:
    for prompt in PROMPTS[:1]:
        for c in (1.0, 0.5):  # the factor of no token
            one, other = (traced(strategy, model(), prompt, draft=model(1), new=24, eos=None) for strategy in (
                Speculative(temperature=temperature, p=0.9), Ssd(fan=0, temperature=temperature, p=0.9, c=c)))
            assert one == other


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_with_all_tokens_every_outcome_is_foreseen(temperature: float) -> None:
    for seed in range(scaled(2, 8)):
        strategy = Ssd(fan=VOCAB, gamma=2, temperature=temperature, p=MASS)
        tokens, drafter, session = run(strategy, PROMPT, 20, small_draft(), PhiloxStream(seed), room=9, target=target())
        assert drafter.hits == drafter.outcomes
        assert sum(drafter.outcomes) == session.work.forwards - 2 > 3  # the prompt, and the last step
        assert temperature or tokens == decode(Greedy(), target(), PROMPT, new=20, eos=None)


@pytest.mark.parametrize(("fan", "miss", "seed"), [(1, "draft", 1), (3, "draft", 1), (3, "none", 1), (2, "draft", 0)])
def test_the_tokens_are_those_of_greedy_and_drafts_those_of_speculative(fan: int, miss: str, seed: int) -> None:
    """A draft that was made ahead is the one that would be made now."""
    for prompt in PROMPTS:
        expected = decode(Greedy(), model(), prompt, new=24, eos=None)
        tokens, drafter, session = run(Ssd(fan=fan, miss=miss), prompt, 24, model(seed))
        assert tokens == expected
        assert all(hits <= count for hits, count in zip(drafter.hits, drafter.outcomes, strict=True))
        plain = traced(Speculative(), model(), prompt, draft=model(seed), new=24, eos=None)[1]
        if miss == "draft":
            assert session.work == plain
        else:
            assert session.work.drafted < plain.drafted
    assert seed or drafter.hits == drafter.outcomes == [0, 0, 0, 0, sum(drafter.outcomes)]


class Keyed:
    """A stream whose decisions depend on what is decided only, so that their order does not matter."""

    def _share(self, numbers: bytes) -> float:
        return int.from_bytes(hashlib.blake2b(numbers, digest_size=8).digest(), "little") / 2**64

    def coin(self, chance: float) -> bool:
        return self._share(f"{chance:.4f}".encode()) < chance

    def choose(self, weights: Tensor) -> int:
        total = weights.double().cumsum(0)
        share = self._share(str(int(weights.argmax())).encode())
        return min(int(torch.searchsorted(total, share * total[-1])), len(total) - 1)

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        raise NotImplementedError

    def branch(self, number: int) -> "Keyed":
        return self


def test_the_tokens_of_speculative_decoding_under_common_noise() -> None:
    hits, outcomes = 0, 0
    for fan, prompt in product((1, 2, VOCAB), ([3, 4, 5, 3, 4], [5, 5, 3], [4, 3, 3])):
        plain = decode(Speculative(temperature=0.8, gamma=3), target(), prompt, draft=small_draft(), new=20, eos=None,
                       stream=Keyed())
        tokens, drafter, _ = run(Ssd(temperature=0.8, gamma=3, fan=fan), prompt, 20, small_draft(), Keyed(),
                                 target=target())
        assert tokens == plain
        hits, outcomes = hits + sum(drafter.hits), outcomes + sum(drafter.outcomes)
    assert 20 < hits < outcomes


def test_forwards_of_the_draft_model() -> None:
    """Each step reads the chain and grows gamma levels; a miss takes gamma forwards more, as does the first draft."""
    gamma = 3
    for prompt in PROMPTS:
        for seed in (0, 1):
            _, drafter, session = run(Ssd(gamma=gamma, fan=2), prompt, 20, model(seed), room=20)
            steps, misses = session.work.forwards - 1, sum(drafter.outcomes) - sum(drafter.hits)
            assert sum(drafter.outcomes) == steps - 1
            assert (misses > 0) == (seed == 1)
            assert session.draft_work.forwards == steps * (gamma + 1) + (1 + misses) * gamma
            assert session.draft_work.positions > steps * (gamma + 1) * 2 * gamma


def test_foreseen_tokens_are_the_likeliest_but_the_drafted() -> None:
    session = open_session(Ssd(), [model(), model(1)])
    prompt, fan, gamma = PROMPTS[0], 3, 2
    drafter = Ssd(fan=fan, gamma=gamma).drafter(session, Request(tuple(prompt), 40, PhiloxStream(0)))
    drafted = decode(Greedy(), model(1), prompt, new=2, eos=None)
    branches = drafter.ahead(prompt, TokenTree.chain(drafted), 30)
    other = Session(model(1))
    for k in range(gamma + 1):
        other.follow([*prompt, *drafted[:k]])
        best = other.read().logits[0].topk(fan + 1).indices.tolist()
        expected = [token for token in best if k == gamma or token != drafted[k]][:fan]
        assert [token for accepted, token in branches if accepted == k] == expected
    for (k, token), branch in branches.items():
        assert branch.tokens == decode(Greedy(), model(1), [*prompt, *drafted[:k], token], new=gamma, eos=None)
    other.close()
    session.close()


def test_nothing_is_drafted_beyond_the_end() -> None:
    session = open_session(Ssd(), [model(), model(1)])
    drafter = Ssd(gamma=3).drafter(session, Request(tuple(PROMPTS[0]), 40, PhiloxStream(0)))
    for limit, lengths in ((5, (3, 3, 2, 1)), (3, (2, 1)), (1, ())):
        branches = drafter.ahead(PROMPTS[0], TokenTree.chain([5, 6, 7][:limit]), limit)
        assert [next(len(each.tokens) for each in branches.values() if each.accepted == k)
                for k in range(len(lengths))] == list(lengths)
        assert max((branch.accepted for branch in branches.values()), default=-1) == len(lengths) - 1
    session.close()


def test_the_factor() -> None:
    """Acceptance stays at 0.9, and the residual moves from tokens that may be drafted to one that is foreseen."""
    p, q = (0.4, 0.35, 0.2, 0.05), (0.5, 0.3, 0.15, 0.05)
    scaled_q = favouring(2, 0.5)(torch.tensor([q], dtype=torch.float64).log(), []).softmax(-1)[0]
    assert scaled_q.tolist() == pytest.approx([0.41667, 0.25, 0.25, 0.08333], abs=1e-5)
    assert float(torch.minimum(torch.tensor(p), torch.tensor(q)).sum()) == pytest.approx(0.9)
    assert float(torch.minimum(torch.tensor(p), scaled_q).sum()) == pytest.approx(0.9)
    for draft, expected in ((torch.tensor(q, dtype=torch.float64), [0, 0.5, 0.5, 0]), (scaled_q, [0, 1, 0, 0])):
        rest = (torch.tensor(p, dtype=torch.float64) - draft).clamp_min(0)
        assert (rest / rest.sum()).tolist() == pytest.approx(expected, abs=1e-7)
    emitted, accepted = one_position(rejection, 1, True, p, tuple(scaled_q.tolist()))
    assert emitted == pytest.approx(p)
    assert accepted == pytest.approx(0.9)
    assert favouring(2, 1.0) is favouring(0, 0.5) is identity


def test_the_model_of_the_time() -> None:
    tokens = sum(0.8**k for k in range(5))
    assert [modelled(tokens, hits, 0.3) for hits in (0, 0.5, 0.8, 1)] == pytest.approx(
        [2.5858, 2.9231, 3.1713, 3.3616], abs=1e-4)
    assert modelled(tokens, 1, 0.3, branches=1.5) == pytest.approx(tokens / 1.5)


@pytest.mark.parametrize(("miss", "c"), [("draft", 0.3), ("none", 1.0)])
def test_the_distribution_is_kept(miss: str, c: float) -> None:
    assert by_token(Ssd(fan=2, gamma=3, miss=miss, c=c, temperature=0.8, p=0.9), small_draft) > 1e-3


def test_drafts_verified_with_another_distribution_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Foreseeing._grow

    def shifted(self: Foreseeing, sequence: Sequence[int], tree: TokenTree, live: Sequence[Branch]) -> None:
        original(self, sequence, tree, live)
        for branch in live:
            branch.probs[-1] = branch.probs[-1].roll(2)
    monkeypatch.setattr(Foreseeing, "_grow", shifted)
    assert by_token(Ssd(fan=VOCAB, gamma=1, temperature=0.8, p=0.9), small_draft, draws=300) < 1e-6
