"""The text tables of an artificial run, in which every figure can be counted by hand."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import report
from harness.measure.texts import answers_of, rank_correlation, sample_table, text_table, utility_table
from harness.report import page, texts
from harness.store.folder import Store
from harness.store.schema import MauveScores, TextMetrics, TextScore
from tests.runs import manifest, record, strategy, task, turn, write

LOOP, PLAIN, OTHER, LONG = "a b a b a b c", "p q r s t", "p q r s u", "d e f g h"
MARKDOWN = """
### story: Texts

The first answer to each prompt, and the references if there are any. Closer to the references is better, \
a lower perplexity or a higher diversity is not. Units are words.

| strategy | texts | rep-2 | rep-3 | rep-4 | diversity | distinct-1 | distinct-2 | self-BLEU-4 | Zipf | loops | \
coherence | cosine | gen-ppl | gen-ppl macro | MAUVE | MAUVE ± | bits/tok | likeliest | entropy | unevenness | \
rep/ℓ | tokens | EOS | truncated |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | \
---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `reference` | 1 | 0.000 | 0.000 | 0.000 | 1.000 | 1.000 | 1.000 | – | – | 0 % | -1.00 | 0.50 | 2.72 | 2.72 | – | \
– | 1.44 | 50 % | 1.00 | 1.00 | 0.250 | 4 | – | – |
| `greedy` | 2 | 0.300 | 0.250 | 0.167 | 0.438 | 0.667 | 0.700 | 0.000 | 0.62 | 0 % | -1.50 | 0.50 | 3.79 | 5.05 | \
0.500 | 0.141 | 1.92 | 50 % | 1.00 | 1.00 | 0.250 | 3 | 50 % | 50 % |
| `top_p` | 2 | 0.000 | 0.000 | 0.000 | 1.000 | 1.000 | 1.000 | 0.000 | – | 0 % | -1.00 | 0.50 | 2.72 | 2.72 | – | \
– | 1.44 | 50 % | 1.00 | 1.00 | 0.250 | 4 | 100 % | 0 % |

- scored by big
- story: MAUVE of 2 texts is biased and noisy; it needs 1,000

### story: Several samples

Differences between the answers to one prompt, as means over prompts.

| strategy | samples | prompts | unique | unique texts | distinct-2 | div-2 | self-BLEU-4 | Hamming | oracle@1 | \
oracle@k |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `top_p` | 2 | 2 | 0.750 | 1.000 | 0.662 | 0.542 | 0.334 | 62 % | 0.500 | 1.000 |

### story: Likelihood and utility

Rank correlation of an answer's mean log probability per token under the evaluated model and its score: near 1, a \
search for likely answers finds good ones; near 0 or below, it does not.

