"""Tests of sampled tokens against the target's exact distribution, computed without the engine's KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from harness.engine import logit_warps
from harness.engine.engine import Engine
from harness.stats.distribution import Score, Shares, any_of, independent, uniform

SLACK = 1e-4     # mass by which a nucleus may be wider or narrower because of rounding at its edge
NUMBERS = 1 << 23  # maximum size of one table of probabilities

RANKS = ("likeliest token", "second", "third to fifth", "all others")
COPIES = ("last successor of the same token", "its other successors", "other tokens of the sequence", "new tokens")
DRAFTS = ("draft model's likeliest token", "other tokens with q > p", "the rest")


@dataclass(frozen=True)
class Distribution:
    """The guaranteed distribution: the softmax at `temperature` > 0, restricted to the nucleus of mass `p`."""

    temperature: float
    p: float = 1.0

    def __str__(self) -> str:
        return f"{self.temperature:g}" if self.p >= 1 else f"{self.temperature:g}, p={self.p:g}"

    def probs(self, logits: Tensor) -> Tensor:
        """Return (…, V) probabilities in float64."""
        rows = logits.reshape(-1, logits.shape[-1]).float()
        warp = logit_warps.compose(logit_warps.temperature(self.temperature), logit_warps.top_p(self.p))
        return warp(rows, []).double().softmax(-1).view(logits.shape)


@dataclass
class Evidence:
    """Statistics of a strategy's samples under one distribution; `p_value` is small if they do not follow it.

    `impossible` counts tokens of probability 0. `edge` counts those that rounding at the edge of the nucleus may have
    allowed, which no test uses.
    """

    distribution: Distribution
    ranks: Shares = field(default_factory=lambda: Shares(RANKS))
    copies: Shares = field(default_factory=lambda: Shares(COPIES))
    drafts: Shares = field(default_factory=lambda: Shares(DRAFTS))
    overlap: Score = field(default_factory=Score)
    u: list[NDArray[np.float64]] = field(default_factory=list)
    tokens: int = 0
    impossible: int = 0
    edge: int = 0

    def tests(self) -> dict[str, float]:
        """Return the p-value of every test, by name."""
        u = np.concatenate(self.u) if self.u else np.empty((0, 2))
        tests = {"rank": self.ranks.p_value(), "copied": self.copies.p_value(), "transform": uniform(u[~np.isnan(u)]),
                 "pairs": independent(u)}
        if self.drafts.expected.any():
            tests |= {"draft": self.drafts.p_value(), "overlap": self.overlap.p_value()}
        return tests

    def p_value(self) -> float:
        """Return the p-value of all tests together; 0 if a token was impossible."""
        return 0.0 if self.impossible else any_of(list(self.tests().values()))

    def add(self, target: Engine, draft: Engine | None, prompt: Sequence[int], texts: Sequence[Sequence[int]],
            seed: int) -> None:
        """Add `texts`, equally long continuations of `prompt` (token ids); `seed` fixes v and the order.

        The probabilities of a draft model with another vocabulary are those of other tokens, and left out.
        """
        draft = None if draft and draft.translation else draft
        length, vocab = len(texts[0]), target.vocab
        rng, size = np.random.default_rng([seed, len(self.u)]), max(1, NUMBERS // (length * vocab))
        for start in range(0, len(texts), size):
            batch = texts[start:start + size]
            q = self.distribution.probs(_continuation_logits(draft, prompt, batch)) if draft else None
            whole = torch.tensor([[*prompt, *text] for text in batch], device=target.device)
            self._add_batch(_continuation_logits(target, prompt, batch), q, whole, seed, rng)

    def _add_batch(self, logits: Tensor, q: Tensor | None, whole: Tensor, seed: int, rng: np.random.Generator) -> None:
        """Add one batch: `logits` (B, n, V) are those before each of the last n tokens of `whole` (B, T)."""
        length, vocab = logits.shape[1:]
        p, drawn = self.distribution.probs(logits), whole[:, -length:]
        chance = _gather(p, drawn)
        lost = chance == 0
        top_p = min(1.0, self.distribution.p + SLACK)
        wider = replace(self.distribution, p=top_p).probs(logits) if bool(lost.any()) else p
        impossible = lost & (_gather(wider, drawn) == 0)
        self.tokens += drawn.numel()
        self.impossible += int(impossible.sum())
        self.edge += int((lost & ~impossible).sum())
        known = ~lost
        order = torch.from_numpy(np.random.default_rng(seed).permutation(vocab)).to(p.device)
        below = (p * (order < order[drawn][..., None])).sum(-1)
        v = torch.from_numpy(rng.random(chance.shape)).to(p.device)
        u = torch.where(known, (below + v * chance).clamp(0, 1), torch.nan)
        self.u.append(u.cpu().numpy())
        _count(self.ranks, p, _rank_groups(p), drawn, known)
        _count(self.copies, p, _copy_groups(whole, length, vocab), drawn, known)
        if q is not None:
            _count(self.drafts, p, _draft_groups(p, q), drawn, known)
            overlap = torch.where(p > 0, q / p, 0).clamp_max(1)  # most powerful if p is used in place of (p − q)₊
            mean = (p * overlap).sum(-1)
            numbers = _gather(overlap, drawn), mean, (p * overlap ** 2).sum(-1) - mean ** 2
            self.overlap.add(*(values[known].cpu().numpy() for values in numbers))


@torch.inference_mode()
def uncached_logits(engine: Engine, tokens: Sequence[int], new: int) -> Tensor:
    """Return float32 logits (new, V) before each of the last `new` of `tokens` from one forward without cache."""
    whole = torch.tensor([list(tokens)], device=engine.device)
    positions = torch.arange(whole.shape[1], device=whole.device)[None]
    out = engine.model(input_ids=whole, position_ids=positions, use_cache=False, logits_to_keep=new + 1)
    logits: Tensor = out.logits[0, -new - 1:-1].float()
    return logits


@torch.inference_mode()
def _continuation_logits(engine: Engine, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
    """Return logits (B, n, V) before each token of `texts`; the prompt is prefilled once in transformers' own cache."""
    cache, device = DynamicCache(), engine.device
    start = torch.arange(len(prompt) - 1, device=device)[None]
    if len(prompt) > 1:
        engine.model(input_ids=torch.tensor([prompt[:-1]], device=device), position_ids=start, use_cache=True,
                     logits_to_keep=1, **{engine.cache_argument: cache})
        cache.batch_repeat_interleave(len(texts))
    rest = torch.tensor([[prompt[-1], *text[:-1]] for text in texts], device=device)
    positions = torch.arange(rest.shape[1], device=device).expand_as(rest) + len(prompt) - 1
    logits: Tensor = engine.model(input_ids=rest, position_ids=positions, use_cache=True, logits_to_keep=0,
                                  **{engine.cache_argument: cache}).logits
    return logits


