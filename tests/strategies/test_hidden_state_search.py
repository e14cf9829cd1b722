"""Keys and values improved by gradients: steps against those of torch's own Adam, and what they may not touch."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from harness.engine.batching import run_batched
from harness.engine.engine import Engine, cache_argument
from harness.engine.gradients import state_gradient
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.models.products import use_fast_products
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.parts.optimised import Optimised
from tests.decode import decode, engine, traced
from tests.models import prompts, tiny_model

ARCHS = ("llama", "qwen2", "gpt2", "opt")
TEXT = [token for prompt in prompts(12, 97, 8) for token in prompt][:40]
KNOBS = "rate=0.3,window=6,slots=9,steps=2"


@cache
def target(arch: str = "llama") -> Engine:
    model = tiny_model(arch, layers=2)
    use_fast_products(model)
    return engine(model)


class ByTorch:
    """The same on a plain cache, where each token's key and value are parameters of an Adam of their own."""

    def __init__(self, arch: str, rate: float, window: int, slots: int, steps: int) -> None:
        self.model, self.window, self.slots, self.steps = tiny_model(arch, layers=2), window, slots, steps
        self.rate, self.states, self.tokens = rate, list[list[Tensor]](), list[int]()
        self.optimisers = list[torch.optim.Adam]()

    def cache(self, count: int) -> DynamicCache:
        made = DynamicCache()
        for layer in range(2):
            made.update(*(torch.cat([token[2 * layer + kind] for token in self.states[:count]], 2) for kind in (0, 1)),
                        layer)
        return made

    def forward(self, tokens: Sequence[int], first: int) -> tuple[Tensor, DynamicCache]:
        cache = self.cache(first) if first else DynamicCache()
        out = self.model(torch.tensor([list(tokens)]), **{cache_argument(self.model): cache}, use_cache=True,
                         position_ids=torch.arange(first, first + len(tokens))[None])
        return out.logits[0], cache

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read tokens, and return the logits after each."""
        with torch.no_grad():
            logits, cache = self.forward(tokens, len(self.tokens))
        for place in range(len(self.tokens), len(self.tokens) + len(tokens)):
            self.states.append([states[:, :, place:place + 1].clone().requires_grad_()
                                for layer in cache.layers for states in (layer.keys, layer.values)])
            self.optimisers.append(torch.optim.Adam(self.states[-1], lr=self.rate))
        self.tokens += tokens
        return logits

    def learn(self, start: int) -> None:
        if not start:
            return
        tokens = self.tokens[start:start + self.window]
        for _ in range(self.steps):
            for optimiser in self.optimisers:
                optimiser.zero_grad()
            logits, _ = self.forward(tokens, start)
            functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:])).backward()
            for optimiser in self.optimisers[max(0, start - self.slots):start]:
                optimiser.step()


def by_torch(arch: str, prompt: Sequence[int], new: int, own: bool) -> list[int]:
    known, window = ByTorch(arch, 0.3, 6, 9, 2), 6
    for start in range(0, len(prompt), window):
        logits = known.read(prompt[start:start + window])
        if start + window <= len(prompt):
            known.learn(start)
    found = [int(logits[-1].argmax())]
    while len(found) < new:
        logits = known.read(found[-1:])
        if own and len(known.tokens) % window == 0:
            known.learn(len(known.tokens) - window)
        found.append(int(logits[-1].argmax()))
    return found


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("arch", ARCHS)
def test_texts_are_those_of_torchs_own_adam(arch: str, own: bool) -> None:
    differ = 0
    for prompt in (TEXT, TEXT[5:35], TEXT[3:20]):
        found = decode(STRATEGIES.build(f"greedy+hidden_state_search:{KNOBS},own={own}"), target(arch), prompt, new=14,
                       eos=None)
        assert found == by_torch(arch, prompt, 14, own)
        differ += found != decode(STRATEGIES.build("greedy"), target(arch), prompt, new=14, eos=None)
    assert differ


@pytest.mark.parametrize("over", ["greedy", "top_p:p=0.8", "beam:width=3", "prompt_lookup", "best_of_n:n=2"])
def test_without_a_rate_or_a_second_window_it_is_the_other_strategy(over: str) -> None:
    plain = STRATEGIES.build(over)
    for spec, prompt in (("rate=0", TEXT), ("rate=0.3,window=25", TEXT), ("rate=0.3,window=5", TEXT[:9])):
        assert decode(STRATEGIES.build(f"{over}+hidden_state_search:{spec}"), target(), prompt) == decode(
            plain, target(), prompt)
    changed = decode(STRATEGIES.build(f"{over}+hidden_state_search:rate=2,window=5,steps=3"), target(), TEXT)
    assert changed != decode(plain, target(), TEXT)


def test_drafts_do_not_change_the_text() -> None:
    for prompt in (TEXT, TEXT[4:]):
        assert decode(STRATEGIES.build(f"prompt_lookup+hidden_state_search:{KNOBS}"), target(), prompt * 2) == decode(
            STRATEGIES.build(f"greedy+hidden_state_search:{KNOBS}"), target(), prompt * 2)


@torch.inference_mode()
def test_a_window_is_scored_before_it_is_learnt_and_its_loss_falls_after_it() -> None:
    window, scores = 8, list[Tensor]()
    with closing(Session(target())) as session, closing(Session(target())) as plain:
        policy = Optimised(0.01, window, 100, 1, session.work, 1 << 62)
        plain.follow(TEXT[:1])
        static = plain.read(TokenTree.chain(TEXT[1:])).logits
        with session.with_cache_policy(policy):
            session.follow(TEXT[:1])
            for start in range(1, len(TEXT), window):
                scores.append(session.read(TokenTree.chain(TEXT[start:start + window])).logits)
                session.keep(range(len(TEXT[start:start + window])))
        assert torch.allclose(torch.cat([part[1:] for part in scores[:2]]), static[1:1 + 2 * window], atol=1e-4)
        assert not torch.allclose(scores[2][1:], static[1 + 2 * window:1 + 3 * window], atol=1e-4)
        session.follow([])
        with session.with_cache_policy(policy):
            for end in (8, 16):
                session.follow(TEXT[:end])
                session.read()
            losses = list[Tensor]()
            for _ in range(2):
                states = target().cache.contents(session.row.index, 8)
                losses.append(state_gradient(target(), states, 0, TEXT[8:16])[0])
                session.follow(TEXT[:17])
                session.read()  # makes the step
    static_losses = functional.cross_entropy(static[8:15], torch.tensor(TEXT[9:16]), reduction="none")
    assert torch.allclose(losses[0], static_losses, atol=1e-4)
    assert losses[1].mean() < losses[0].mean() - 0.01


class Stop(Exception):
    """Raised in the middle of a step."""


@pytest.mark.parametrize("broken", [False, True])
def test_model_and_other_sequences_are_as_before_whatever_happens(broken: bool, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    own = engine(tiny_model("qwen2", layers=2))
    before = [(weight, weight.clone()) for weight in own.model.parameters()]
    beside = Session(own)
    beside.follow(TEXT)
    beside.read()
    states = own.cache.contents(beside.row.index, len(TEXT))
    layer = own.parts.layers[1].whole
    forward, calls = layer.forward, list[int]()

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if broken and len(calls) == 7:
            raise Stop
        return forward(*args, **kwargs)
    session, method = Session(own), STRATEGIES.build(f"hidden_state_search:{KNOBS}")
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", failing)
        steps = iter(method.generate(session, Request(tuple(TEXT), 20, PhiloxStream(0))))
        if broken:
            with pytest.raises(Stop):
                next(steps)
        else:
            next(steps)
    session.close()
    assert all(torch.equal(weight, copy) and weight.grad is None for weight, copy in before)
    assert not any("forward" in module.__dict__ for module in own.model.modules())
    for found, known in zip(own.cache.contents(beside.row.index, len(TEXT)), states, strict=True):
        assert all(map(torch.equal, found, known))
    beside.close()
    assert own.open_rows == 0


@torch.inference_mode()
def test_several_answers_at_once_are_those_alone() -> None:
    method = STRATEGIES.build(f"greedy+hidden_state_search:{KNOBS},own=True")
    jobs = [partial(decode, method, target(), TEXT[start:], new=9) for start in (0, 3, 8, 21)]
    assert run_batched([target()], jobs, 4) == [job() for job in jobs]


def test_forwards_of_steps_are_counted() -> None:
    """A prompt of 20 tokens has three windows of 6, and two of them have something to learn from, in two steps each."""
    before = target().positions
    _, work, _ = traced(STRATEGIES.build(f"greedy+hidden_state_search:{KNOBS}"), target(), TEXT[:20], new=3, eos=None)
    assert work.forwards == 3 + 1 + 2 * 2 + 2
    assert work.positions == 20 + 2 * 2 * 6 + 2 == target().positions - before
