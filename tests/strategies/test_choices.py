import itertools
import math

import pytest

from harness.engine.tree import ROOT
from strategies.drafters.choices import best_choices

RANKS = [[0.6, 0.3, 0.05], [0.5, 0.4, 0.05], [0.3, 0.1, 0.02]]


def value(path: tuple[int, ...]) -> float:
    return math.prod(RANKS[depth][rank] for depth, rank in enumerate(path))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20])
def test_the_tree_holds_the_most_probable_paths(count: int) -> None:
    """Compared with all paths; a path is at most as probable as its parent, so that the best ones are a tree."""
    paths = [path for length in (1, 2, 3) for path in itertools.product(range(3), repeat=length)]
    best = sorted((value(path) for path in paths), reverse=True)[:count]
    choices = best_choices(RANKS, count)
    found = []
    for node, (depth, rank) in enumerate(choices.nodes):
        path, parent = [rank], choices.parents[node]
        while parent != ROOT:
            assert choices.nodes[parent][0] == depth - len(path)
            path.append(choices.nodes[parent][1])
            parent = choices.parents[parent]
        found.append(value(tuple(path[::-1])))
    assert sorted(found, reverse=True) == pytest.approx(best)


def test_a_tree_is_cut_to_the_levels_that_are_left() -> None:
    choices = best_choices(RANKS, 12).within(1)
    assert set(choices.nodes) == {(0, 0), (0, 1), (0, 2)}
    assert set(choices.parents) == {ROOT}
    assert choices.widest == 3




def test_ranks_that_were_never_right_or_better_than_the_one_before_still_make_a_tree() -> None:
    choices = best_choices([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]], 6)
    assert len(choices.nodes) == 6
    assert choices.nodes[0] == (0, 0)
