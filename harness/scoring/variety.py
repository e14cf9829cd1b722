"""Repetition and diversity of texts: pure functions of units, usually words.

Figures with two published definitions have both, under different names. A text that is too short for a figure is left
out of it; a figure without any text is None.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

Units = Sequence[Hashable]
Variant = Literal["standard", "simctg"]
VARIANTS: dict[str, Variant] = {"": "standard", "_simctg": "simctg"}  # suffix of a figure's name
FREQUENT = 5000  # types that Zipf's law is fitted to
LONGEST_LOOP = 90  # units of the longest loop that `repetitive` looks for


def grams(units: Units, n: int) -> list[tuple[Hashable, ...]]:
    """Return all n-grams of a text in order."""
    return [tuple(units[start:start + n]) for start in range(len(units) - n + 1)]


def rep_n(texts: Iterable[Units], n: int, variant: Variant = "standard") -> float | None:
    """Return 1 - unique n-grams / n-grams, where both are sums over `texts`, so long texts weigh more.

    For a single text it is seq-rep-n (Welleck et al. 2020, arXiv 1908.04319). `simctg` follows the code of Su et al.
    2022 (arXiv 2202.06417), which drops the last n-gram of each text.
    """
    unique = total = 0
    for text in texts:
        text_grams = grams(text, n)[:-1] if variant == "simctg" else grams(text, n)
        unique, total = unique + len(set(text_grams)), total + len(text_grams)
    return 1 - unique / total if total else None


def diversity(texts: Sequence[Units], variant: Variant = "standard") -> float | None:
    """Return the product of 1 - `rep_n` for n = 2, 3, 4 (arXiv 2202.06417), None without a text of four units."""
    repeated = [rep_n(texts, n, variant) for n in (2, 3, 4)]
    return None if repeated[-1] is None else math.prod(1 - one for one in repeated if one is not None)


def too_short(texts: Iterable[Units], n: int) -> int:
    """Count the texts without any n-gram, which figures of n-grams leave out."""
    return sum(len(text) < n for text in texts)


def distinct_n(texts: Iterable[Units], n: int) -> float | None:
    """Return unique n-grams over all `texts` / n-grams (Li et al. 2016, arXiv 1510.03055); falls with more texts."""
    counts = Counter(gram for text in texts for gram in grams(text, n))
    return len(counts) / counts.total() if counts else None


def hapax_n(texts: Iterable[Units], n: int) -> float | None:
    """Return n-grams that occur exactly once / n-grams, which the code of Holtzman et al. 2020 calls distinct-n."""
    counts = Counter(gram for text in texts for gram in grams(text, n))
    return sum(count == 1 for count in counts.values()) / counts.total() if counts else None


def div_n(texts: Iterable[Units], n: int) -> float | None:
    """Return unique n-grams of a list of answers / its words, as in diverse beam search (arXiv 1610.02424)."""
    texts = list(texts)
    words = sum(map(len, texts))
    return len({gram for text in texts for gram in grams(text, n)}) / words if words else None


def zipf(texts: Iterable[Units]) -> float | None:
    """Return minus the slope of log frequency over log rank, least squares over the 5000 most frequent units.

    Near 1 in human text, higher if few words are used very often (arXiv 1904.09751). None if all units are equally
    frequent.
    """
    import numpy as np

    counts = [count for _, count in Counter(unit for text in texts for unit in text).most_common(FREQUENT)]
    if len(set(counts)) < 2:
        return None
    slope, _ = np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)
    return -float(slope)


def repetitive(units: Units) -> bool:
    """Return whether a text ends in a loop: its last n units, n up to 90, repeated directly before.

    The loop with the most repetitions decides: at least two, and more than 50 for loops of one or two units (arXiv
    1904.09751).
    """
    text, best, size = list(units), 1, 0
    for n in range(1, min(LONGEST_LOOP, len(text) // 2) + 1):
        rounds, last = 1, text[-n:]
        while text[(start := len(text) - (rounds + 1) * n):start + n] == last and start >= 0:
            rounds += 1
        if rounds > best:
            best, size = rounds, n
    return best > 1 and (size >= 3 or best > 50)


def copied(units: Units, source: Units, n: int) -> float | None:
    """Return the share of a text's n-grams that also occur in `source`."""
    source_grams, text_grams = set(grams(source, n)), grams(units, n)
    return sum(gram in source_grams for gram in text_grams) / len(text_grams) if text_grams else None


