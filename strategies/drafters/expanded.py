"""Trees that a trained head grows, one forward of the head for each depth."""

from collections.abc import Sequence

import torch

from harness.decoding.loop import Step
from harness.engine.tree import ROOT, TokenTree, visible
from harness.heads.expander import HeadExpander
from strategies.drafters.choices import Choices


class StaticTree:
    """Grows a tree of fixed choices: only nodes with children are read."""

    def __init__(self, expander: HeadExpander, choices: Choices) -> None:
        self.expander, self.choices = expander, choices

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        choices = self.choices.within(limit)
        seen, inner = visible(choices.parents), set(choices.parents)
        logits, states = self.expander.start(sequence)
        rows, tokens, grown = {ROOT: 0}, list[int](), list[int]()
        depth = 0
        while True:
            level = [node for node, (at, _) in enumerate(choices.nodes) if at == depth]
            best = logits.topk(choices.widest).indices.tolist()
            tokens += [best[rows[choices.parents[node]]][choices.nodes[node][1]] for node in level]
            below = [node for node in level if node in inner]
            if not below:
                return TokenTree(tuple(tokens), choices.parents)
            states = states[[rows[choices.parents[node]] for node in below]]
            grown += below
            depth += 1
            logits, states = self.expander.grow(states, [tokens[node] for node in below], depth,
                                                seen[below][:, torch.tensor(grown)])
            rows = {node: row for row, node in enumerate(below)}


class DynamicTree:
    """Grows the `width` most probable nodes of each depth by `width` children, and keeps the `nodes` best of all.

    EAGLE-2 (Li et al. 2024, arXiv 2406.16858), §4: a node's value is the product of the drafter's probabilities on its
    path, which is near its chance of being accepted.
    """

    def __init__(self, expander: HeadExpander, width: int, depth: int, nodes: int) -> None:
        self.expander, self.width, self.depth, self.nodes = expander, width, depth, nodes

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        logits, states = self.expander.start(sequence)
        tokens, parents, values = list[int](), list[int](), list[float]()
        frontier, before, places = [ROOT], dict[int, list[int]]({ROOT: []}), 0
        for depth in range(1, min(self.depth, limit) + 1):
            best = torch.log_softmax(logits, -1).topk(min(self.width, logits.shape[-1]))
            both = torch.stack([best.values.double(), best.indices.double()]).tolist()  # one transfer from the device
            first = len(tokens)
            for node, chances, words in zip(frontier, *both, strict=True):
                value = 0.0 if node == ROOT else values[node]
                tokens += map(int, words)
                parents += [node] * len(words)
                values += [value + chance for chance in chances]
            if depth == min(self.depth, limit):
                break
            row = {node: place for place, node in enumerate(frontier)}
            frontier = sorted(range(first, len(tokens)), key=lambda node: (-values[node], node))[:self.width]
            states = states[[row[parents[node]] for node in frontier]]
            before |= {node: [*before[parents[node]], places + place] for place, node in enumerate(frontier)}
            places += len(frontier)
            ancestors = torch.zeros(len(frontier), places, dtype=torch.bool)
            for place, node in enumerate(frontier):
                ancestors[place, before[node]] = True
            logits, states = self.expander.grow(states, [tokens[node] for node in frontier], depth, ancestors)
        return _best(tokens, parents, values, self.nodes)


def _best(tokens: Sequence[int], parents: Sequence[int], values: Sequence[float], count: int) -> TokenTree:
    """Return the `count` nodes of the highest values, which are a tree, because no value is above its parent's."""
    kept = sorted(sorted(range(len(tokens)), key=lambda node: (-values[node], node))[:count])
    places = {node: place for place, node in enumerate(kept)} | {ROOT: ROOT}
    return TokenTree(tuple(tokens[node] for node in kept), tuple(places[parents[node]] for node in kept))
