"""Metrics of a whole corpus that are computed from sums over its answers: BLEU and chrF of sacrebleu, slot errors.

The statistics of an answer are whole numbers, and their sums over any set of answers (a run, a sub-task, a resample)
give the score of that set. Scores have their usual scale, 0 to 100.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

TITLES = {"bleu": "BLEU", "chrf": "chrF", "ser": "SER"}
TOKENIZERS = ("13a", "intl", "char", "zh", "none")  # those of sacrebleu's BLEU that need no other package
ERRORS = "missing, repeated and wrong slots, in percent of all slots"

Sums = Mapping[str, Sequence[float]]


def statistics(text: str, references: Sequence[str], tokenizer: str = "13a") -> dict[str, list[int]]:
    """Return the statistics of an answer for `bleu` (10 numbers) and `chrf` (18), against its references.

    BLEU counts n-grams of words in any of the references, chrF those of characters in the most similar one.
    """
    streams = [[one] for one in references]  # sacrebleu wants the first reference of all answers, then the second
    return {name: list(map(int, _metric(name, tokenizer)._extract_corpus_statistics([text], streams)[0]))
            for name in ("bleu", "chrf")}


def corpus_score(name: str, sums: Sequence[float]) -> float:
    """Return the score, 0 to 100, of a set of answers from the sums of their statistics (`ser`: errors, slots)."""
    if name == "ser":
        errors, slots = sums
        return 100 * errors / slots if slots else 0.0
    return float(_metric(name)._compute_score_from_stats(list(sums)).score)


def sentence_scores(counts: Sums) -> dict[str, float]:
    """Return `chrf` and `sentence_bleu`, 0 to 1, from the statistics of one answer.

    They are sacrebleu's scores of a sentence: BLEU uses n-grams up to the answer's length (effective order).
    """
    bleu = _metric("bleu", sentence=True)._compute_score_from_stats(list(counts["bleu"])).score
    return {"chrf": corpus_score("chrf", counts["chrf"]) / 100, "sentence_bleu": float(bleu) / 100}


def signatures(tokenizer: str = "13a", references: int | None = 1) -> dict[str, str]:
    """Return sacrebleu's signatures of `bleu` and `chrf`; `references` is None if their number varies."""
    found = {}
    for name in ("bleu", "chrf"):
        metric = _metric(name, tokenizer)
        metric.num_refs = -1 if references is None else references
        found[name] = f"sacrebleu, {metric.get_signature()}"
    return found


@cache
def _metric(name: str, tokenizer: str = "13a", sentence: bool = False) -> Any:
    """Return a metric of sacrebleu.

    It computes statistics and scores in two steps inside, whose names begin with an underscore; all its metrics must
    have them, and a test compares them with its public functions.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(tokenize=tokenizer, effective_order=sentence, force=True) if name == "bleu" else CHRF()