def longest_copy(units: Units, source: Units) -> int:
    """Return the length of the longest run of units that a text shares with `source`."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, list(units), list(source), autojunk=False).find_longest_match().size


def self_bleu(texts: Sequence[Units], n: int = 4) -> float | None:
    """Return the mean BLEU of each text against all others, 0 to 1: lower is more diverse (arXiv 1802.01886).

    Orders 1 … n have equal weight; an order without a match counts 0.1 matches (NLTK's `method1`, sacrebleu's `floor`).
    Texts of fewer than n units are left out. Counts are shared between texts, so the cost is linear in the words.
    """
    from sacrebleu.metrics.bleu import BLEU

    kept = [text for text in texts if len(text) >= n]
    if len(kept) < 2:
        return None
    counts = [[Counter(grams(text, order)) for order in range(1, n + 1)] for text in kept]
    highest = [_two_highest(text[order] for text in counts) for order in range(n)]
    lengths = Counter(map(len, kept))
    scores = []
    for text, own in zip(kept, counts, strict=True):
        matches = [sum(min(count, _in_others(count, highest[order][gram])) for gram, count in own[order].items())
                   for order in range(n)]
        total = [len(text) - order for order in range(n)]
        nearest = min((abs(size - len(text)), size) for size, times in lengths.items() if times > (size == len(text)))
        scores.append(BLEU.compute_bleu(matches, total, len(text), nearest[1], "floor", 0.1, max_ngram_order=n).score)
    return math.fsum(scores) / len(scores) / 100


def figures(texts: Sequence[Units]) -> dict[str, float | None]:
    """Return every figure of a set of texts by name; `loops` is the share of texts that are `repetitive`."""
    result: dict[str, float | None] = {}
    for end, variant in VARIANTS.items():
        result |= {f"rep_{n}{end}": rep_n(texts, n, variant) for n in (2, 3, 4)}
        result[f"diversity{end}"] = diversity(texts, variant)
    result |= {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2)}
    result |= {"self_bleu_4": self_bleu(texts, 4), "zipf": zipf(texts)}
    result["loops"] = sum(map(repetitive, texts)) / len(texts) if texts else None
    return result


def _two_highest(counts: Iterable[Mapping[Any, int]]) -> dict[Any, tuple[int, int]]:
    """Return the highest and the second highest count of each n-gram in any text."""
    highest: dict[Any, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for text in counts:
        for gram, count in text.items():
            high, low = highest[gram]
            highest[gram] = (count, high) if count > high else (high, max(low, count))
    return highest


def _in_others(count: int, highest: tuple[int, int]) -> int:
    """Return the highest count of an n-gram in the other texts, if it occurs `count` times in this one."""
    return highest[1] if count == highest[0] else highest[0]


def unique_share(answers: Sequence[Hashable]) -> float | None:
    """Return unique answers / answers to one prompt."""
    return len(set(answers)) / len(answers) if answers else None


def hamming(texts: Sequence[Units]) -> float | None:
    """Return the mean share of positions in which pairs of `texts` differ; missing positions count as different."""
    pairs = [sum(a == b for a, b in zip(one, other, strict=False)) / longer
             for one, other in combinations(texts, 2) if (longer := max(len(one), len(other)))]
    return 1 - math.fsum(pairs) / len(pairs) if pairs else None


def oracle_at_k(scores: Sequence[float], k: int) -> float:
    """Return the maximum of k of the scores, averaged over all subsets of size k.

    For scores of 0 and 1 it is pass@k. Raises ValueError unless 1 <= k <= the number of scores.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"oracle@{k} cannot be estimated from {len(scores)} samples")
    subsets = math.comb(len(scores), k)
    return math.fsum(score * math.comb(rank, k - 1) / subsets for rank, score in enumerate(sorted(scores)))
