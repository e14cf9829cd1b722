"""Trees of whole paths, compared with a search over all paths of a small vocabulary."""

import itertools
from collections.abc import Sequence

import pytest

from harness.decoding.loop import Step
from harness.engine.tree import TokenTree
from strategies.drafters.expanded import PathTree
from tests.scripted import LEVELS, VOCAB, Path, Scripted


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
