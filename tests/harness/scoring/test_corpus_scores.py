"""BLEU and chrF from sums against counting by hand and sacrebleu's public functions; ROUGE by hand."""

import random

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from harness.scoring.corpus import TOKENIZERS, corpus_score, sentence_scores, signatures, statistics
from harness.scoring.long_texts import rouge_l
from harness.scoring.references import Summarised

WORDS = ["the", "cat", "sat", "on", "a", "mat", ".", "river,", "houses", "ran"]


def drawn(count: int) -> tuple[list[str], list[list[str]]]:
    """Random answers, the first of them empty, each with two references that begin or end as it does."""
    rng = random.Random(7)
    answers = [" ".join(rng.choices(WORDS, k=rng.randint(0, 9) * bool(number))) for number in range(count)]
    return answers, [[f"{one[:len(one) // 2]} {rng.choice(WORDS)}", f"{rng.choice(WORDS)} {one[len(one) // 3:]}"]
                     for one in answers]


def test_bleu_and_chrf_by_hand() -> None:
    counts = statistics("the cat sat on the mat", ["the cat is on the mat"])
    assert counts["bleu"] == [6, 6, 5, 3, 1, 0, 6, 5, 4, 3], "lengths, right n-grams, n-grams"
    smoothed = (5 / 6 * 3 / 5 * 1 / 4 * 1 / (2 * 3)) ** (1 / 4)  # an order without a match counts half a match
    assert corpus_score("bleu", counts["bleu"]) == pytest.approx(100 * smoothed)
    short = statistics("ab", ["abc"])  # precision 1 and 1, recall 2/3 and 1/2 of characters and pairs
    recall = (2 / 3 + 1 / 2) / 2
    assert corpus_score("chrf", short["chrf"]) == pytest.approx(100 * 5 * recall / (4 + recall))
    assert sentence_scores(short)["chrf"] == pytest.approx(5 * recall / (4 + recall))
    assert corpus_score("ser", [3, 12]) == 25
    assert corpus_score("ser", [0, 0]) == 0


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_sums_give_what_sacrebleu_gives(tokenizer: str) -> None:
    answers, references = drawn(30)
    counts = [statistics(answer, texts, tokenizer) for answer, texts in zip(answers, references, strict=True)]
    streams = [list(stream) for stream in zip(*references, strict=True)]
    for name, metric in (("bleu", BLEU(tokenize=tokenizer, force=True)), ("chrf", CHRF())):
        sums = [sum(column) for column in zip(*(one[name] for one in counts), strict=True)]
        wanted = metric.corpus_score(answers, streams)
        assert 5 < wanted.score < 95
        assert corpus_score(name, sums) == pytest.approx(wanted.score, abs=1e-9)
        assert signatures(tokenizer, 2)[name] == f"sacrebleu, {metric.get_signature()}"
    assert "nrefs:var|" in signatures(references=None)["bleu"]
    bleu, chrf = BLEU(tokenize=tokenizer, effective_order=True), CHRF()
    for answer, texts, one in zip(answers, references, counts, strict=True):
        found = sentence_scores(one)
        assert 100 * found["sentence_bleu"] == pytest.approx(bleu.sentence_score(answer, texts).score)
        assert 100 * found["chrf"] == pytest.approx(chrf.sentence_score(answer, texts).score)


def rouge(answer: str, *references: str) -> list[float]:
    return list(Summarised().sample([answer], {"references": list(references)}).values())


def test_rouge_by_hand() -> None:
    found = rouge("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog")
    assert found == pytest.approx([2 * 6 / (9 + 8), 2 * 2 / (8 + 7), 2 * 5 / (9 + 8)]), "dog is out of order"
    assert rouge("He was JUMPING, twice", "he was jumped twice") == [1, 1, 1], "stems, without case and punctuation"
    assert rouge("d e f\na b c", "a b c\nd e f")[2] == 1, "lines are sentences, in any order"
    assert rouge("d e f a b c", "a b c d e f")[2] == 0.5
    assert rouge("", "a b") == rouge("...", "a b") == [0, 0, 0]
    assert rouge("a b", "x y", "a b") == [1, 1, 1], "the best reference"


def test_the_rouge_of_longbench_is_another_one() -> None:
    assert rouge("the the the cat", "the cat the dog the")[2] == pytest.approx(2 * 3 / (4 + 5)), "words as often"
    assert rouge_l("the the the cat", "the cat the dog the") == pytest.approx(2 * 1 / (2 + 3)), "different words"
    assert rouge("Jumping dogs", "jumped dog")[2] == 1
    assert rouge_l("Jumping dogs", "jumped dog") == 0
