"""What beam searches share: a group of live hypotheses, its finished pool, and the walk that feeds them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from harness.decoding.session import Session
from harness.decoding.tree import ROOT
from harness.strategy import Request

EarlyStopping = Literal["false", "true", "never"]


class Hypothesis(NamedTuple):
    """A continuation: its tokens, `score` (log p less penalties), `log_p` alone, and its newest node in the session."""

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    log_p: float = 0.0
    node: int = ROOT

    def ranked(self, length_penalty: float) -> float:
        """score / length^length_penalty, the length counting EOS but not the prompt."""
        return self.score / float(len(self.tokens) ** length_penalty)


@dataclass
class Beams:
    """One group of `width` beams and its pool of finished hypotheses.

    The rules are those of transformers 5: candidates that end count only among the best `width`; `early_stopping`
    "true" stops at a full pool, "false" when the best live beam cannot beat the worst finished one at its present
    length, "never" when it cannot at any length; a single beam stops where greedy would. `legacy` follows
    transformers 4.49 where it differs: the best candidate, not the best live beam, decides, and all live beams enter
    the pool at the last token.
    """

    width: int
    length_penalty: float
    early_stopping: EarlyStopping
    request: Request
    legacy: bool = False
    live: list[Hypothesis] = field(default_factory=lambda: [Hypothesis()])
    pool: list[Hypothesis] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)  # the tokens that ended a candidate of the last step
    done: bool = False

    def advance(self, log_p: Tensor, penalty: Tensor | None = None) -> None:
        """Extend the live beams by one token, given their next-token log p (b, V) and what to take off (V,)."""
        gain = log_p if penalty is None else log_p - penalty
        start = torch.tensor([h.score for h in self.live], device=log_p.device)
        best = max(2, 1 + len(self.request.eos)) * self.width
        scores, places = (gain + start[:, None]).flatten().topk(min(best, gain.numel()))
        size = log_p.shape[1]
        raw = log_p.flatten()[places].tolist()
        candidates = [c for c in zip(scores.tolist(), places.tolist(), raw, strict=True) if c[0] > -math.inf]
        last = len(self.live[0].tokens) + 1 >= self.request.max_new_tokens
        parents, self.live, self.ended = self.live, [], []
        for rank, (score, place, log) in enumerate(candidates):
            if rank >= self.width == len(self.live):
                break
            parent = parents[place // size]
            child = Hypothesis((*parent.tokens, place % size), score, parent.log_p + log, parent.node)
            ends = self.request.ends(child.tokens)
            if rank < self.width and (ends or (last and not self.legacy)):
                self._finish(child)
            if ends:
                self.ended += [child.tokens[-1]] if rank < self.width else []
            elif len(self.live) < self.width:
                self.live.append(child)
        settled = not self.live or self._settled(candidates[0][0])
        if last and self.legacy and not settled:
            for child in self.live:
                self._finish(child)
        self.done = last or settled

    def _finish(self, child: Hypothesis) -> None:
        self.pool.append(child)
        self.pool.sort(key=lambda h: -h.ranked(self.length_penalty))
        del self.pool[self.width:]

    def _settled(self, best_candidate: float) -> bool:
        if len(self.pool) < self.width:
            return False
        if self.early_stopping == "true" or (self.width == 1 and not self.legacy):
            return True
        best = best_candidate if self.legacy else self.live[0].score
        longest = self.early_stopping == "never" and self.length_penalty > 0
        length = self.request.max_new_tokens if longest else len(self.live[0].tokens)
        return best / float(length**self.length_penalty) <= self.pool[-1].ranked(self.length_penalty)


def walk(session: Session, groups: Sequence[Beams], diversity: float = 0.0, count_ends: bool = True) -> None:
    """Run the groups to their end, each seeing what the groups before it chose at this step.

    `diversity` is taken off a token's score for each beam of an earlier group that chose it at the same step
    (Vijayakumar 2016, Hamming); `count_ends` says whether the token that ended a hypothesis counts.
    """
    session.follow(groups[0].request.prompt)
    log_p, read = session.read().logits.log_softmax(-1), 0
    rows = [slice(0, 1) for _ in groups]
    while True:
        chosen: Counter[int] = Counter()
        for group, mine in zip(groups, rows, strict=True):
            if group.done:
                continue
            group.advance(log_p[mine], _penalty(chosen, diversity, log_p))
            chosen.update(h.tokens[-1] for h in group.live)
            chosen.update(group.ended if count_ends else [])
        live = [h for group in groups if not group.done for h in group.live]
        if not live:
            return
        session.retain(sorted({h.node for h in live} - {ROOT}))
        log_p = session.grow([h.tokens[-1] for h in live], [h.node for h in live]).logits.log_softmax(-1)
        row = 1  # row 0 is the text's
        for i, group in enumerate(groups):
            if not group.done:
                rows[i] = slice(row, row + len(group.live))
                group.live = [h._replace(node=node) for node, h in enumerate(group.live, read + row - 1)]
                row += len(group.live)
        read += len(live)


def _penalty(chosen: Counter[int], diversity: float, like: Tensor) -> Tensor | None:
    if not chosen or not diversity:
        return None
    penalty = like.new_zeros(like.shape[1])
    penalty[list(chosen)] = diversity * like.new_tensor(list(chosen.values()))
    return penalty
