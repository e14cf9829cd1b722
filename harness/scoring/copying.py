"""Metrics of tasks whose answer mostly copies the prompt: a corrected passage, an extractive summary.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache

from harness.nano.closed_set import passages
from harness.nano.needles import word_recall
from harness.nano.recall import first_named
from harness.scoring.metrics import Gold, SampleMetric
from harness.scoring.ranking import Bm25


class ExactText(SampleMetric):
    """Compares an answer with the reference: `exact`, 0 or 1, and `similarity`, 0 to 1.

    `similarity` is the ratio of `difflib.SequenceMatcher` over words separated by white space. White space around the
    answer is ignored. Gold is `{"text": ...}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `exact` and `similarity`."""
        answer, wanted = answers[-1].strip(), gold["text"]
        matcher = SequenceMatcher(None, answer.split(), wanted.split(), autojunk=False)
        return {"exact": float(answer == wanted), "similarity": matcher.ratio()}


class SentencesKept(SampleMetric):
    """Compares an extractive summary with the reference: `exact`, 0 or 1, and `f1` over its sentences, 0 to 1.

    Sentences match word for word and count with multiplicity. Gold is `{"text": ...}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `exact` and `f1`."""
        answer, wanted = answers[-1].strip(), gold["text"]
        answer_counts, reference_counts = Counter(sentences(answer)), Counter(sentences(wanted))
        shared = (answer_counts & reference_counts).total()
        return {"exact": float(answer == wanted), "f1": 2 * shared / (answer_counts + reference_counts).total()}


class NewText(SampleMetric):
    """Compares an answer about an edited text with the references of the new and the old text.

    `current` is 1 for an answer with all that the edits put in (`came`), nothing that they took out (`gone`), and more
    than half of the words of the new reference; `exact` is 1 for that reference. `stale` is 1 for an answer with all
    that is gone, or for the old reference. Gold is `{"text": ..., "old": ..., "came": [...], "gone": [...]}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return all scores."""
        answer = answers[-1].strip()
        came, gone = ([_has(answer, one) for one in gold[name]] for name in ("came", "gone"))
        current = all(came) and not any(gone) and word_recall(answer, gold["text"]) > 0.5
        return {"current": float(current), "exact": float(answer == gold["text"]),
                "stale": float((bool(gone) and all(gone)) or answer == gold["old"])}


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


class SameAnswers(SampleMetric):
    """Compares the answers to prompts that say the same in different orders, one order a turn.

    `exact` is the share of right answers, `best` and `worst` are 1 if any or all are right, `distinct` is the number of
    different answers, and `same` is 1 if there is one only. Gold is `{"text": ...}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return all scores."""
        texts = [answer.strip() for answer in answers]
        right, distinct = [self.right(text, gold) for text in texts], len(set(texts))
        return {"exact": sum(right) / len(right), "best": float(any(right)), "worst": float(all(right)),
                "distinct": float(distinct), "same": float(distinct == 1)}

    def right(self, text: str, gold: Gold) -> bool:
        """Return whether an answer is the reference."""
        return bool(text == gold["text"])


class OptionNamed(SameAnswers):
    """Compares answers that choose an option, to prompts with the options in different orders, one order a turn.

    An answer is right if it has the right option, in any letter case, and no other one outside of it. Scores are those
    of `SameAnswers`. Gold is `{"text": ..., "members": [...]}`, where members may be in quotation marks.
    """

    def right(self, text: str, gold: Gold) -> bool:
        """Return whether an answer has the right option and no other."""
        wanted, rest = gold["text"].lower(), text.lower()
        others = {one.strip('"').lower() for one in gold["members"]} - {wanted}
        return wanted in rest and not any(one in rest.replace(wanted, "\n") for one in others)


class FirstWord(SampleMetric):
    """Looks for words of the prompt in an answer: `right` is 1 if the first of them is the reference, else 0.

    `named` is 1 if there is one at all. Gold is `{"text": ..., "words": [...]}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `right` and `named`."""
        found = first_named(answers[-1], gold["words"])
        return {"right": float(found == gold["text"]), "named": float(found is not None)}


class PassageFound(SampleMetric):
    """Looks for an answer in a closed set of passages: `hit`, `inside`, `mrr` and `mrr_query`, each 0 to 1.

    `hit` is 1 for the right passage, `inside` for any passage of the set. `mrr` is one over the rank of the right
    passage by BM25 of the answer, 0 without a word, and `mrr_query` that of the query. Gold is `{"text": ..., "query":
    ..., "passages": count, "near": ...}` with the arguments of `harness.nano.closed_set.passages`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return all scores."""
        answer, (known, index) = answers[-1].strip(), _indexed(gold["passages"], gold["near"])
        right = known[gold["text"]]
        return {"hit": float(answer == gold["text"]), "inside": float(answer in known),
                "mrr": 1 / index.rank(answer, right) if answer else 0.0,
                "mrr_query": 1 / index.rank(gold["query"], right)}


@cache
def _indexed(count: int, near: bool) -> tuple[dict[str, int], Bm25]:
    """Return the numbers of the passages of a closed set, and their index."""
    found = passages(count, near)
    return {one: number for number, one in enumerate(found)}, Bm25(found)


class NeedlesFound(SampleMetric):
    """Looks for hidden sentences in an answer: `found` and `exact`, 0 or 1, and `recall`, 0 to 1.

    `recall` is the share of the words of all needles that the answer has, and `found` says whether that is more than
    half. With several needles, `needles` is the share of them that the answer has word for word, and `ordered` the
    share that it has in the order of the text: the longest such part of them. Gold is `{"text": ..., "needles": [...]}`
    with both in the order of the text.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return all scores."""
        answer, needles = answers[-1].strip(), gold["needles"]
        recall = word_recall(answer, gold["text"])
        scores = {"found": float(recall > 0.5), "recall": recall, "exact": float(answer == gold["text"])}
        if len(needles) > 1:
            places = [answer.find(needle) for needle in needles]
            scores |= {"needles": sum(place >= 0 for place in places) / len(needles),
                       "ordered": longest_rise([place for place in places if place >= 0]) / len(needles)}
        return scores


def longest_rise(numbers: Sequence[int]) -> int:
    """Return the length of the longest part of `numbers`, not necessarily adjacent, that increases."""
    ends: list[int] = []
    for number in numbers:
        ends.append(1 + max((end for end, earlier in zip(ends, numbers, strict=False) if earlier < number), default=0))
    return max(ends, default=0)


def sentences(text: str) -> list[str]:
    """Return the sentences of a plain text: each ends with a full stop before white space or the end."""
    return [one for one in re.split(r"(?<=\.)\s+", text.strip()) if one]