| strategy | answers | log p | log p/tok | reference | quality | τ-b | ρ | τ-b whole | τ-b within | prompts |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `all strategies` | 6 | -4.33 | -1.25 | -1.00 | 0.500 | 0.20 | 0.21 | 0.56 | 0.25 | 2 |
| `greedy` | 2 | -4.00 | -1.50 | -1.00 | 0.500 | -1.00 | -1.00 | – | – | 0 |
| `top_p` | 4 | -4.50 | -1.12 | -1.00 | 0.500 | 0.67 | 0.71 | 0.67 | 1.00 | 2 |
"""


def score(example: str, strategy: str, logp: float, tokens: int = 4, sample: int = 0, **more: Any) -> TextScore:
    return TextScore(**{
        "task": "story", "example": example, "strategy": strategy, "sample": sample, "tokens": tokens, "logp": logp,
        "greedy": 0.5, "entropy": 1.0, "uneven": 1.0, "rep": 0.25, "scorer_tokens": tokens, "scorer_logp": logp,
        "cosine": 0.5, **more})


SCORES = [
    score("a", "", -4, text=LONG),
    score("a", "greedy", -4, answer="x"), score("b", "greedy", -4, tokens=2, answer="y"),
    score("a", "top_p", -4, answer="x"), score("a", "top_p", -8, sample=1, answer="x"),
    score("b", "top_p", -4, answer="y"), score("b", "top_p", -2, sample=1, answer="z"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    described = manifest([strategy("greedy"), strategy("top_p", "sampling", "distribution-preserving")],
                         [task("story"), task("math")])
    found = write(tmp_path / "run", described, [
        record("story", "a", "greedy", [turn([4], [0.1], text=LOOP)], 0),
        record("story", "b", "greedy", [turn([2], [0.1], text=PLAIN, stop="length")], 1),
        record("story", "a", "top_p", [turn([4], [0.1], text=PLAIN)], 1),
        record("story", "a", "top_p", [turn([4], [0.1], text=OTHER, ids=[0, 1, 2, 9])], 0, sample=1),
        record("story", "b", "top_p", [turn([4], [0.1], text=LONG)], 0),
        record("story", "b", "top_p", [turn([4], [0.1], text=LOOP, ids=[4, 5, 6, 7])], 1, sample=1),
        record("math", "c", "greedy", [turn([4], [0.1])], 1),
    ])
    found.write_text_metrics(TextMetrics(scorer="big", own=False, tasks=["story"], scores=SCORES, likeness=[
        MauveScores(task="story", strategy="greedy", texts=2, references=1, scores=[0.4, 0.6])]))
    return found


def row(frame: Any, strategy: str) -> Any:
    return frame[frame["strategy"] == strategy].iloc[0]


def test_markdown(store: Store) -> None:
    assert texts.markdown(texts.sections([store])) == MARKDOWN


def test_figures_of_texts_by_hand(store: Store) -> None:
    frame = text_table(store, answers_of(store))
    greedy = row(frame, "greedy")
    assert greedy[["rep_2", "rep_3", "rep_4"]].tolist() == pytest.approx([3 / 10, 2 / 8, 1 / 6])
    assert greedy[["rep_2_simctg", "diversity_simctg"]].tolist() == pytest.approx([3 / 8, 5 / 8 * 4 / 6 * 3 / 4])
    assert greedy["coherence"] == pytest.approx(-1.5)  # of texts, the mean over tokens would be -4/3
    assert greedy["perplexity"] == pytest.approx(math.exp(8 / 6))
    assert greedy["perplexity_macro"] == pytest.approx((math.exp(1) + math.exp(2)) / 2)
    assert greedy["surprise"] == pytest.approx(8 / 6 / math.log(2))
    assert math.isnan(row(frame, "reference")["eos"])
    assert row(frame, "top_p")["texts"] == 2  # the first answers only: sets of one size are compared
    assert set(frame["task"]) == {"story"}


def test_figures_of_several_samples_by_hand(store: Store) -> None:
    several = row(sample_table(store, answers_of(store)), "top_p")
    assert several["unique"] == pytest.approx((1 / 2 + 1) / 2)  # the task reads the same off two texts
    assert several["unique_texts"] == 1
    assert several["distinct_2"] == pytest.approx((5 / 8 + 7 / 10) / 2)
    assert several["div_2"] == pytest.approx((5 / 10 + 7 / 12) / 2)
    assert several["self_bleu_4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 / 2)
    assert several["hamming"] == pytest.approx((1 / 4 + 1) / 2)
    assert several[["oracle_1", "oracle_k"]].tolist() == [0.5, 1]


def test_several_samples_need_no_model(store: Store) -> None:
    (store.folder / "texts.json").unlink()
    several = row(sample_table(store, answers_of(store)), "top_p")
    assert math.isnan(several["unique"])
    assert several["unique_texts"] == 1
    assert text_table(store, answers_of(store)).empty
    assert utility_table(store, answers_of(store)).empty


def test_likelihood_and_utility_by_hand(store: Store) -> None:
    frame = utility_table(store, answers_of(store))
    drawn, every = row(frame, "top_p"), row(frame, "all strategies")
    assert drawn["tau"] == pytest.approx(3 / math.sqrt((6 - 1) * (6 - 2)))
    assert (drawn["tau_within"], drawn["prompts"]) == (1, 2)
    assert every["tau_within"] == pytest.approx((1 / 2 + 0) / 2)
    assert row(frame, "greedy")["tau"] == pytest.approx(-1)
    assert math.isnan(row(frame, "greedy")["tau_whole"])  # both answers are as likely
    assert every["reference_logp"] == -1


def test_the_same_answer_of_two_strategies_is_one_answer(store: Store) -> None:
    texts_known = store.text_metrics()
    assert texts_known
    again = [one.model_copy(update={"strategy": "greedy"}) for one in texts_known.scores if one.example == "b"
             and one.strategy == "top_p" and not one.sample]
    kept = [one for one in texts_known.scores if (one.example, one.strategy) != ("b", "greedy")]
    answers = answers_of(store)
    copy = replace(answers["story", "b", "top_p", 0, 0], key=again[0].key)
    store.write_text_metrics(texts_known.model_copy(update={"scores": kept + again}))
    assert row(utility_table(store, answers | {copy.key: copy}), "all strategies")["answers"] == 5


def test_rank_correlations() -> None:
    logp = [-3.0, -1.0, -2.0, -5.0]
    assert rank_correlation(logp, logp) == pytest.approx(1)
    assert rank_correlation(logp, [-x for x in logp], "spearman") == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], "spearman") == pytest.approx(0.8)
    assert math.isnan(rank_correlation(logp, [1, 1, 1, 1]))
    assert math.isnan(rank_correlation([1], [1]))


def test_short_texts_are_noted(store: Store) -> None:
    lines = store.path.read_text().replace(PLAIN, "p q")
    store.path.write_text(lines)
    notes = texts.sections([store])[0].notes
    assert "greedy on story: 1 of 2 texts have fewer than four words" in notes[-2]


def test_a_report_has_the_tables_everywhere(store: Store, tmp_path: Path) -> None:
    index = report.write([store], tmp_path / "report").page
    files = {path.name for path in index.parent.iterdir()}
    assert files >= {"texts.csv", "samples.csv", "utility.csv"}
    assert (index.parent / "summary.md").read_text().endswith(MARKDOWN)
    csv = (index.parent / "texts.csv").read_text().splitlines()
    assert csv[0].startswith("task,strategy,texts,too_short,words,rep_2")
    assert csv[2].startswith("story,greedy,2,0,6,0.3,0.25,0.166667,0.4375")
    html = index.read_text()
    for part in ("<summary>Likelihood and utility</summary>", "<summary>Several samples</summary>", "self-BLEU-4"):
        assert part in html
    assert html == page.render([store])
    for section in texts.sections([store]):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(texts.terminal(section))
        assert max(map(len, console.export_text().splitlines())) <= 80


def test_several_runs_share_the_tables(store: Store, tmp_path: Path) -> None:
    other = write(tmp_path / "other", manifest([strategy("greedy")], [task("math")]), [])
    sections = texts.sections([store, other])
    assert [section.rows["run"].unique().tolist() for section in sections] == [["run"]] * 3
    assert "greedy (run)" in set(sections[0].rows["label"])
    assert texts.sections([other]) == []
    assert texts.markdown([]) == ""
