"""Cache policies together with hooks that change a forward too."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from harness.engine.attention_hooks import MaskedHeads, WatchAttention
from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import CachedSequence
from harness.engine.engine import Engine
from harness.engine.heed import weights
from harness.engine.hooks import ForwardHook, Skip
from harness.engine.session import Session
from harness.errors import Unsupported
from strategies.streaming import Ends
from tests.decode import engine
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(3, 97, 1) for token in prompt]
SOME = MaskedHeads(frozenset({(0, 1), (1, 0), (1, 3)}), "zero")


@dataclass(frozen=True)
class Heeds(CachePolicy):
    """Notes the attention weights of all committed tokens."""

    heeds: ClassVar[bool] = True

    def learn(self, sequence: CachedSequence) -> None:
        sequence.row.state = list(weights(sequence, sequence.queries))


@cache
def target(arch: str = "llama", kind: str = "eager") -> Engine:
    model = tiny_model(arch, layers=2)
    model.set_attn_implementation(kind)
    return engine(model)


@torch.inference_mode()
def read(policy: CachePolicy, hook: ForwardHook | None) -> Tensor:
    session = Session(target())
    with session.with_cache_policy(policy):
        session.follow(TEXT)
        logits = session.read(hook=hook).logits
    session.close()
    return logits


@pytest.mark.parametrize("policy", [Heeds(), Ends(1, 5, False), Ends(20, 20, True)])
def test_a_hook_changes_attention_under_a_policy_too(policy: CachePolicy) -> None:
    if isinstance(policy, Ends) and policy.window == 5:
        assert not torch.allclose(read(policy, SOME), read(policy, None), atol=0.01)
        assert not torch.allclose(read(policy, SOME), read(CachePolicy(), SOME), atol=0.01)
    else:
        torch.testing.assert_close(read(policy, SOME), read(CachePolicy(), SOME))


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "opt"])
@torch.inference_mode()
def test_weights_are_those_with_which_the_model_attended(arch: str, kind: str) -> None:
    session, seen = Session(target(arch, kind)), WatchAttention((0, 1))
    with session.with_cache_policy(Heeds()):
        for first, last in ((0, 12), (12, 13), (13, 17)):
            session.follow(TEXT[:last])
            reading = session.read(hook=seen)
            session._sequence.settle(whole=True)
            for layer, found in enumerate(session.row.state):
                assert found.shape[2:] == (last - first, last)
                wanted = reading.captured(f"attention:{layer}")[0, :, :last]
                torch.testing.assert_close(found.flatten(0, 1)[:, -1], wanted, rtol=1e-4, atol=1e-5)
    session.close()


def test_a_policy_that_heeds_attention_needs_that_of_all_layers() -> None:
    with pytest.raises(Unsupported, match="leaves out the attention of a layer"):
        read(Heeds(), Skip(frozenset({1})))
    torch.testing.assert_close(read(Heeds(), Skip(mlp=frozenset({1}))), read(CachePolicy(), Skip(mlp=frozenset({1}))))
