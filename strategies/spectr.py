"""SpecTr: draft several random chains, verify them in one forward, and accept by optimal transport.

Sun et al. 2023 (arXiv 2310.15141). `chains` independent chains of `length` tokens are drawn from the draft model, all
read together, and accepted by the k-seq rule. One chain is speculative decoding. At temperature 0 all chains would be
the same, so one is drafted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import Accept, k_seq
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain


class _Chains:
    """Draws independent chains side by side, one forward of the draft model a level."""

    def __init__(self, session: Session, chains: int, length: int, warp: Warp, stream: Stream) -> None:
        self.session, self.chains, self.length, self.warp, self.stream = session, chains, length, warp, stream

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Chains of at most `limit` tokens; the first tokens are siblings, equal ones are kept apart."""
        tokens, parents, probs = list[int](), list[int](), dict[int, Tensor]()
        ends, texts = [-1] * self.chains, [list(text)] * self.chains
        for level in range(min(self.length, limit)):
            if level:
                logits = self.session.grow(tokens[-self.chains:], parents[-self.chains:]).logits[1:]
            else:
                self.session.follow(text)
                logits = self.session.read().logits
            rows = torch.softmax(self.warp(logits, texts[:len(logits)]).double(), -1)
            drawn = [self.stream.choose(row) for row in rows.cpu().expand(self.chains, -1)]
            probs |= dict(zip(ends, rows.expand(self.chains, -1), strict=True))
            parents += ends
            ends = list(range(len(tokens), len(tokens) + self.chains))
            tokens += drawn
            texts = [[*before, token] for before, token in zip(texts, drawn, strict=True)]
        return TokenTree(tuple(tokens), tuple(parents), probs)


@dataclass(frozen=True)
class SpecTr(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    chains: int = knob(8, "chains drawn per step", low=1, high=64, sweep=(1, 2, 4, 8))
    length: int = knob(8, "tokens of a chain", low=1, high=64, sweep=(4, 8))

    paper: ClassVar[str] = "Sun et al. 2023, arXiv 2310.15141"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> _Chains | ModelChain:
        """The draft model, all chains together."""
        stream = self.draws(request)
        if stream is None:
            return ModelChain(session.draft, self.length, self.logit_warp(), None)
        return _Chains(session.draft, self.chains, self.length, self.logit_warp(), stream)

    def rule(self) -> Accept:
        """k-seq."""
        return k_seq
