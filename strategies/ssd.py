"""Speculative speculative decoding (Saguaro): draft the next tokens for each likely outcome of verification beforehand.

2603.03251, code tanishqkumar/ssd (read at 6ed3022). While the target verifies `gamma` drafted tokens, the draft model
drafts what would come next if k of them are accepted and the token after them is t: for each k = 0 … `gamma`, the
`fan` likeliest tokens t by its own distribution there, without the drafted token, which is never the one after a
rejection. If the outcome was foreseen, a hit, the next draft is ready. If not, `miss` "draft" drafts now, as the
authors do for few sequences, and "none" leaves one step without a draft (they verify random tokens, for many
sequences). The paper's fan that shrinks with k is not implemented.

`c` below 1 multiplies the `fan` largest probabilities of the draft model, which are then normalised: what the target
adds after a rejection is then more often a token that was foreseen (the authors' code scales one token more). Any `c`
is exact, as draft and verification use the same distribution; at temperature 0 it does nothing.

Here the two models run one after the other. The tokens, hits and forwards are those of two devices, the time is not:
there a step would take max(target forward, branches) and one draft more at a miss. The branches cost `gamma` + 1
forwards of the draft model a step, of which each but the first computes up to `fan` · (`gamma` + 1) tokens.
`temperature` and `p` set the distribution, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine import logit_warps
from harness.engine.logit_warps import Warp
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain


def favouring(count: int, c: float) -> Warp:
    """Return the warp that multiplies the `count` largest probabilities by `c` before they are normalised."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        best = logits.topk(min(count, logits.shape[-1])).indices
        return logits.scatter_add(-1, best, torch.full_like(logits, log(c))[..., :best.shape[-1]])
    return logit_warps.identity if c == 1 or not count else warp


@dataclass(frozen=True)
class Ssd(Verified):
    """With `fan=0` it is `speculative`; lossless at temperature 0, above it the distribution is that of `top_p`."""

    gamma: int = knob(4, "tokens drafted per step", low=1, high=64, sweep=(2, 4, 8), also="num_assistant_tokens")
    fan: int = knob(3, "tokens foreseen after each number of accepted ones", low=0, high=1024, sweep=(0, 1, 3, 8))
    miss: str = knob("draft", "what is done after an outcome that was not foreseen", choices=("draft", "none"),
                     sweep=("draft", "none"))
    c: float = knob(1.0, "factor of the draft model's `fan` largest probabilities", low=0.01, high=1,
                    sweep=(0.25, 0.5, 1.0))

    paper: ClassVar[str] = "Saguaro, arXiv 2603.03251"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> "Foreseeing":
        """The draft model, which drafts ahead."""
        return Foreseeing(self, session.draft, request)

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection


@dataclass
class Branch:
    """The draft for one outcome: `accepted` tokens, then `token`; `node` is the last one in the draft model's tree."""

    accepted: int
    token: int
    node: int
    tokens: list[int] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)


class Foreseeing:
    """Drafts chains ahead; `hits[k]` of `outcomes[k]` outcomes with k accepted tokens were foreseen."""

    def __init__(self, knobs: Ssd, session: Session, request: Request) -> None:
        self.knobs, self.session, self.stream = knobs, session, knobs.draws(request)
        self.warp = logit_warps.compose(knobs.logit_warp(), favouring(knobs.fan, knobs.c))
        self.now = ModelChain(session, knobs.gamma, self.warp, self.stream)
        self.tree, self.branches = EMPTY, dict[tuple[int, int], Branch]()
        self.hits, self.outcomes = [0] * (knobs.gamma + 1), [0] * (knobs.gamma + 1)

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Return the chain drafted for this outcome, or one drafted now, and draft for the outcomes of its own."""
        branch = self._foreseen(last)
        if branch is not None:
            self.tree = TokenTree.chain(branch.tokens[:limit], branch.probs[:limit])
        elif self.branches and self.knobs.miss == "none":
            self.tree = TokenTree.chain(())
        else:
            self.tree = self.now.draft(sequence, last, limit)
        self.branches = self.ahead(sequence, self.tree, limit) if self.knobs.fan else {}
        return self.tree

    def ahead(self, sequence: Sequence[int], tree: TokenTree, limit: int) -> dict[tuple[int, int], Branch]:
        """Return the drafts for the likely outcomes of the verification of a chain, after which `limit` tokens fit."""
        self.session.follow(sequence)
        logits, branches = self.session.read(tree).logits, list[Branch]()
        for k, best in enumerate(logits.topk(min(self.knobs.fan + 1, logits.shape[-1])).indices.tolist()):
            others = [token for token in best if token not in tree.tokens[k:k + 1]]
            branches += [Branch(k, token, k - 1) for token in others[:self.knobs.fan] if k + 1 < limit]
        while live := [branch for branch in branches
                       if len(branch.tokens) < min(self.knobs.gamma, limit - branch.accepted - 1)]:
            self._grow(sequence, tree, live)
        return {(branch.accepted, branch.token): branch for branch in branches}

    def _grow(self, sequence: Sequence[int], tree: TokenTree, live: Sequence[Branch]) -> None:
        """Draft one more token of each branch, in one forward."""
        first = self.session.nodes
        reading = self.session.grow([[branch.token, *branch.tokens][-1] for branch in live],
                                    [branch.node for branch in live])
        if self.stream is None:
            tokens = reading.best[1:]
        else:
            texts = [[*sequence, *tree.tokens[:branch.accepted], branch.token, *branch.tokens] for branch in live]
            q = torch.softmax(self.warp(reading.logits[1:], texts).double(), -1)
            tokens = [self.stream.choose(row) for row in q.cpu()]
            for branch, row in zip(live, q, strict=True):
                branch.probs.append(row)
        for place, (branch, token) in enumerate(zip(live, tokens, strict=True)):
            branch.tokens.append(token)
            branch.node = first + place

    def _foreseen(self, last: Step) -> Branch | None:
        if not self.branches or last.tree is not self.tree:
            return None
        accepted = len(last.path)
        branch = self.branches.get((accepted, last.token))
        self.outcomes[accepted] += 1
        self.hits[accepted] += branch is not None
        return branch
