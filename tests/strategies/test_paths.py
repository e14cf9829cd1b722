"""Trees of whole paths, compared with a search over all paths of a small vocabulary."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.tree import TokenTree
from strategies.drafters.expanded import PathTree

VOCAB, LEVELS = 6, 3
Path = tuple[int, ...]


class Scripted:
    """An expander with a random distribution after every path; a state is its path."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(3)
        self.table = {path: 2 * torch.randn(VOCAB, generator=random) for length in range(LEVELS)
                      for path in itertools.product(range(VOCAB), repeat=length)}

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.table[()][None], torch.zeros(1, 0)

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        states = torch.cat([states, torch.tensor(tokens)[:, None].float()], 1)
        assert (ancestors.sum(1) == depth).all()
        return torch.stack([self.table[tuple(map(int, row))] for row in states.tolist()]), states

    def value(self, path: Path) -> float:
        return sum(float(torch.log_softmax(self.table[path[:at]], -1)[token]) for at, token in enumerate(path))

    def likely(self, path: Path, count: int) -> bool:
        """Whether the last token is one of the `count` most probable ones after those before it."""
        return path[-1] in self.table[path[:-1]].topk(count).indices.tolist()


def paths(tree: TokenTree) -> list[Path]:
    """The path to each leaf of a tree, in which no node has two children of the same token."""
    children = tree.children()
    for nodes in children.values():
        assert len({tree.tokens[node] for node in nodes}) == len(nodes)
    return [tuple(tree.tokens[node] for node in tree.path(leaf)) for leaf in range(len(tree)) if leaf not in children]


def draft(tops: Sequence[int], width: int, count: int, limit: int = LEVELS) -> list[Path]:
    return paths(PathTree(Scripted(), tops, width, count).draft([1, 2], Step.__new__(Step), limit))


@pytest.mark.parametrize("count", [1, 5, 24])
def test_the_best_of_all_products_are_verified(count: int) -> None:
    script, tops = Scripted(), (4, 3, 2)
    every = [path for path in itertools.product(range(VOCAB), repeat=3)
             if all(script.likely(path[:length], top) for length, top in enumerate(tops, start=1))]
    assert len(every) == 24
    assert set(draft(tops, 1024, count)) == set(sorted(every, key=script.value)[-count:])


@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_beam_keeps_its_width_at_each_depth(width: int) -> None:
    script, beam = Scripted(), list[Path]([()])
    for _ in range(LEVELS):
        beam = sorted(((*path, token) for path in beam for token in range(VOCAB)), key=script.value)[-width:]
    assert set(draft([width] * LEVELS, width, width)) == set(beam)


def test_the_paths_end_where_the_answer_must() -> None:
    script = Scripted()
    best = sorted(itertools.product(range(VOCAB), repeat=2), key=script.value)[-2:]
    assert set(draft((6, 6, 6), 36, 2, limit=2)) == set(best)