def _gather(table: Tensor, tokens: Tensor) -> Tensor:
    return table.gather(-1, tokens[..., None])[..., 0]


def _count(shares: Shares, p: Tensor, groups: Tensor, drawn: Tensor, known: Tensor) -> None:
    mass = p.new_zeros(*p.shape[:2], len(shares.names)).scatter_add_(-1, groups, p)
    shares.add(mass[known].cpu().numpy(), _gather(groups, drawn)[known].cpu().numpy())


def _rank_groups(p: Tensor) -> Tensor:
    """Group tokens by rank (B, n, V): 0 for the likeliest, 1 for the second, 2 up to the fifth, 3 for all others."""
    best = p.topk(min(5, p.shape[-1]), -1).indices
    groups = torch.full(p.shape, 3, dtype=torch.int64, device=p.device)
    marks = torch.tensor([0, 1, 2, 2, 2][:best.shape[-1]], device=p.device).expand_as(best)
    return groups.scatter_(-1, best, marks)


def _copy_groups(whole: Tensor, length: int, vocab: int) -> Tensor:
    """Group tokens by earlier occurrence (B, n, V), in the order of `COPIES`."""
    rows = len(whole)
    groups = torch.full((rows, length, vocab + 1), 3, dtype=torch.int64, device=whole.device)
    nowhere = torch.tensor(vocab, device=whole.device)
    for step in range(length):
        sequences = whole[:, :whole.shape[1] - length + step]
        group = groups[:, step]
        group.scatter_(1, sequences, 2)
        same, follower = sequences[:, :-1] == sequences[:, -1:], sequences[:, 1:]
        group.scatter_(1, torch.where(same, follower, nowhere), 1)
        if same.shape[1]:
            latest = same.shape[1] - 1 - same.flip(1).int().argmax(1, keepdim=True)
            group.scatter_(1, torch.where(same.any(1, keepdim=True), follower.gather(1, latest), nowhere), 0)
    return groups[..., :vocab]


def _draft_groups(p: Tensor, q: Tensor) -> Tensor:
    """Group tokens (B, n, V): 0 for the draft model's likeliest, 1 for others with q > p, 2 for the rest."""
    groups = torch.where(q > p, 1, 2)
    return groups.scatter_(-1, q.argmax(-1, keepdim=True), 0)
