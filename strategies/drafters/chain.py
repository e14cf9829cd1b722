"""A small model drafts a chain of tokens, one forward each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.draw import Stream
from harness.decoding.loop import Step
from harness.decoding.session import Session
from harness.decoding.tree import TokenTree
from harness.decoding.warp import Warp


class ModelChain:
    """Drafts up to `gamma` tokens: the argmax each time when `stream` is None, else draws and keeps q (V,)."""

    def __init__(self, session: Session, gamma: int, warp: Warp, stream: Stream | None) -> None:
        self.session, self.gamma, self.warp, self.stream = session, gamma, warp, stream

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of at most `limit` tokens below `text`."""
        tokens, probs = list[int](), list[Tensor]()
        for _ in range(min(self.gamma, limit)):
            whole = [*text, *tokens]
            self.session.follow(whole)
            reading = self.session.read()
            if self.stream is None:
                tokens += reading.best
            else:
                probs.append(torch.softmax(self.warp(reading.logits, [whole])[0].double(), -1))
                tokens.append(self.stream.choose(probs[-1]))
        return TokenTree.chain(tokens, probs)
