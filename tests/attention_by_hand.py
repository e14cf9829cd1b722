"""Policies that choose keys by attention, computed by hand: no key is ever dropped, and those left out are masked."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

from harness.engine.cache_policy import CachePolicy
from harness.engine.engine import Engine
from harness.engine.session import Session
from tests.models import prompts

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt]
PROMPT = 30


class Reference:
    """A model that reads a prompt, then one token at a time, and masks keys as a rule says."""

    def __init__(self, on: Engine) -> None:
        self.on, self.seen, self.sums = on, dict[int, Tensor](), dict[int, Tensor]()
        self.mates = 1  # query heads that share keys

    def see(self, layer: int, scores: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return which keys (H, Q, S) the queries see, before they are masked causally."""
        return self.seen[layer][:, None] if layer in self.seen else torch.ones_like(scores, dtype=torch.bool)

    def learn(self, layer: int, weights: Tensor) -> None:
        """Choose the keys (H, S) that the next token sees, given the weights (H, Q, S) of this forward."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float,
               **kwargs: Any) -> tuple[Tensor, None]:
        layer, self.mates = module.layer_idx, query.shape[1] // key.shape[1]
        keys, values = (each[0].repeat_interleave(self.mates, 0) for each in (key, value))
        scores = query[0] @ keys.mT * scaling                                           # (H, Q, S)
        if layer in self.seen:
            new = torch.ones(len(scores), keys.shape[1] - self.seen[layer].shape[1], dtype=torch.bool)
            self.seen[layer] = torch.cat([self.seen[layer], new], 1)
        seen = self.see(layer, scores, query[0], keys) & torch.ones_like(scores, dtype=torch.bool).tril(
            keys.shape[1] - query.shape[2])
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        self.learn(layer, weights)
        return (weights @ values).transpose(0, 1)[None], None

    @torch.inference_mode()
    def __call__(self, text: Sequence[int], first: int, at_once: int = 1) -> Tensor:
        AttentionInterface.register("by_rule", self.attend)
        config, memory, found, start = self.on.model.config, DynamicCache(), list[Tensor](), 0
        before, config._attn_implementation = config._attn_implementation, "by_rule"
        try:
            for end in range(first, len(text) + 1, at_once):
                found.append(self.on.model(input_ids=torch.tensor([text[start:end]]), use_cache=True,
                                           **{self.on.cache_argument: memory}).logits[0, -1])
                start = end
        finally:
            config._attn_implementation = before
        return torch.stack(found)


class HeavyByHand(Reference):
    """Adds up weights key by key."""

    def __init__(self, on: Engine, heavy: int, recent: int, norm: str = "sum") -> None:
        super().__init__(on)
        self.heavy, self.recent, self.norm = heavy, recent, norm

    def learn(self, layer: int, weights: Tensor) -> None:
        heads, _, slots = weights.shape
        given = weights.sum(1).view(-1, self.mates, slots).sum(1).repeat_interleave(self.mates, 0)
        sums = torch.zeros(heads, slots)
        before = self.sums.get(layer, torch.zeros(heads, 0))
        sums[:, :before.shape[1]] = before
        self.sums[layer] = sums = sums + given
        seen = self.seen.get(layer, torch.ones(heads, slots, dtype=torch.bool)).clone()
        for head in range(heads):
            held = [slot for slot in range(slots) if seen[head, slot]]
            age = {slot: slots - slot if self.norm == "mean" else 1 for slot in held}
            ranked = sorted(held[:len(held) - self.recent], key=lambda slot: -float(sums[head, slot]) / age[slot])
            if len(held) > self.heavy + self.recent:
                for slot in ranked[self.heavy:]:
                    seen[head, slot] = False
        self.seen[layer] = seen


class LastByHand(Reference):
    """Keeps what the last token attends to."""

    def __init__(self, on: Engine, budget: int) -> None:
        super().__init__(on)
        self.budget = budget

    def learn(self, layer: int, weights: Tensor) -> None:
        heads, _, slots = weights.shape
        seen = self.seen.get(layer, torch.ones(heads, slots, dtype=torch.bool)).clone()
        mean = weights[:, -1].mean(0)
        held = [slot for slot in range(slots) if seen[0, slot]]
        if len(held) > self.budget:
            for slot in sorted(held, key=lambda slot: -float(mean[slot]))[self.budget:]:
                seen[:, slot] = False
        self.seen[layer] = seen


class SnapByHand(Reference):
    """Chooses once, after the prompt."""

    def __init__(self, on: Engine, win: int, caps: Sequence[int], kernel: int) -> None:
        super().__init__(on)
        self.win, self.caps, self.kernel = win, caps, kernel

    def learn(self, layer: int, weights: Tensor) -> None:
        if layer in self.seen:
            return
        heads, _, slots = weights.shape
        before, half = slots - self.win, self.kernel // 2
        given = weights[:, -self.win:, :before].sum(1).view(-1, self.mates, before).sum(1)
        seen = torch.ones(heads, slots, dtype=torch.bool)
        for group in range(heads // self.mates):
            smooth = [float(given[group, max(0, slot - half):slot + half + 1].sum()) for slot in range(before)]
            for slot in sorted(range(before), key=lambda slot: -smooth[slot])[self.caps[layer] - self.win:]:
                seen[group * self.mates:(group + 1) * self.mates, slot] = False
        self.seen[layer] = seen


class PagesByHand(Reference):
    """Bounds each page by its keys, channel by channel."""

    def __init__(self, on: Engine, size: int, count: int, dense: int, shared: bool, share: float = 0) -> None:
        super().__init__(on)
        self.size, self.count, self.dense, self.shared, self.share = size, count, dense, shared, share

    def see(self, layer: int, scores: Tensor, query: Tensor, key: Tensor) -> Tensor:
        heads, slots = len(key), key.shape[1]
        seen = torch.ones_like(scores, dtype=torch.bool)
        if query.shape[1] > 1 or layer < self.dense:
            return seen
        pages = [range(start, min(slots, start + self.size)) for start in range(0, slots, self.size)]
        value = [[float(torch.maximum(query[head, 0] * key[head, page].amin(0),
                                      query[head, 0] * key[head, page].amax(0)).sum()) for page in pages]
                 for head in range(heads)]
        for head in range(heads):
            mates = [other for other in range(heads) if other // self.mates == head // self.mates]
            rank = {number: sum(value[mate][number] for mate in (mates if self.shared else [head]))
                    for number in range(len(pages))}
            if self.shared:
                rank[len(pages) - 1] = 1e9
            count = ceil(self.share * len(pages)) if self.share else self.count
            for number in sorted(rank, key=lambda number: -rank[number])[count:]:
                seen[head, 0, pages[number]] = False
        return seen


class StepsByHand(Reference):
    """Sees the last keys, and those that the last few tokens attended to."""

    def __init__(self, on: Engine, local: int, others: int, steps: int) -> None:
        super().__init__(on)
        self.local, self.others, self.steps, self.given = local, others, steps, dict[int, list[Tensor]]()

    def learn(self, layer: int, weights: Tensor) -> None:
        heads, count, slots = weights.shape
        given = weights.view(-1, self.mates, count, slots).sum(1).repeat_interleave(self.mates, 0)
        self.given.setdefault(layer, []).extend(given.unbind(1))
        seen = torch.ones(heads, slots, dtype=torch.bool)
        for head in range(heads):
            ranked = sorted(range(slots - self.local), key=lambda slot: -sum(
                float(step[head, slot]) for step in self.given[layer][-self.steps:] if slot < step.shape[1]))
            seen[head, ranked[self.others:]] = False
        self.seen[layer] = seen


def forced(policy: CachePolicy, on: Engine, text: Sequence[int] = TEXT[:70], first: int = PROMPT, at_once: int = 1,
           most: int = 1000) -> Tensor:
    """The logits after the prompt, the first `first` tokens, and after each `at_once` tokens that follow."""
    session, found = Session(on), list[Tensor]()
    with session.with_cache_policy(policy), torch.inference_mode():
        for end in range(first, len(text) + 1, at_once):
            session.follow(text[:end])
            found.append(session.read().logits[0])
            assert end == first or session.row.end <= most + at_once, "held between two forwards, and the new tokens"
    assert session.work.positions == len(text) - (len(text) - first) % at_once, "no token is read twice"
    session.close()
    return torch.stack(found)
