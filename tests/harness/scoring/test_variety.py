"""The figures of variety, against values counted by hand, slow recomputation and what must hold for any text."""

import math
import random

import pytest

from harness.scoring import variety
from harness.stats.pass_at_k import pass_at_k

LOOP = ["a", "b", "a", "b", "a", "b", "c"]


def drawn(seed: int, texts: int = 12, letters: str = "abcdefgh") -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(letters, k=rng.randint(4, 30)) for _ in range(texts)]


def test_the_two_ways_to_count_repeats() -> None:
    assert [variety.rep_n([LOOP], n) for n in (2, 3, 4)] == pytest.approx([0.5, 0.4, 0.25])
    assert [variety.rep_n([LOOP], n, "simctg") for n in (2, 3, 4)] == pytest.approx([0.6, 0.5, 1 / 3])
    assert variety.diversity([LOOP]) == pytest.approx(0.225)
    assert variety.diversity([LOOP], "simctg") == pytest.approx(0.4 / 3)


def test_repeats_of_several_texts_are_a_ratio_of_sums_and_short_texts_are_counted() -> None:
    texts = [LOOP, ["x"], ["u", "v", "w", "x", "y"]]
    assert variety.rep_n(texts, 2) == pytest.approx(1 - (3 + 4) / (6 + 4))  # the mean of ratios would be 0.25
    assert [variety.too_short(texts, n) for n in (1, 2, 6)] == [0, 1, 2]
    assert variety.rep_n([["x"]], 2) is None
    assert variety.rep_n([["x", "y"]], 2, "simctg") is None
    assert variety.diversity([["x", "y", "z"]]) is None


@pytest.mark.parametrize("length", [4, 10, 200])
def test_a_text_of_one_word_has_nothing_new(length: int) -> None:
    constant = [["a"] * length]
    for n in (1, 2, 3, 4):
        assert variety.rep_n(constant, n) == pytest.approx(1 - 1 / (length - n + 1))
        assert variety.distinct_n(constant, n) == pytest.approx(1 / (length - n + 1))
    assert variety.diversity(constant) == pytest.approx(math.prod(1 / (length - n + 1) for n in (2, 3, 4)))
    assert variety.zipf(constant) is None


def test_texts_without_a_repeat() -> None:
    texts = [list(range(20)), list(range(20, 45))]
    assert [variety.rep_n(texts, 2), variety.diversity(texts), variety.distinct_n(texts, 1)] == [0, 1, 1]
    assert variety.zipf(texts) is None


def test_distinct_counts_types_over_the_whole_set_and_hapax_only_those_that_occur_once() -> None:
    texts = [["a", "b", "c"], ["a", "b", "d"]]
    assert variety.distinct_n(texts, 1) == pytest.approx(4 / 6)
    assert variety.hapax_n(texts, 1) == pytest.approx(2 / 6)
    assert variety.distinct_n(texts, 2) == pytest.approx(3 / 4)
    assert variety.hapax_n(texts, 2) == pytest.approx(2 / 4)
    assert variety.div_n(texts, 2) == pytest.approx(3 / 6)
    assert [f([["a"]], 2) for f in (variety.distinct_n, variety.hapax_n)] == [None, None]
    assert variety.div_n([[]], 1) is None


def test_distinct_falls_when_a_set_is_said_twice() -> None:
    for seed in range(20):
        texts = drawn(seed)
        once, twice = variety.distinct_n(texts, 2), variety.distinct_n([*texts, *texts], 2)
        assert once is not None
        assert twice == pytest.approx(once / 2)


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.7])
def test_zipf_finds_the_slope_of_a_power_law(slope: float) -> None:
    counts = [round(100_000 / rank**slope) for rank in range(1, 40)]
    text = [word for word, count in enumerate(counts) for _ in range(count)]
    assert variety.zipf([text]) == pytest.approx(slope, abs=1e-3)


