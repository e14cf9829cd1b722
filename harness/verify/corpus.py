"""Metrics of sets of texts as offline metrics of Hugging Face `evaluate`.

Importing this module imports `evaluate` (seconds).
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from harness.measure.texts import scorer_figures
from harness.models.likelihood import fitted, score_answers
from harness.models.loading import Model
from harness.models.prompts import encode
from harness.scoring.variety import figures
from harness.stats.mauve import SEEDS, mauve

TEXT, VECTOR = datasets.Value("string"), datasets.List(datasets.Value("float32"))


class CorpusMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric of a whole set of texts, computed in memory; `columns` are its input features."""

    columns: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__ or "", citation="", inputs_description="",
                                   features=datasets.Features(self.columns))


class Variety(CorpusMetric):
    """Repetition, diversity, distinct-n, self-BLEU and Zipf's coefficient of texts, over words between white space."""

    columns = {"predictions": TEXT}  # noqa: RUF012 - evaluate wants a plain dict

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        return {name: value for name, value in figures([text.split() for text in predictions]).items()
                if value is not None}


class ScoredTexts(CorpusMetric):
    """Coherence, and perplexity over tokens and over texts, of continuations under a model after their prompts."""

    columns = {"predictions": TEXT, "references": TEXT}  # noqa: RUF012

    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        texts = [fitted(self.model, encode(self.model, prompt),
                        self.model.tokenizer(text, add_special_tokens=False)["input_ids"])
                 for text, prompt in zip(predictions, references, strict=True)]
        scores = score_answers(self.model, texts)
        return scorer_figures([(scores[text].logp, len(text[1])) for text in texts])


class Mauve(CorpusMetric):
    """MAUVE of features of texts and of references: the mean over the seeds of its k-means."""

    columns = {"predictions": VECTOR, "references": VECTOR}  # noqa: RUF012

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        expected, predicted = np.array(references), np.array(predictions)
        return {"mauve": float(np.mean([mauve(expected, predicted, seed) for seed in SEEDS]))}
