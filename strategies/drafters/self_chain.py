"""A model drafts a chain of tokens for itself, under a hook that makes its forwards cheaper."""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.hooks import ForwardHook
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Reading, Session
from harness.engine.tree import TokenTree

WANTED, RATE, MOVE, KEPT = 0.9, 0.5, 0.01, 0.9  # the authors' code: how theta follows acceptance


class SelfChain:
    """Drafts a chain with `hook`: the argmax each time when `stream` is None, else draws and keeps q (V,).

    A draft has `gamma` tokens, or ends with the first one less probable than `theta`, which moves towards an acceptance
    of `WANTED` if `adapt`.
    """

    def __init__(self, session: Session, hook: ForwardHook, gamma: int, warp: Warp, stream: Stream | None,
                 theta: float = 0.0, adapt: bool = False) -> None:
        self.session, self.hook, self.warp, self.stream = session, hook, warp, stream
        self.gamma, self.theta, self.adapt, self.match = gamma, theta, adapt, WANTED

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens below `text`."""
        if self.adapt and len(last.tree):
            self._learn(len(last.path), len(last.tree))
        tokens, probs, newest = list[int](), list[Tensor](), text[-1]
        while len(tokens) < min(self.gamma, limit):
            logits = self.read(newest).logits
            probs.append(torch.softmax(self.warp(logits, [[*text, *tokens]])[0].double(), -1))
            q = probs[-1].cpu()  # one transfer for the token and its probability
            newest = int(q.argmax()) if self.stream is None else self.stream.choose(q)
            tokens.append(newest)
            if q[newest] < self.theta:
                break
        return TokenTree.chain(tokens, probs if self.stream else ())

    def read(self, token: int) -> Reading:
        """Compute the next token with the hook."""
        return self.session.draft_read([token], self.hook)

    def _learn(self, accepted: int, drafted: int) -> None:
        self.match = RATE * self.match + (1 - RATE) * accepted / drafted
        if self.match < WANTED:
            self.theta += (1 - KEPT) * MOVE
        elif drafted < self.gamma:
            self.theta -= (1 - KEPT) * MOVE
