"""Metrics of tasks about long texts: values that an answer must contain, and the scores of LongBench.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from harness.scoring.metrics import Gold, SampleMetric

ARTICLES, NUMBER = re.compile(r"\b(a|an|the)\b"), re.compile(r"\d+")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Contains(SampleMetric):
    """Scores the hidden values of an answer: `recall`, 0 to 1, and `all`, 1 if it has every value.

    Gold is `{"values": [...], "rule": ...}`. `recall` is the share of the values that the answer contains, in any
    letter case; with the rule `any`, 1 if it contains one of them; with the rule `first`, 1 if its first whole number
    is the only value.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `recall` and `all`."""
        text, values, rule = answers[-1].lower(), gold["values"], gold["rule"]
        if rule == "first":
            found = [NUMBER.findall(text)[:1] == [values[0]]]
        else:
            found = [value.lower() in text for value in values]
        recall = float(any(found)) if rule == "any" else sum(found) / len(found)
        return {"recall": recall, "all": float(recall == 1)}


class LongBenchScore(SampleMetric):
    """Scores an answer as LongBench does: `score`, 0 to 1, the best one over the reference answers.

    Gold is `{"rule": ..., "answers": [...], "classes": [...], "first_line": ...}`. Rules and normalisation are those of
    the published `metrics.py`, quirks included. `first_line` cuts the answer after its first line.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `score`."""
        text = answers[-1].lstrip("\n").partition("\n")[0] if gold["first_line"] else answers[-1]
        if gold["rule"] == "class":
            return {"score": max(class_score(text, one, gold["classes"]) for one in gold["answers"])}
        return {"score": max(RULES[gold["rule"]](text, one) for one in gold["answers"])}


class NextLine(SampleMetric):
    """Compares the first line of an answer with the next line of code: `exact`, 0 or 1, and `similarity`, 0 to 1.

    `exact` is as in RepoBench without regard to white space, and `similarity` its `fuzz.ratio` in hundredths. Gold is
    `{"text": ...}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `exact` and `similarity`."""
        line, wanted = answers[-1].lstrip("\n").partition("\n")[0], gold["text"]
        ratio = SequenceMatcher(None, line, wanted).ratio()
        return {"exact": float(line.split() == wanted.split()), "similarity": round(100 * ratio) / 100}


def word_f1(text: str, wanted: str) -> float:
    """Return the F1 of the words of a text, in lower case, without punctuation and articles."""
    counts, wanted_counts = Counter(_plain(text)), Counter(_plain(wanted))
    return 2 * (counts & wanted_counts).total() / max(1, counts.total() + wanted_counts.total())


def rouge_l(text: str, wanted: str) -> float:
    """Return the F1 of ROUGE-L as the package `rouge` 1.0.1 defines it, which LongBench uses; 0 without a word.

    The package rouge-score differs: it counts a word as often as it occurs, and stems. Here sentences end with a full
    stop. The longest common subsequences of each sentence of `wanted` with each of `text` are united, and their
    different words are counted, out of all different words of either text.
    """
    sentences, wanted_sentences = ([one.split() or [""] for one in part.split(".") if one] for part in (text, wanted))
    words, wanted_words = ({word for one in part for word in one} for part in (sentences, wanted_sentences))
    common = {word for one in wanted_sentences for other in sentences for word in common_subsequence(one, other)}
    if not (words and wanted_words):
        return 0.0
    precision, recall = len(common) / len(words), len(common) / len(wanted_words)
    return 2 * precision * recall / (precision + recall + 1e-8)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Return the longest common subsequence; of several, the one that ends last in `first`."""
    sizes = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            sizes[i + 1][j + 1] = sizes[i][j] + 1 if word == other else max(sizes[i][j + 1], sizes[i + 1][j])
    i, j, found = len(first), len(second), list[str]()
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(first[i])
        elif sizes[i - 1][j] > sizes[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def share_of_numbers(text: str, wanted: str) -> float:
    """Return the share of the whole numbers of a text that are the one in `wanted`; 0 without a number."""
    numbers, right = NUMBER.findall(text), NUMBER.findall(wanted)[:1]
    return sum([number] == right for number in numbers) / max(1, len(numbers))


def line_similarity(text: str, wanted: str) -> float:
    """Return the similarity of the first line that is code (no `#`, `//` or backtick) to `wanted`, in hundredths.

    It is the ratio of `difflib.SequenceMatcher`, as in fuzzywuzzy without its optional C library.
    """
    lines = text.lstrip("\n").split("\n")
    line = next((one for one in lines if not any(sign in one for sign in ("`", "#", "//"))), "")
    return round(100 * SequenceMatcher(None, line, wanted).ratio()) / 100


def class_score(text: str, wanted: str, classes: Sequence[str]) -> float:
    """Return one over the number of classes that a text names, if `wanted` is one of them, else 0.

    Classes whose names are part of `wanted` do not count, but as published the one after such a class is not looked at.
    """
    named = [one for one in classes if one in text]
    for one in named:
        if one in wanted and one != wanted:
            named.remove(one)
    return 1 / len(named) if wanted in named else 0.0


def _plain(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


RULES: dict[str, Callable[[str, str], float]] = {
    "f1": word_f1, "rouge": rouge_l, "number": share_of_numbers, "code": line_similarity}
