"""A small model drafts a chain of tokens, one forward each."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.tree import TokenTree
from strategies.drafters.length import Fixed, Length


class Rows(Protocol):
    """The output after a sequence: its logits (1, V), and the likeliest token."""

    @property
    def logits(self) -> Tensor:
        """The logits (1, V) in float32."""
        ...

    @property
    def best(self) -> list[int]:
        """The likeliest token."""
        ...


class Reader(Protocol):
    """A session of a draft model, or one that translates."""

    def follow(self, tokens: Sequence[int]) -> None:
        """Set the sequence to `tokens`."""
        ...

    def read(self) -> Rows:
        """Compute the sequence."""
        ...


class ModelChain:
    """Drafts a chain: the argmax each time when `stream` is None, else samples from q (V,) and keeps it.

    `length` is the number of tokens, or the policy that sets it.
    """

    def __init__(self, session: Reader, length: int | Length, warp: Warp, stream: Stream | None) -> None:
        self.session, self.warp, self.stream = session, warp, stream
        self.length = Fixed(length) if isinstance(length, int) else length

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens below `sequence`."""
        if len(last.tree):
            self.length.observe(len(last.tree), len(last.path))
        return self.extend(sequence, (), limit)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below `sequence` and the tokens `drafted` below it."""
        tokens, probs, likeliest = list[int](), list[Tensor](), list[float]()
        for _ in range(min(self.length.most(len(sequence)), limit)):
            prefix = [*sequence, *drafted, *tokens]
            self.session.follow(prefix)
            reading = self.session.read()
            if self.stream is None:
                tokens += reading.best
            else:
                probs.append(torch.softmax(self.warp(reading.logits, [prefix])[0].double(), -1))
                tokens.append(self.stream.choose(probs[-1]))
            if self.length.watches:
                q = probs[-1] if probs else torch.softmax(reading.logits[0].double(), -1)
                likeliest.append(float(q.max()))
                if self.length.stop(likeliest[-1]):
                    break
        kept = self.length.kept(likeliest, len(sequence)) if self.length.watches else len(tokens)
        return TokenTree.chain(tokens[:kept], probs[:kept])
