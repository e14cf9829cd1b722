"""Draws from a strategy, each token held against the target's exact distribution for it, read without any cache."""

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

SLACK = 1e-4     # mass by which a nucleus may be wider or narrower: its edge is where rounding decides
NUMBERS = 1 << 23  # of one table of probabilities held at a time

RANKS = ("likeliest token", "second", "third to fifth", "all others")
COPIES = ("what followed the same token last", "what else followed it", "other tokens of the text", "new tokens")
DRAFTS = ("draft model's favourite", "others it likes more than the target does", "the rest")


@dataclass(frozen=True)
class Law:
    """The distribution that is promised: the softmax at `temperature` > 0, cut to the nucleus of mass `p`."""

    temperature: float
    p: float = 1.0

    def __str__(self) -> str:
        return f"{self.temperature:g}" if self.p >= 1 else f"{self.temperature:g}, p={self.p:g}"

    def probs(self, logits: Tensor) -> Tensor:
        """(…, V) probabilities in float64."""
        rows = logits.reshape(-1, logits.shape[-1]).float()
        bend = logit_warps.compose(logit_warps.temperature(self.temperature), logit_warps.top_p(self.p))
        return bend(rows, []).double().softmax(-1).view(logits.shape)


@dataclass
class Evidence:
    """All that a strategy's draws under one law say; `p_value` is small when they do not follow it.

    `impossible` counts tokens that have no probability at all, `edge` those that rounding at the edge of the nucleus
    may have let in, which are left out.
    """

    law: Law
    ranks: Shares = field(default_factory=lambda: Shares(RANKS))
    copies: Shares = field(default_factory=lambda: Shares(COPIES))
    drafts: Shares = field(default_factory=lambda: Shares(DRAFTS))
    overlap: Score = field(default_factory=Score)
    u: list[NDArray[np.float64]] = field(default_factory=list)
    tokens: int = 0
    impossible: int = 0
    edge: int = 0

    def tests(self) -> dict[str, float]:
        """The p-value of every test, by name."""
        u = np.concatenate(self.u) if self.u else np.empty((0, 2))
        found = {"rank": self.ranks.p_value(), "copied": self.copies.p_value(), "transform": uniform(u[~np.isnan(u)]),
                 "pairs": independent(u)}
        if self.drafts.expected.any():
            found |= {"draft": self.drafts.p_value(), "overlap": self.overlap.p_value()}
        return found

    def p_value(self) -> float:
        """Of all tests together; 0 when a token was impossible."""
        return 0.0 if self.impossible else any_of(list(self.tests().values()))

    def add(self, target: Engine, draft: Engine | None, prompt: Sequence[int], texts: Sequence[Sequence[int]],
            seed: int) -> None:
        """Take in `texts`, continuations of `prompt` of one length (token ids); `seed` settles v and the order."""
        length, vocab = len(texts[0]), target.model.config.get_text_config().vocab_size
        rng, size = np.random.default_rng([seed, len(self.u)]), max(1, NUMBERS // (length * vocab))
        for start in range(0, len(texts), size):
            some = texts[start:start + size]
            q = self.law.probs(_following(draft, prompt, some)) if draft else None
            whole = torch.tensor([[*prompt, *text] for text in some], device=target.device)
            self._take(_following(target, prompt, some), q, whole, seed, rng)

    def _take(self, logits: Tensor, q: Tensor | None, whole: Tensor, seed: int, rng: np.random.Generator) -> None:
        """`logits` (B, n, V) before each of the last n tokens of `whole` (B, T)."""
        length, vocab = logits.shape[1:]
        p, drawn = self.law.probs(logits), whole[:, -length:]
        chance = _at(p, drawn)
        lost = chance == 0
        wider = replace(self.law, p=min(1.0, self.law.p + SLACK)).probs(logits) if bool(lost.any()) else p
        impossible = lost & (_at(wider, drawn) == 0)
        self.tokens += drawn.numel()
        self.impossible += int(impossible.sum())
        self.edge += int((lost & ~impossible).sum())
        known = ~lost
        order = torch.from_numpy(np.random.default_rng(seed).permutation(vocab)).to(p.device)
        below = (p * (order < order[drawn][..., None])).sum(-1)
        v = torch.from_numpy(rng.random(chance.shape)).to(p.device)
        u = torch.where(known, (below + v * chance).clamp(0, 1), torch.nan)
        self.u.append(u.cpu().numpy())
        _note(self.ranks, p, _ranks(p), drawn, known)
        _note(self.copies, p, _copies(whole, length, vocab), drawn, known)
        if q is not None:
            _note(self.drafts, p, _liked(p, q), drawn, known)
            overlap = torch.where(p > 0, q / p, 0).clamp_max(1)  # of all functions the best when p replaces (p − q)₊
            mean = (p * overlap).sum(-1)
            numbers = _at(overlap, drawn), mean, (p * overlap ** 2).sum(-1) - mean ** 2
            self.overlap.add(*(each[known].cpu().numpy() for each in numbers))


@torch.inference_mode()
def plain(engine: Engine, text: Sequence[int], new: int) -> Tensor:
    """(new, V) logits in float32 before each of the last `new` tokens of `text`, from one forward without a cache."""
    whole = torch.tensor([list(text)], device=engine.device)
    places = torch.arange(whole.shape[1], device=whole.device)[None]
    out = engine.model(input_ids=whole, position_ids=places, use_cache=False, logits_to_keep=new + 1)
    logits: Tensor = out.logits[0, -new - 1:-1].float()
    return logits


@torch.inference_mode()
def _following(engine: Engine, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
    """(B, n, V) logits before each token of `texts`; the prompt is read once, into transformers' own cache."""
    cache, device = DynamicCache(), engine.device
    start = torch.arange(len(prompt) - 1, device=device)[None]
    if len(prompt) > 1:
        engine.model(input_ids=torch.tensor([prompt[:-1]], device=device), position_ids=start, use_cache=True,
                     logits_to_keep=1, **{engine.cache_argument: cache})
        cache.batch_repeat_interleave(len(texts))
    rest = torch.tensor([[prompt[-1], *text[:-1]] for text in texts], device=device)
    places = torch.arange(rest.shape[1], device=device).expand_as(rest) + len(prompt) - 1
    logits: Tensor = engine.model(input_ids=rest, position_ids=places, use_cache=True, logits_to_keep=0,
                                  **{engine.cache_argument: cache}).logits
    return logits


def _at(table: Tensor, tokens: Tensor) -> Tensor:
    return table.gather(-1, tokens[..., None])[..., 0]


def _note(shares: Shares, p: Tensor, groups: Tensor, drawn: Tensor, known: Tensor) -> None:
    mass = p.new_zeros(*p.shape[:2], len(shares.names)).scatter_add_(-1, groups, p)
    shares.add(mass[known].cpu().numpy(), _at(groups, drawn)[known].cpu().numpy())


def _ranks(p: Tensor) -> Tensor:
    """(B, n, V): 0 for the likeliest token, 1 for the second, 2 up to the fifth, 3 for all others."""
    best = p.topk(min(5, p.shape[-1]), -1).indices
    groups = torch.full(p.shape, 3, dtype=torch.int64, device=p.device)
    marks = torch.tensor([0, 1, 2, 2, 2][:best.shape[-1]], device=p.device).expand_as(best)
    return groups.scatter_(-1, best, marks)


def _copies(whole: Tensor, length: int, vocab: int) -> Tensor:
    """(B, n, V): 0 for what followed the last token at its latest earlier place, 1 for what else did, up to 3 for new.
    """
    rows = len(whole)
    groups = torch.full((rows, length, vocab + 1), 3, dtype=torch.int64, device=whole.device)
    nowhere = torch.tensor(vocab, device=whole.device)
    for place in range(length):
        text = whole[:, :whole.shape[1] - length + place]
        mine = groups[:, place]
        mine.scatter_(1, text, 2)
        same, follower = text[:, :-1] == text[:, -1:], text[:, 1:]
        mine.scatter_(1, torch.where(same, follower, nowhere), 1)
        if same.shape[1]:
            latest = same.shape[1] - 1 - same.flip(1).int().argmax(1, keepdim=True)
            mine.scatter_(1, torch.where(same.any(1, keepdim=True), follower.gather(1, latest), nowhere), 0)
    return groups[..., :vocab]


def _liked(p: Tensor, q: Tensor) -> Tensor:
    """(B, n, V): 0 for the draft model's likeliest token, 1 for others with q > p, 2 for the rest."""
    groups = torch.where(q > p, 1, 2)
    return groups.scatter_(-1, q.argmax(-1, keepdim=True), 0)
