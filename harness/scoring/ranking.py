"""Ranks of a passage among others by BM25, for answers that name a passage."""

import math
from collections import Counter
from collections.abc import Sequence

K1, B = 1.2, 0.75


class Bm25:
    """An index of passages by their words, in lower case (Robertson and Zaragoza 2009, with the usual k1 and b)."""

    def __init__(self, passages: Sequence[str]) -> None:
        lengths = [len(words(one)) for one in passages]
        mean = sum(lengths) / max(1, len(lengths))
        self.norms = [K1 * (1 - B + B * length / mean) for length in lengths]
        self.places: dict[str, list[tuple[int, int]]] = {}
        for number, one in enumerate(passages):
            for word, count in Counter(words(one)).items():
                self.places.setdefault(word, []).append((number, count))

    def scores(self, query: str) -> list[float]:
        """Return the score of each passage for a query."""
        scores = [0.0] * len(self.norms)
        for word, times in Counter(words(query)).items():
            found = self.places.get(word, [])
            weight = times * math.log(1 + (len(scores) - len(found) + 0.5) / (len(found) + 0.5))
            for number, count in found:
                scores[number] += weight * count * (K1 + 1) / (count + self.norms[number])
        return scores

    def rank(self, query: str, passage: int) -> float:
        """Return the rank of a passage for a query, from 1: the mean rank of those with its score."""
        scores = self.scores(query)
        better = sum(score > scores[passage] for score in scores)
        return better + (1 + sum(score == scores[passage] for score in scores)) / 2


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without commas and full stops."""
    return text.lower().replace(",", " ").replace(".", " ").split()
