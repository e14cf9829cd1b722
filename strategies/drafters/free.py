"""Trees from heads whose steps do not depend on tokens: one path of steps serves a whole tree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.tree import TokenTree
from harness.heads.expander import Expander
from strategies.drafters.choices import Choices, likeliest_choices

LEAST = 1e-30  # a probability that is no more than rounding


class FreeTree:
    """A tree of fixed choices."""

    def __init__(self, expander: Expander, choices: Choices) -> None:
        self.expander, self.choices = expander, choices

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        choices = self.choices.within(limit)
        best = free_rows(self.expander, sequence, 1 + choices.nodes[-1][0]).topk(choices.widest).indices.tolist()
        return TokenTree(tuple(best[depth][rank] for depth, rank in choices.nodes), choices.parents)


class LikeliestTree:
    """The tree of the `nodes` paths with the highest products of probabilities, of at most `depth` tokens.

    The network's steps do not depend on tokens, so that all paths have the same distribution at a depth.
    """

    def __init__(self, expander: Expander, depth: int, nodes: int) -> None:
        self.expander, self.depth, self.nodes = expander, depth, nodes

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        rows = free_rows(self.expander, sequence, min(self.depth, limit))
        best = torch.softmax(rows.double(), -1).topk(min(self.nodes, rows.shape[-1]))
        chances, words = torch.stack([best.values, best.indices.double()]).tolist()  # one transfer from the device
        choices = likeliest_choices([[max(LEAST, chance) for chance in row] for row in chances], self.nodes)
        return TokenTree(tuple(int(words[depth][rank]) for depth, rank in choices.nodes), choices.parents)


def free_rows(expander: Expander, sequence: Sequence[int], count: int) -> Tensor:
    """Return the logits (`count`, V) of a network whose steps do not depend on tokens, below `sequence`."""
    logits, state = expander.start(sequence)
    rows = [logits]
    for depth in range(1, count):
        logits, state = expander.grow(state, [0], depth, torch.ones(1, depth, dtype=torch.bool))
        rows.append(logits)
    return torch.cat(rows)
