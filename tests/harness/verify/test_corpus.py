"""The metrics of sets of texts through `evaluate`."""

import math

import pytest

from harness.measure.texts import scorer_figures
from harness.verify.corpus import Mauve, ScoredTexts, Variety
from tests.pair import saved


def test_variety() -> None:
    found = Variety().compute(predictions=["a b a b a b c", "x y"])
    assert (found["rep_2"], found["rep_2_simctg"]) == pytest.approx((1 - 4 / 7, 0.6))
    assert found["distinct_1"] == pytest.approx(5 / 9)
    assert "self_bleu_4" not in found  # one text of four words or more
    assert Variety().compute(predictions=["a"]) == {"distinct_1": 1, "loops": 0}


def test_perplexity_over_tokens_and_over_texts() -> None:
    found = scorer_figures([(-4, 4), (-4, 2), (0, 0)])
    assert found == pytest.approx({"coherence": -1.5, "perplexity": math.exp(8 / 6),
                                   "perplexity_macro": (math.e + math.e**2) / 2})
    assert scorer_figures([(-1e6, 1)])["perplexity"] == math.inf
    assert scorer_figures([(0, 0)]) == {}


def test_a_scorer_reads_a_text_after_its_prompt() -> None:
    from harness.models.loading import load

    metric = ScoredTexts(load(str(saved("llama"))))
    one, other = ({"predictions": ["two three"], "references": [prompt]} for prompt in ("one ", "zero one "))
    found = metric.compute(**one)
    assert found["perplexity"] == pytest.approx(math.exp(-found["coherence"]))
    assert metric.compute(**other)["coherence"] != pytest.approx(found["coherence"])
    both = metric.compute(predictions=["two three"] * 2, references=["one ", "zero one "])
    assert both["coherence"] == pytest.approx((found["coherence"] + metric.compute(**other)["coherence"]) / 2)


def test_mauve() -> None:
    same, other = [[1.0, 0.0]] * 5, [[0.0, 1.0]] * 5
    assert Mauve().compute(predictions=same, references=same)["mauve"] == pytest.approx(1)
    assert Mauve().compute(predictions=same, references=other)["mauve"] == pytest.approx(0.004072, abs=5e-7)
