"""Metrics of tasks whose answer mostly copies the prompt: a corrected passage, an extractive summary.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

import re
from collections import Counter
from difflib import SequenceMatcher

from harness.scoring.metrics import Gold, SampleMetric


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


def sentences(text: str) -> list[str]:
    """Return the sentences of a plain text: each ends with a full stop before white space or the end."""
    return [one for one in re.split(r"(?<=\.)\s+", text.strip()) if one]
