"""Constraints as token ids, how far a text has come with them, and how a beam is shared out by that."""

from collections.abc import Sequence
from typing import TypeVar

import pytest
import torch

from harness.decoding.constraints import Clause, Constraints, Grid, Matches, Progress, clause, forms
from harness.decoding.search import Hypothesis, divisor
from harness.engine.random_stream import PhiloxStream
from harness.plugins.strategy import Request, RequestText
from strategies.dba import allocated
from strategies.neurologic import Groups, NeuroLogic, threshold

S = TypeVar("S", Progress, Matches)
REQUEST = Request((1,), 9, PhiloxStream(0))


def wanted(*clauses: Clause) -> Constraints:
    return Constraints(clauses)


def after(state: S, tokens: Sequence[int]) -> S:
    for token in tokens:
        state = state.advance(token)
    return state


def spelled(text: str) -> list[int]:
    """A token a letter."""
    return [ord(letter) for letter in text]


def test_words_become_phrases_behind_a_blank_and_with_a_capital() -> None:
    assert forms("lamp", spelled) == [tuple(spelled(" lamp")), tuple(spelled(" Lamp"))]
    assert forms(" Rex ", spelled) == [tuple(spelled(" Rex"))]
    assert len(clause(("run", "Run", "ran"), spelled)) == 4
    request = Request((1,), 4, PhiloxStream(0), text=RequestText(
        "", spelled, spelled, str, str, wanted=(("b",), ("a", "c")), banned=("d",)))
    found = Constraints.of(request)
    assert found.clauses[0][0] == (32, ord("a"))  # sorted, the given form first in each
    assert [len(one) for one in found.clauses] == [4, 2]
    assert found.banned == ((32, ord("d")), (32, ord("D")))
    assert Constraints.of(REQUEST) == Constraints()


def test_the_order_of_clauses_is_of_no_matter() -> None:
    a, b = ((1, 2),), ((3,), (0, 4))
    assert wanted(a, b) == wanted(b, a)
    assert wanted(b, a).sizes == (2, 1)


