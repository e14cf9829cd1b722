"""Searches on an enumerable chain, against the sheet's goldens and brute force."""

import math
from itertools import product

import pytest

from harness.decoding.search import Beams, Hypothesis, LengthRule, divisor
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request
from strategies.beam import Beam
from strategies.diverse_beam import DiverseBeam
from tests.chain import LENGTH, all_sequences, chain_request, hypotheses
from tests.decode import decode
from tests.markov import END, START, A, letters, markov


def beam(width: int, penalty: float, stopping: str) -> list[str]:
    strategy = Beam(width=width, length_penalty=penalty, early_stopping=stopping)
    return [letters(decode(strategy, markov(), [START], new=LENGTH, sample=i, eos=END)) for i in range(width)]


def diverse(width: int, groups: int, diversity: float, variant: str) -> list[list[Hypothesis]]:
    """Return the pools of the groups."""
    request = Request((START,), LENGTH, PhiloxStream(0), frozenset({END}))
    strategy = DiverseBeam(width=width, groups=groups, diversity=diversity, length_penalty=0.0, variant=variant)
    return [group.pool for group in strategy.grouped(Session(markov()), request)]


@pytest.mark.parametrize(("penalty", "stopping"), [*product((0.0, 1.0, 2.0, -1.0), ("false", "true", "never"))])
def test_two_beams(penalty: float, stopping: str) -> None:
    assert beam(2, penalty, stopping) == ["abab", "baba"]


@pytest.mark.parametrize(("penalty", "stopping", "golden"), [
    *((penalty, stopping, ["$", "a$", "ab$"]) for penalty in (0.0, -1.0) for stopping in ("false", "true", "never")),
    *((penalty, stopping, ["abab", "baba", "aba$"]) for penalty in (1.0, 2.0) for stopping in ("false", "never")),
    (1.0, "true", ["ab$", "a$", "$"]), (2.0, "true", ["ab$", "a$", "$"])])
def test_three_beams(penalty: float, stopping: str, golden: list[str]) -> None:
    assert beam(3, penalty, stopping) == golden


@pytest.mark.parametrize(("stopping", "score", "done"), [
    ("true", -0.1, True), ("false", -0.1, False), ("false", -2.0, True), ("never", -2.0, False), ("never", -5.0, True)])
def test_when_a_full_pool_ends_the_search(stopping: str, score: float, done: bool) -> None:
    """A score of −2 loses to −1.2 at its present length, 1; at the longest, 4, it counts as −0.5 and may win."""
    pool = [Hypothesis((END,), score, score) for score in (-1.0, -1.2)]
    live = Hypothesis((A,), score, score)
    front = Beams(2, divisor("power", 1.0), stopping, chain_request(), live=[live], pool=pool)
    assert front._settled(live) == done


def test_a_wide_beam_is_exact() -> None:
    exact = all_sequences()
    assert len(exact) == 31
    found = beam(31, 0.0, "never")
    assert found[:4] == ["$", "a$", "b$", "ab$"]
    assert [exact[text] for text in found] == pytest.approx(sorted(exact.values(), reverse=True))


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize(("diversity", "second"),
                         [(0.0, "abab"), (0.2, "abab"), (0.24, "a$"), (0.3, "baba"), (5.0, "baba")])
def test_two_groups(variant: str, diversity: float, second: str) -> None:
    first, other = diverse(2, 2, diversity, variant)
    assert letters(first[0].tokens) == "abab"
    assert letters(other[0].tokens) == second


def test_penalised_and_raw_scores() -> None:
    _, (a,) = diverse(2, 2, 0.24, "official")
    assert (a.log_p, a.score) == (pytest.approx(-1.7148, abs=1e-4), pytest.approx(-1.9548, abs=1e-4))
    _, (abab,) = diverse(2, 2, 0.2, "official")
    assert abab.score == pytest.approx(-3.5826, abs=1e-4)


def test_four_beams_in_two_groups() -> None:
    _, second = diverse(4, 2, 0.5, "official")
    assert {letters(h.tokens) for h in second} == {"a$", "b$"}


def test_the_first_group_is_plain_beam_search() -> None:
    for diversity in (0.0, 0.3, 2.0):
        first, _ = diverse(4, 2, diversity, "paper")
        assert [letters(h.tokens) for h in first] == beam(2, 0.0, "false")


def test_paper_counts_endings() -> None:
    """When a group ends, "paper" penalises an end of the next one; "official" does not."""
    for variant, score in (("paper", math.log(0.2) - 0.1), ("official", math.log(0.2))):
        pool = {letters(h.tokens): h for h in diverse(6, 2, 0.1, variant)[1]}
        assert pool["$"].score == pytest.approx(score)
        assert pool["$"].log_p == pytest.approx(math.log(0.2))


def test_paper_ranks_by_raw_log_p() -> None:
    strategy = DiverseBeam(width=4, groups=2, diversity=0.24, length_penalty=0.0)
    found = strategy.search(Session(markov()), Request((START,), LENGTH, PhiloxStream(0), frozenset({END})))
    assert [h.log_p for h in found] == sorted((h.log_p for h in found), reverse=True)


