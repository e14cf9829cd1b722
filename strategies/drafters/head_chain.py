"""A chain of tokens from a trained head."""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.tree import TokenTree
from harness.heads.expander import Expander
from strategies.drafters.free import free_rows


class HeadChain:
    """Drafts a chain of `count` tokens: the likeliest when `stream` is None, else drawn from q (V,), which is kept.

    A network whose steps do not depend on tokens (`free`) gives all rows before any is drawn.
    """

    def __init__(self, expander: Expander, free: bool, count: int, warp: Warp, stream: Stream | None) -> None:
        self.expander, self.free, self.count, self.warp, self.stream = expander, free, count, warp, stream

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft at most `limit` tokens below `sequence`."""
        count = min(self.count, limit)
        if self.free:
            return TokenTree.chain(*self._chosen(free_rows(self.expander, sequence, count), sequence))
        tokens, probs = list[int](), list[Tensor]()
        logits, state = self.expander.start(sequence)
        for depth in range(1, count + 1):
            new, q = self._chosen(logits, [*sequence, *tokens])
            tokens, probs = tokens + new, probs + q
            if depth < count:
                logits, state = self.expander.grow(state, new, depth, torch.ones(1, depth, dtype=torch.bool))
        return TokenTree.chain(tokens, probs)

    def _chosen(self, logits: Tensor, sequence: Sequence[int]) -> tuple[list[int], list[Tensor]]:
        """Return a token of each row of `logits` (N, V), which are below `sequence`, and the rows drawn from."""
        if self.stream is None:
            return logits.argmax(-1).tolist(), []
        q = torch.softmax(self.warp(logits, [list(sequence)] * len(logits)).double(), -1)
        return [self.stream.choose(row) for row in q.cpu()], list(q)  # one transfer, whatever the number of rows