@pytest.mark.parametrize("bad", [((),), (((),),), (((1,), ()),)])
def test_an_empty_phrase_is_refused(bad: tuple[Clause, ...]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Constraints(bad)
    with pytest.raises(ValueError, match="at least one"):
        Constraints(banned=((),))


def test_what_would_complete_a_banned_phrase() -> None:
    ban = Constraints(banned=((7,), (1, 2), (1, 1, 3)))
    assert [ban.avoided(text) for text in ((), (1,), (1, 1), (1, 2), (3, 1, 1))] == [
        [7], [7, 2], [7, 2, 3], [7], [7, 2, 3]]


def test_a_broken_phrase_is_undone_and_what_broke_it_begins_nothing() -> None:
    """Specs/quality 8.4, the rule of sockeye."""
    start = Progress(wanted(((1, 2, 3),), ((4,),)))
    assert after(start, [1, 2]).count == 2
    assert after(start, [1, 2, 4]) == start
    assert after(start, [1, 2, 1]) == start
    assert after(start, [1, 1, 2, 3]).met == frozenset()
    assert after(start, [1, 2, 4, 4]).met == {1}
    assert after(start, [1, 2, 3, 4]).finished
    assert after(start, [1, 2]).allowed() == {3}
    assert start.allowed() == {1, 4}
    assert after(start, [1, 2, 3]).allowed() == {4}
    assert after(start, [1, 2, 3, 4]).allowed() == set()


def test_a_repeated_clause_wants_its_phrase_twice() -> None:
    start = Progress(wanted(((5,),), ((5,),), ((6, 7),)))
    assert [after(start, [5] * n).count for n in (0, 1, 2, 3)] == [0, 1, 2, 2]
    assert after(start, [5, 5, 6, 7]).finished
    twice = Progress(wanted(((6, 7),), ((6, 7),)))
    assert [after(twice, [6, 7] * n).count for n in (0, 1, 2)] == [0, 2, 4]
    assert after(twice, [6]).count == 1


def test_phrases_that_share_their_start_stay_open_together() -> None:
    start = Progress(wanted(((1, 2),), ((1, 3, 4),)))
    assert after(start, [1]).allowed() == {2, 3}
    assert after(start, [1, 3]).allowed() == {4}
    assert after(start, [1, 2]).met == {0}
    assert after(start, [1, 3, 4, 1, 2]).finished


def test_any_phrase_meets_its_clause() -> None:
    start = Progress(wanted(((1,), (2, 3, 4)), ((5,),)))
    assert after(start, [2, 3, 4]).met == after(start, [1]).met == {0}
    assert after(start, [2, 3]).count == 0  # a longer form counts once it is whole
    assert after(start, [2, 3, 4]).count == 1
    assert [after(start, text).left for text in ([], [2], [2, 3], [2, 3, 4], [1], [1, 5])] == [2, 3, 2, 1, 1, 0]


def test_free_text_counts_for_nothing_unless_it_may() -> None:
    """Specs/quality 8.3."""
    both = wanted(((1, 2),), ((3,),))
    free: Grid = Grid(both)
    assert free.wrote(3) is free
    assert [(token, state.count) for token, state in free.forced()] == [(1, 1), (3, 1)]
    inside = free.forced()[0][1]
    assert [(token, state.met) for token, state in inside.forced()] == [(2, frozenset({0}))]
    counted = Grid(both, free=())
    assert counted.wrote(3).met == {1}
    assert counted.wrote(1).wrote(2).met == {0}
    assert counted.wrote(1).wrote(4).wrote(2).met == frozenset()
    twice = Grid(wanted(((1, 1),), ((1, 1),)), free=())
    assert len(twice.wrote(1).wrote(1).wrote(1).met) == 1  # a token counts once
    assert len(twice.wrote(1).wrote(1).wrote(1).wrote(1).met) == 2
    assert not counted.forced()[1][1].free


def test_matches_sees_overlaps() -> None:
    start = Matches(wanted(((1, 2),), ((2, 3),), ((2, 3),), ((1, 1, 4),)))
    assert after(start, [1, 2, 3]).met == {1, 2, 3}  # the clauses are sorted
    assert after(start, [1, 1, 2]).met == {1}
    assert after(start, [1, 1, 1, 4]).met == {0}
    assert after(start, [1, 1]).allowed() == {4, 2, 1}
    assert after(start, [1, 1]).progress == pytest.approx(2 / 3)
    assert (start.progress, after(start, [9])) == (0.0, start)
    assert after(start, [1, 2, 3, 1, 1, 4]).finished


@pytest.mark.parametrize(("width", "counts", "golden"), [
    (5, (9, 9, 9), [1, 1, 3]), (5, (9, 3, 1), [1, 3, 1]), (5, (9, 0, 0), [5, 0, 0]),
    (2, (5, 5, 0, 0, 0), [0, 2, 0, 0, 0]), (4, (1, 9), [1, 3])])
def test_banks(width: int, counts: tuple[int, ...], golden: list[int]) -> None:
    """Specs/quality 8.4."""
    assert allocated(width, counts) == golden


def test_dense_ranks() -> None:
    scores = torch.tensor([3.0, 1.0, 3.0, 2.0, 0.0, 1.0])
    assert [threshold(scores, count) for count in (1, 2, 3, 4, 5, 6, 99)] == [
        float("inf"), 3.0, 2.0, 1.0, 0.0, -3.4028234663852886e38, -3.4028234663852886e38]
    banned = torch.tensor([float("-inf"), 1.0])
    assert all(threshold(banned, count) > float("-inf") for count in (2, 3, 4))


def groups(wanted_: Constraints, **rules: float | str) -> Groups:
    made = NeuroLogic(**rules)  # type: ignore[arg-type]
    return Groups(made.width, divisor("none", 0), "false", REQUEST, wanted=wanted_, rules=made)


def child(state: Matches, score: float) -> Hypothesis:
    return Hypothesis((9, 9), score, score, -1, state)


def test_the_best_of_each_group_comes_before_the_second_of_any() -> None:
    """Specs/quality 8.5: groups by the set of clauses, tolerance by their number."""
    all_ = wanted(((1,),), ((2,),), ((3,),))
    states = [Matches(all_, frozenset(met)) for met in ((), (0,), (0,), (1,), (0, 1), (0, 1))]
    found = [child(state, -score) for score, state in enumerate(states)]
    assert groups(all_, width=4, tolerance=2).select(found) == [0, 1, 3, 4]
    assert groups(all_, width=6, tolerance=2).select(found) == [0, 1, 3, 4, 2, 5]
    assert groups(all_, width=6, tolerance=1).select(found) == [1, 3, 4, 2, 5]
    assert groups(all_, width=6, tolerance=0).select(found) == [4, 5]
    assert groups(all_, width=2, tolerance=2).select(found) == [0, 1]


def test_paper_rewards_what_is_nearly_whole_and_official_what_has_begun() -> None:
    """Specs/quality 8.5: the sign of the official reward."""
    all_ = wanted(((1, 2, 3, 4),))
    begun, nearly = after(Matches(all_), [1]), after(Matches(all_), [1, 2, 3])
    found = [child(Matches(all_), -1.0), child(nearly, -1.2), child(begun, -1.4)]
    assert groups(all_, width=3).select(found) == [0, 1, 2]
    assert groups(all_, width=3, beta=1.0, variant="paper").select(found) == [1, 2, 0]
    assert groups(all_, width=3, beta=1.0, variant="official").select(found) == [2, 1, 0]
    official = groups(all_, beta=2.0, variant="official")
    assert official.rank(found[2]) == pytest.approx(-0.7 + 2 * 1.3862944)
