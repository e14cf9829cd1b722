"""Additional sequences, copies of a session, logit warps, and the values that a hook captures in a forward."""

from collections.abc import Sequence
from functools import cache, partial
from random import Random

import pytest
import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import HIDDEN, Watch
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from tests.decode import decode, engine
from tests.models import ARCHS, prompts, tiny_model

TREE = TokenTree((9, 4, 17, 30), (-1, 0, 0, 2))


@cache
def target(arch: str, seed: int = 0) -> Engine:
    return engine(tiny_model(arch, seed=seed, layers=2))


@torch.inference_mode()
def states(arch: str, text: Sequence[int]) -> tuple[Tensor, ...]:
    out = target(arch).model(torch.tensor([list(text)]), output_hidden_states=True)
    return tuple(state[0] for state in out.hidden_states)


@pytest.mark.parametrize("arch", ARCHS)
@torch.inference_mode()
def test_a_plan_sees_the_states_that_transformers_returns(arch: str) -> None:
    session, text, parts = Session(target(arch)), prompts(1, 97, 3)[0], target(arch).parts
    session.follow(text)
    reading = session.read(TREE, Watch(("hidden:0", "hidden:1", "hidden:-1", "mlp:-1")))
    paths = [[], *([TREE.tokens[n] for n in TREE.path(node)] for node in range(len(TREE)))]
    for row, path in enumerate(paths):
        expected = states(arch, [*text, *path])
        for layer in (0, 1):
            assert torch.allclose(reading.captured(f"hidden:{layer}")[row], expected[layer][-1], atol=1e-4)
        assert torch.allclose(parts.norm(reading.captured("hidden:-1")[row]), expected[-1][-1], atol=1e-3)
    assert torch.allclose(parts.head(parts.norm(reading.captured("hidden:-1"))), reading.logits, atol=1e-3)
    assert reading.captured("mlp:-1").shape == (5, parts.embedding.embedding_dim)
    with pytest.raises(KeyError):
        session.read(TREE).captured("hidden:0")
    session.close()
    assert target(arch).open_rows == 0


@pytest.mark.parametrize("norm", [False, True])
@torch.inference_mode()
def test_early_exits_of_a_batch_are_those_of_each_sequence(norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of different lengths, so that the last tokens of some are before padding."""
    parts, watch, calls = target("llama").parts, Watch(names := ("hidden:0", "hidden:1")), list[int]()
    texts, head = [text[:length] for text, length in zip(prompts(4, 97, 9), (9, 2, 5, 9), strict=True)], parts.head

    def exits(text: list[int]) -> Tensor:
        session = Session(target("llama"))
        session.follow(text)
        out = session.read(EMPTY, watch).exits(names, parts, norm)
        session.close()
        return out

    def counted(states: Tensor) -> Tensor:
        calls.append(states.shape[0])
        return head(states)
    monkeypatch.setattr(type(parts), "head", property(lambda _: counted))
    found = run_batched([target("llama")], [partial(exits, text) for text in texts])
    assert calls == [4], "one product for the batch"
    for out, text in zip(found, texts, strict=True):
        early = torch.stack([state[-1] for state in states("llama", text)[:2]])
        torch.testing.assert_close(out, head(parts.norm(early) if norm else early), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_what_is_seen_side_by_side_is_what_is_seen_alone() -> None:
    def seen(text: list[int]) -> Tensor:
        session = Session(target("opt"))
        session.follow(text)
        reading = session.read(TREE, Watch(("hidden:1", "mlp:0")))
        out = torch.cat([reading.captured("hidden:1"), reading.captured("mlp:0")])
        session.close()
        return out
    jobs = [partial(seen, text) for text in prompts(5, 97, 8)]
    for one, other in zip(run_batched([target("opt")], jobs), [job() for job in jobs], strict=True):
        assert isinstance(one, Tensor)
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "opt"])
@torch.inference_mode()
def test_a_copy_goes_on_by_itself(arch: str) -> None:
    random, text = Random(5), prompts(1, 97, 2)[0]
    first = Session(target(arch), Session(target(arch, 1)), remember=(HIDDEN,))
    first.follow(text)
    first.draft.follow(text)
    first.draft.read()
    first.read(TREE)
    first.keep([0, 2])  # moves slots that the copy must see moved
    before = first.work.positions
    second = first.fork()
    assert (second.tokens, second.work) == (first.tokens, first.work)
    for session in (first, second, second.draft):
        more = [random.randrange(3, 97) for _ in range(3)]
        session.follow([*session.tokens, *more])
        expected = target(arch, 1 if session is second.draft else 0).model(torch.tensor([session.tokens])).logits[0, -1]
        assert torch.allclose(session.read().logits[0], expected, atol=2e-4)
    assert first.work.positions == before + 6  # the copy has read nothing of the common text again
    assert len(second.memory) == len(first.memory) == len(text) + 5
    second.close()
    second.close()
    third = first.new_sequence()
    third.follow(text[:2])
    third.read()
    assert first.work.positions == before + 8
    first.close()
    assert target(arch).open_rows == target(arch, 1).open_rows == 0


def banned(tokens: Sequence[int], logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Forbid `tokens`, and any token that stands in the last ten places."""
    logits = logits.clone()
    for row, text in enumerate(texts):
        logits[row, [*tokens, *text[-10:]]] = -torch.inf
    return logits


def greedy_by_hand(text: list[int], new: int) -> list[int]:
    written = list[int]()
    while len(written) < new and 2 not in written:
        logits = target("llama").model(torch.tensor([text + written])).logits[:, -1].float()
        written.append(int(banned([3, 5], logits, [text + written]).argmax()))
    return written


class Bent(Greedy):
    def __init__(self, inner: object) -> None:
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "needs", inner.needs)

    def generate(self, session, request):  # type: ignore[no-untyped-def]
        with session.with_logit_warp(partial(banned, [3, 5])):
            yield from self.inner.generate(session, request)


@pytest.mark.parametrize("inner", [Greedy(), Beam(width=1), Speculative()], ids=lambda inner: inner.name)
@torch.inference_mode()
def test_what_is_bent_is_bent_for_every_method(inner: object) -> None:
    for prompt in prompts(3, 97, 4):
        expected = greedy_by_hand(prompt, 20)
        small = target("llama", 1) if inner.needs else None
        assert decode(Bent(inner), target("llama"), prompt, draft=small, new=20) == expected


def test_a_logit_warp_ends_with_its_context() -> None:
    session = Session(target("llama"))
    session.follow(prompts(1, 97, 4)[0])
    plain = session.read().logits
    with session.with_logit_warp(partial(banned, [3])), session.with_logit_warp(partial(banned, [5])):
        bent = session.read(EMPTY)
        assert bent.logits[0, [3, 5]].isinf().all()
        assert bent.best == [int(bent.logits.argmax())]
        assert session.new_sequence()._warp is not None
    assert torch.equal(session.read().logits, plain)
    session.close()
