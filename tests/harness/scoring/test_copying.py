"""Passages to correct and to sum up: what is spoilt, what is asked, and how an answer is scored."""

import random
import re

import pytest

from harness.nano.corpus import problems
from harness.nano.edits import FAULTS, FLAWLESS, SENTENCES, spoilt
from harness.nano.misspellings import KINDS, misspelt
from harness.nano.passages import sentence, topics
from harness.scoring.copying import ExactText, SentencesKept, sentences
from strategies.drafters.ngram import NgramLookup

EDITS = problems("edit", "train", 400)
SUMMARIES = problems("summary", "train", 400)


def asked(problem) -> tuple[str, str]:
    """The text of a prompt, and what its last line asks for."""
    text, _, last = problem.turns[0].rpartition("\n")
    return text.removeprefix("Text: "), last


def test_every_fault_changes_one_place_and_all_kinds_occur():
    rng, kinds = random.Random(0), set()
    for _ in range(1500):
        text = sentence(rng, topics(rng, 1)[0])
        kind, wrong = spoilt(rng, text)
        assert wrong != text
        kinds.add(kind)
        assert abs(len(wrong.split()) - len(text.split())) <= 1
    assert kinds == set(FAULTS)
    assert len(FAULTS) >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelling_leaves_no_doubt(kind):
    rng = random.Random(1)
    words = {word for one in EDITS for word in re.findall(r"\b[a-z]{5,}\b", one.answers[0])}
    slips = {misspelt(rng, word, kind) for word in words for _ in range(5)}
    assert len(slips - words) > 100
    assert misspelt(rng, "xyzzy", kind) == "xyzzy"


def test_passages_have_some_faults_and_few_have_none():
    flawless = 0
    for one in EDITS:
        text, last = asked(one)
        assert last == "Corrected:"
        right = one.answers[0].removeprefix(" ")
        assert right == one.check["text"]
        assert SENTENCES[0] <= len(sentences(right)) <= SENTENCES[1]
        flawless += text == right
    assert 0 < flawless / len(EDITS) < 2 * FLAWLESS


def test_no_faulty_text_is_right_somewhere_else():
    right = {text for one in EDITS for text in sentences(one.answers[0])}
    for one in EDITS:
        own = set(sentences(one.answers[0]))
        assert not {text for text in sentences(asked(one)[0]) if text not in own} & right


def test_a_summary_is_what_the_rule_says():
    for one in SUMMARIES:
        text, last = asked(one)
        name = last.removeprefix("Summary of ").removesuffix(":")
        kept, inside = [], False
        for said in sentences(text):
            first = re.match(r"(The \w+|\w+)", said)
            assert first is not None
            if first[1] not in ("She", "He", "It"):
                inside = first[1].casefold() == name.casefold()
            if inside:
                kept.append(said)
            else:
                assert name.removeprefix("the ") not in re.findall(r"\w+", said)
        assert " ".join(kept) == one.check["text"] == one.answers[0].removeprefix(" ")
    counts = [len(sentences(one.answers[0])) for one in SUMMARIES]
    assert {1, 2, 3} == set(counts)
    assert max(len(asked(one)[0].split()) for one in SUMMARIES) <= 130


def test_corrections_are_scored():
    metric = ExactText()
    gold = {"text": "The park is open in May. Tom went to the market."}
    assert metric.sample([" The park is open in May. Tom went to the market.\n"], gold) == {
        "exact": 1, "similarity": 1}
    near = metric.sample(["The park are open in May. Tom went to the market."], gold)
    assert near == {"exact": 0, "similarity": pytest.approx(20 / 22)}
    assert metric.sample([""], gold) == {"exact": 0, "similarity": 0}


def test_summaries_are_scored():
    metric = SentencesKept()
    gold = {"text": "Tom sang. He left."}
    assert metric.sample([" Tom sang. He left."], gold) == {"exact": 1, "f1": 1}
    assert metric.sample(["Tom sang."], gold) == {"exact": 0, "f1": pytest.approx(2 / 3)}
    assert metric.sample(["He left. Tom sang. The cat ran."], gold) == {"exact": 0, "f1": pytest.approx(0.8)}
    assert metric.sample(["Tom sang. Tom sang."], gold) == {"exact": 0, "f1": 0.5}
    assert metric.sample([""], gold) == {"exact": 0, "f1": 0}


@pytest.mark.parametrize(("found", "tau"), [(EDITS, 3.0), (SUMMARIES, 4.0)])
def test_looking_words_up_drafts_most_of_the_reference(found, tau):
    drafter = NgramLookup(3, 10)
    written = steps = 0
    for one in found[:50]:
        text, answer = re.findall(r"\w+|\W", one.turns[0]), re.findall(r"\w+|\W", one.answers[0])
        words = {word: number for number, word in enumerate(dict.fromkeys(text + answer))}
        ids, wanted = [words[word] for word in [*text, answer[0]]], [words[word] for word in answer[1:]]
        while wanted:
            draft = drafter.lookup(ids)
            taken = next((n for n, (a, b) in enumerate(zip(draft, wanted, strict=False)) if a != b),
                         min(len(draft), len(wanted)))
            ids, wanted = ids + wanted[: taken + 1], wanted[taken + 1 :]
            steps += 1
        written += len(answer) - 1
    assert written / steps > tau