def test_zipf_looks_at_the_most_frequent_types_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variety, "FREQUENT", 2)
    assert variety.zipf([["a", "a", "a", "a", "b", "b", "c", "d", "e", "f", "g"]]) == pytest.approx(1)


@pytest.mark.parametrize(("text", "loops"), [
    ("x y a b c a b c", True), ("a b c a b c d", False), ("a b c", False), ("", False),
    ("z " + "a " * 50, False), ("z " + "a " * 51, True), ("a b " * 50, False), ("a b " * 51, True),
    ("the cat sat " * 2, True), ("q " + " ".join(map(str, range(90))) * 1, False),
    (" ".join([*map(str, range(90))] * 2), True), (" ".join([*map(str, range(91))] * 2), False),
])
def test_loops_at_the_end(text: str, loops: bool) -> None:
    assert variety.repetitive(text.split()) is loops


def test_copies_of_a_source() -> None:
    source, text = ["the", "cat", "sat", "on", "the", "mat"], ["a", "cat", "sat", "on", "a", "mat"]
    assert variety.copied(text, source, 2) == pytest.approx(2 / 5)
    assert variety.copied(text, source, 8) is None
    assert variety.longest_copy(text, source) == 3
    assert variety.copied(source, source, 3) == 1
    assert variety.longest_copy([], source) == 0


def test_self_bleu_is_that_of_the_library_with_all_others_as_references() -> None:
    from sacrebleu.metrics.bleu import BLEU

    for seed in range(6):
        texts = drawn(seed, letters="abcd" if seed % 2 else "abcdefgh")
        for n in (2, 4):
            bleu = BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=False,
                        max_ngram_order=n, force=True)
            each = [bleu.sentence_score(" ".join(text), [" ".join(t) for j, t in enumerate(texts) if j != i]).score
                    for i, text in enumerate(texts)]
            assert variety.self_bleu(texts, n) == pytest.approx(sum(each) / len(each) / 100)


def test_self_bleu_of_copies_is_one_and_of_strangers_near_nought() -> None:
    texts = drawn(3)
    assert variety.self_bleu([*texts, *texts]) == pytest.approx(1)
    strangers = [[f"{i}-{j}" for j in range(10)] for i in range(5)]
    assert variety.self_bleu(strangers) == 0
    lower, higher = variety.self_bleu(drawn(3, letters="abcdefghijklmnop")), variety.self_bleu(drawn(3, letters="ab"))
    assert lower is not None
    assert higher is not None
    assert lower < higher
    assert variety.self_bleu([*texts, ["a"]]) == variety.self_bleu(texts)  # too short for an order
    assert variety.self_bleu(texts[:1]) is None


def test_the_best_of_several_samples() -> None:
    assert variety.oracle_at_k([0.2, 0.9, 0.4], 3) == pytest.approx(0.9)
    assert variety.oracle_at_k([0.2, 0.9, 0.4], 1) == pytest.approx(0.5)
    assert variety.oracle_at_k([0.2, 0.9, 0.4], 2) == pytest.approx((0.9 + 0.4 + 0.9) / 3)
    for n, right, k in ((5, 2, 2), (6, 0, 3), (6, 6, 1), (7, 3, 4)):
        assert variety.oracle_at_k([1.0] * right + [0.0] * (n - right), k) == pytest.approx(pass_at_k(n, right, k))
    with pytest.raises(ValueError, match="oracle@4"):
        variety.oracle_at_k([1, 2, 3], 4)


def test_answers_of_a_list() -> None:
    assert variety.unique_share(["a", "b", "a", "c"]) == 0.75
    assert variety.unique_share([]) is None
    assert variety.hamming([[1, 2, 3], [1, 2, 4, 5]]) == pytest.approx(0.5)
    assert variety.hamming([[1, 2], [1, 2], [3, 4]]) == pytest.approx(2 / 3)
    assert variety.hamming([[1]]) is None
