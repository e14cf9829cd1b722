"""Speculative contrastive decoding: the draft model is also the amateur of contrastive decoding.

Yuan et al. 2023 (arXiv 2311.08981). Among tokens with at least `alpha` times the target's highest probability, the
distribution is the softmax of (1 + `beta`)·log p − `beta`·log q; drafts of `gamma` tokens come from q and are verified
as in speculative decoding. `temperature` and `p` apply to both. When all drafts are accepted, `extra` is the source of
the next token: the "contrast", for one more forward of the draft model, or the "expert" p alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import likeliest, one_by_one, walk
from harness.decoding.contrast import contrast
from harness.decoding.loop import Step, draft_and_verify
from harness.decoding.verified import Verified
from harness.engine.random_stream import Likeliest, Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Guarantee, Need, Request, knob
from strategies.drafters.chain import ModelChain


class _Contrast:
    """Drafts, warps and accepts for one sequence; the amateur's logits are recorded as it drafts, or computed later."""

    def __init__(self, method: "SpeculativeContrastive", session: Session, request: Request) -> None:
        self.method, self.session = method, session
        self.amateur: list[Tensor] = []                   # after the sequence, after the first draft, …
        self.prefixes: Sequence[Sequence[int]] = ()       # the prefix of each row of the current tree
        self.chain = ModelChain(session.draft, method.gamma, self._recorded, method.draws(request) or Likeliest())

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens with the amateur."""
        return self.chain.draft(sequence, last, limit)

    def warp(self, logits: Tensor, prefixes: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits unchanged: `accept` warps only the rows that it needs."""
        self.prefixes = prefixes
        return logits

    def accept(self, tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
        """Accept by the exact rule, with the contrastive distribution as the target."""
        greedy = not self.method.temperature

        def distribution(node: int) -> Tensor:
            return self._distribution(node + 1, logits[node + 1], len(tree))
        path, rest = walk(tree, distribution, likeliest if greedy else one_by_one, stream)
        self.amateur.clear()
        return path, int(rest.argmax()) if greedy else stream.choose(rest)

    def _distribution(self, row: int, expert: Tensor, drafts: int) -> Tensor:
        scores = expert
        if not 0 < row == drafts or self.method.extra == "contrast":
            if row == len(self.amateur):
                self.session.draft.follow(self.prefixes[row])
                self.amateur.append(self.session.draft.read().logits[0])
            scores = contrast(expert, self.amateur[row], self.method.alpha, self.method.beta)
        return torch.softmax(self.method.logit_warp()(scores[None], [self.prefixes[row]])[0].double(), -1)

    def _recorded(self, logits: Tensor, prefixes: Sequence[Sequence[int]]) -> Tensor:
        self.amateur.append(logits[0])
        return self.method.logit_warp()(logits, prefixes)


@dataclass(frozen=True)
class SpeculativeContrastive(Verified):
    """Exact for the contrastive distribution, which is not the target's own; at temperature 0 its likeliest tokens."""

    gamma: int = knob(4, "tokens drafted per step", low=1, high=64, sweep=(1, 2, 4, 8), also="num_assistant_tokens")
    alpha: float = knob(0.1, "share of the highest probability that a token needs", low=0, high=1,
                        sweep=(0.05, 0.1, 0.3))
    beta: float = knob(0.5, "weight of the amateur; 0 is the target alone", low=0, high=10, sweep=(0.1, 0.3, 0.5))
    extra: str = knob("contrast", "source of the token after a fully accepted draft", choices=("contrast", "expert"),
                      sweep=("contrast", "expert"))

    paper: ClassVar[str] = "Yuan et al. 2023, arXiv 2311.08981"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> _Contrast:
        """Return the drafter, warp and acceptance rule of one sequence."""
        return _Contrast(self, session, request)

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        method = self.drafter(session, request)
        return draft_and_verify(session, method, method.accept, request, method.warp)
