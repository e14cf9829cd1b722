"""Metrics of texts that are compared with references of people: translations, summaries, texts about facts.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

from functools import cache
from typing import Any

from harness.scoring.corpus import sentence_scores, statistics
from harness.scoring.metrics import Gold, SampleMetric
from harness.scoring.slots import RESTAURANTS, slot_errors

ROUGE = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeLsum": "rouge_lsum"}


class Translated(SampleMetric):
    """Scores a translation: `chrf` and `sentence_bleu`, 0 to 1, of sacrebleu.

    Gold is `{"references": [...], "tokenizer": ...}`; the tokenizer is that of BLEU.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return both scores."""
        return sentence_scores(statistics(answers[-1].strip(), gold["references"], gold["tokenizer"]))


class Summarised(SampleMetric):
    """Scores a summary: the F1, 0 to 1, of `rouge_1` and `rouge_2` (words, word pairs) and `rouge_lsum`.

    They are those of the package rouge-score with its stemmer (Lin 2004): English words, of which only a to z and
    digits count. `rouge_lsum` unites the longest common subsequences of lines. Gold is `{"references": [...]}`, of
    which each score takes the best.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return the three scores."""
        scores = _scorer().score_multi(gold["references"], answers[-1])
        return {ours: float(scores[theirs].fmeasure) for theirs, ours in ROUGE.items()}


class FactsTold(SampleMetric):
    """Scores a text about a restaurant: `faultless`, 1 without a slot error, the errors, `chrf` and `sentence_bleu`.

    `missing`, `repeated` and `wrong` count slots as `slot_errors` does. Gold is `{"slots": [[name, value], ...],
    "references": [...], "tokenizer": ...}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return all scores."""
        errors = slot_errors(answers[-1], gold["slots"], RESTAURANTS)
        counts = {name: float(count) for name, count in errors._asdict().items()}
        return {"faultless": float(not sum(errors)), **counts,
                **sentence_scores(statistics(answers[-1].strip(), gold["references"], gold["tokenizer"]))}


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # here, because it imports nltk (seconds)

    return RougeScorer(list(ROUGE), use_stemmer=True)