def test_length_rules() -> None:
    """Each rule against its formula; the exact winners under GNMT and under score / length (specs/quality 0.2)."""
    for n in (1, 3, 7):
        assert divisor("power", 0.7)(n) == pytest.approx(n**0.7)
        assert divisor("gnmt", 0.6)(n) == pytest.approx(((5 + n) / 6) ** 0.6)
        assert divisor("sockeye", 0.9, offset=2.0)(n) == pytest.approx(((2 + n) / 3) ** 0.9)
        assert divisor("sockeye", 0.9)(n) == divisor("power", 0.9)(n)
        assert divisor("sockeye", 0.6, offset=5.0)(n) == pytest.approx(divisor("gnmt", 0.6)(n))
        assert divisor("full", 1.0, prompt=10)(n) == 10 + n
        assert divisor("none", 2.0)(n) == 1
    gnmt = hypotheses(Beam(width=31, length_rule="gnmt", length_penalty=0.6, early_stopping="never"))
    by = divisor("gnmt", 0.6)
    assert [(letters(h.tokens), round(h.ranked(by), 4)) for h in gnmt[:3]] == [
        ("a$", -1.5633), ("$", -1.6094), ("b$", -1.7924)]
    mean = hypotheses(Beam(width=31, early_stopping="never"))
    assert [(letters(h.tokens), round(h.score / len(h.tokens), 4)) for h in mean[:4]] == [
        ("abab", -0.6957), ("baba", -0.7347), ("aba$", -0.7514), ("ab$", -0.8026)]


@pytest.mark.parametrize("finished", ["pooled", "kept"])
@pytest.mark.parametrize(("rule", "penalty", "offset"), [
    ("power", 1.0, 0.0), ("power", 2.0, 0.0), ("power", -1.0, 0.0), ("gnmt", 0.6, 0.0), ("gnmt", 2.0, 0.0),
    ("sockeye", 1.0, 3.0), ("full", 1.0, 0.0), ("none", 1.0, 0.0)])
def test_a_wide_beam_is_exact_under_every_rule(rule: LengthRule, penalty: float, offset: float, finished: str) -> None:
    stopping = "never" if finished == "pooled" else "false"
    got = hypotheses(Beam(31, penalty, stopping, rule, offset, finished))
    by = divisor(rule, penalty, offset, prompt=1)
    exact = sorted((log_p / by(len(text)) for text, log_p in all_sequences().items()), reverse=True)
    assert [h.ranked(by) for h in got] == pytest.approx(exact)


def test_wider_beams_find_no_worse() -> None:
    best = [hypotheses(Beam(width=width, length_penalty=0.0, finished="kept"))[0].log_p for width in (1, 2, 3, 31)]
    assert best[-1] == max(best) == pytest.approx(math.log(0.2))


def test_greedy_on_the_chain() -> None:
    (only,) = hypotheses(Beam(width=1))
    assert (letters(only.tokens), round(only.log_p, 4)) == ("abab", -2.7826)


def test_what_goes_together() -> None:
    with pytest.raises(UserError, match="needs a pool"):
        Beam(finished="kept", early_stopping="true")
    with pytest.raises(UserError, match="sockeye only"):
        Beam(offset=1.0)


@pytest.mark.parametrize(("distance", "discount", "golden"), [
    ("hamming", 1.0, [(0.223, "abab"), (0.224, "a$"), (0.2513, "a$"), (0.2514, "baba")]),
    ("cumulative", 0.0, [(0.223, "abab"), (0.224, "a$"), (0.2513, "a$"), (0.2514, "baba")]),
    ("cumulative", 1.0, [(0.0557, "abab"), (0.0559, "aba$"), (0.1061, "aba$"), (0.1062, "ab$"), (0.1115, "ab$"),
                         (0.1116, "a$"), (0.2513, "a$"), (0.2514, "baba")]),
    ("cumulative", 0.5, [(0.1190, "abab"), (0.1191, "aba$"), (0.1487, "aba$"), (0.1488, "a$"), (0.2514, "baba")]),
    ("ngram", 1.0, [(0.1115, "abab"), (0.1116, "aba$"), (0.2231, "aba$"), (0.2232, "a$"), (5.0, "a$")])])
def test_thresholds_of_every_distance(distance: str, discount: float, golden: list[tuple[float, str]]) -> None:
    """Group 1 writes abab. Where group 2 leaves it: ln(.5/.4) and ln(.55/.4) over what the step has added up."""
    for diversity, text in golden:
        strategy = DiverseBeam(2, 2, diversity, 0.0, distance=distance, discount=discount)
        first, second = strategy.grouped(Session(markov()), chain_request())
        assert (letters(first.pool[0].tokens), letters(second.pool[0].tokens)) == ("abab", text), diversity


def test_single_tokens_are_counted_wherever_they_stand() -> None:
    """`ngram=1`: after a a third group finds a once in each of two others."""
    groups = DiverseBeam(3, 3, 0.05, 0.0, distance="ngram", ngram=1).grouped(Session(markov()), chain_request())
    scores = [group.pool[0].score - group.pool[0].log_p for group in groups]
    assert [letters(group.pool[0].tokens) for group in groups[:2]] == ["abab", "abab"]
    assert scores[1] == pytest.approx(-0.05 * (1 + 1 + 2 + 2))


@pytest.mark.parametrize("distance", ["hamming", "cumulative", "ngram"])
@pytest.mark.parametrize("diversity", [0.0, 0.3, 2.0])
def test_the_first_group_and_the_whole_of_one_are_plain(distance: str, diversity: float) -> None:
    whole = [h.tokens for h in hypotheses(Beam(width=4, length_penalty=0.0))]
    assert [h.tokens for h in hypotheses(DiverseBeam(4, 1, diversity, 0.0, distance=distance))] == whole
    half = [h.tokens for h in hypotheses(Beam(width=2, length_penalty=0.0))]
    groups = DiverseBeam(4, 2, diversity, 0.0, distance=distance).grouped(Session(markov()), chain_request())
    assert [h.tokens for h in groups[0].pool] == half
    if diversity == 0:
        assert [h.tokens for h in groups[1].pool] == half
