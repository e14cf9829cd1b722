"""Self-speculative decoding: the model drafts with some of its sublayers skipped, and verifies with all of them.

Zhang et al. 2023, Draft & Verify (arXiv 2309.08168). `share` of the attention and MLP sublayers are left out, evenly
spread, never those of the first and last layer (the paper searches for them offline). At most `gamma` tokens are
drafted a step; drafting stops after a token whose probability is below `theta`, which `adapt` moves towards an
acceptance of 0.9 (the authors start it at 0.5 for sampling). `temperature` and `p` set the distribution, which is
exact: drafts are drawn under the same warps and accepted with min(1, p/q).

Drafts read the keys and values that the whole model wrote, so there is no second cache and no second prompt to read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.hooks import ForwardHook
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters.sublayers import spread

WANTED, RATE, MOVE, KEPT = 0.9, 0.5, 0.01, 0.9  # the authors' code: how theta follows acceptance


class SelfChain:
    """Drafts a chain with `hook`: the argmax each time when `stream` is None, else draws and keeps q (V,)."""

    def __init__(self, session: Session, hook: ForwardHook, gamma: int, theta: float, adapt: bool, warp: Warp,
                 stream: Stream | None) -> None:
        self.session, self.hook, self.warp, self.stream = session, hook, warp, stream
        self.gamma, self.theta, self.adapt, self.match = gamma, theta, adapt, WANTED

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of at most `limit` tokens, which ends with the first one less probable than `theta`."""
        if self.adapt and len(last.tree):
            self._learn(len(last.path), len(last.tree))
        tokens, probs, newest = list[int](), list[Tensor](), text[-1]
        while len(tokens) < min(self.gamma, limit):
            logits = self.session.draft_read([newest], self.hook).logits
            probs.append(torch.softmax(self.warp(logits, [[*text, *tokens]])[0].double(), -1))
            q = probs[-1].cpu()  # one transfer for the token and its probability
            newest = int(q.argmax()) if self.stream is None else self.stream.choose(q)
            tokens.append(newest)
            if q[newest] < self.theta:
                break
        return TokenTree.chain(tokens, probs if self.stream else ())

    def _learn(self, accepted: int, drafted: int) -> None:
        self.match = RATE * self.match + (1 - RATE) * accepted / drafted
        if self.match < WANTED:
            self.theta += (1 - KEPT) * MOVE
        elif drafted < self.gamma:
            self.theta -= (1 - KEPT) * MOVE


@dataclass(frozen=True)
class LayerSkip(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    share: float = knob(0.45, "of the sublayers between the first and the last layer, left out of drafts", low=0,
                        high=1, sweep=(0.3, 0.45, 0.5))
    gamma: int = knob(8, "tokens drafted per step at most", low=1, high=64, sweep=(6, 8, 12),
                      also="num_assistant_tokens")
    theta: float = knob(0.8, "drafting stops after a token less probable than this", low=0, high=1,
                        sweep=(0.5, 0.6, 0.8))
    adapt: bool = knob(True, "let theta follow acceptance", sweep=(False, True))

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv 2309.08168"

    def drafter(self, session: Session, request: Request) -> SelfChain:
        """The model without some of its sublayers."""
        hook = spread(len(session.engine.parts.layers), self.share)
        return SelfChain(session, hook, self.gamma, self.theta, self.adapt, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """min(1, p/q)."""
        return rejection
