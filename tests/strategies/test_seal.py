"""Search in a corpus: its index against a scan, keys and passages by hand, and the search against all n-grams."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.prompt_parts import PromptParts
from harness.plugins.strategy import Request
from strategies.beam import Beam
from strategies.parts.passages import Passages, key_score, passage_score
from strategies.seal import InCorpus, Seal
from tests.decode import decode, engine, words
from tests.models import EOS, prompts, tiny_model


@cache
def target() -> Engine:
    return engine(tiny_model("llama", layers=2))


def random_texts(count: int, vocab: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 3 + vocab, size=int(rng.integers(1, 15))).tolist() for _ in range(count)]


def file_of(texts: Sequence[Sequence[int]], path: Path) -> str:
    path.write_text("\n\n".join(" ".join(f"t{token}" for token in text) for text in texts))
    return str(path)


def grams(texts: Sequence[Sequence[int]], length: int) -> list[tuple[int, ...]]:
    return [tuple(text[i:i + length]) for text in texts for i in range(len(text) - length + 1)]


def test_the_index_finds_what_a_scan_finds() -> None:
    texts = random_texts(200, 8, 1)
    corpus = Passages(texts, 97)
    assert corpus.size == sum(map(len, texts))
    assert [corpus.tokens(number) for number in (0, 7, 199)] == [texts[0], texts[7], texts[199]]
    assert corpus.continuations(()) == sorted({token for text in texts for token in text})
    for length in (1, 2, 4):
        for key in [*set(grams(texts, length)), (3,) * length, (90,) * length]:
            occurrences = grams(texts, length).count(key)
            after = [gram[-1] for gram in grams(texts, length + 1) if gram[:-1] == key]
            assert corpus.count(key) == occurrences
            assert corpus.continuations(key) == sorted(set(after))
            at_end = sum(tuple(text[-length:]) == key for text in texts if len(text) >= length)
            assert corpus.count(key) == at_end + sum(corpus.count((*key, token)) for token in set(after))
            places, start = corpus.places(key), 0
            for number, text in enumerate(texts):
                own = [start + i for i in range(len(text) - length + 1) if tuple(text[i:i + length]) == key]
                assert places.get(number, []) == own
                start += len(text) + 1


@pytest.mark.parametrize(("log_p", "count", "score"), [(-1, 3, 18.3525), (-1, 100, 2.5828), (-5, 3, 0), (-7, 100, 0)])
def test_the_numbers_of_keys(log_p: float, count: int, score: float) -> None:
    assert key_score(log_p, count, 1000, 2.0) == pytest.approx(score, abs=5e-5)
    assert key_score(log_p, count, 1000, 1.0) == pytest.approx(math.sqrt(score), abs=5e-5)


def test_a_key_that_is_certain_or_everywhere_has_a_finite_score() -> None:
    assert math.isfinite(key_score(0.0, 3, 1000, 2.0))
    assert key_score(-1.0, 1000, 1000, 2.0) == 0


def test_keys_overlap_no_better_key_and_lose_by_its_tokens() -> None:
    best, overlapping, sharing = ((1, 2, 3), 4.0, [10]), ((3, 4), 2.0, [12]), ((1, 9), 1.0, [20])
    assert passage_score([best, overlapping, sharing], 0.8) == pytest.approx(4 + 1 - 0.8 / 2)
    assert passage_score([best, ((3, 4), 2.0, [12, 30])], 0.8) == pytest.approx(4 + 2 * 0.6), "another place is free"
    assert passage_score([best, overlapping, sharing], 0.0) == 5
    assert passage_score([best, ((1, 2), 1.0, [40])], 1.0) == 4


def test_passages_are_ranked_by_their_keys() -> None:
    texts = [[5, 6, 9, 9], [5, 6, 7, 8], [20, 21], [22, 23]] + [[30 + i, 31 + i] for i in range(40)]
    corpus = Passages(texts, 97)
    keys = {(5, 6): -0.5, (5, 6, 7): -2.5, (20, 21): -1.0, (30, 31): -9.0}
    ranked = corpus.ranked(keys, 2.0, 0.8)
    assert [number for number, _ in ranked] == [1, 0, 2], "the longer key decides between equal scores"

    def worth(key: tuple[int, ...]) -> float:
        return key_score(keys[key], corpus.count(key), corpus.size, 2.0)
    assert worth((5, 6)) > worth((5, 6, 7)) > 0
    expected = [worth((5, 6)), worth((5, 6)), worth((20, 21))]
    assert [score for _, score in ranked] == pytest.approx(expected)


def request(prompt: Sequence[int]) -> Request:
    return Request(tuple(prompt), 30, PhiloxStream(0), frozenset({EOS}), text=words(prompt, 97))


@torch.inference_mode()
def searched(method: Seal, prompt: Sequence[int]) -> InCorpus:
    session = Session(target())
    try:
        return method.searched(session, request(prompt))
    finally:
        session.close()


@torch.inference_mode()
def test_a_wide_search_finds_every_n_gram_with_the_log_p_of_the_model(tmp_path: Path) -> None:
    texts = random_texts(12, 20, 2)
    front = searched(Seal(corpus=file_of(texts, tmp_path / "corpus"), width=200, length=3), prompts(1, 97, 3)[0])
    assert set(front.keys) == {gram for length in (1, 2, 3) for gram in grams(texts, length)}
    at_end = {tuple(text[-length:]) for text in texts for length in (1, 2) if len(text) >= length}
    ended = {h.tokens for h in front.ended}
    inside = {gram[:-1] for length in (2, 3) for gram in grams(texts, length)}
    assert ended == at_end - inside
    assert {h.tokens for h in front.found()} == set(grams(texts, 3)) | ended
    for key in list(front.keys)[::7]:
        ids = [*prompts(1, 97, 3)[0], *key]
        law = target().model(torch.tensor([ids])).logits[0].log_softmax(-1)
        own = sum(float(law[len(ids) - len(key) - 1 + i, token]) for i, token in enumerate(key))
        assert front.keys[key] == pytest.approx(own, abs=1e-4), "of the whole vocabulary"
    scores = [h.score for h in front.found()]
    assert scores == pytest.approx([h.log_p for h in front.found()])
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("width", [1, 5])
def test_keys_and_passages_are_of_the_corpus(width: int, tmp_path: Path) -> None:
    texts = random_texts(60, 30, 4)
    file = file_of(texts, tmp_path / "corpus")
    for prompt in prompts(3, 97, 5):
        for sample in range(0, width, 2):
            key = tuple(decode(Seal(corpus=file, width=width, length=4, gives="key"), target(), prompt, sample=sample))
            assert key in grams(texts, len(key))
            found = decode(Seal(corpus=file, width=width, length=4), target(), prompt, sample=sample)
            assert found in texts or found in [list(gram) for gram in grams(texts, 4)]
        front = searched(Seal(corpus=file, width=width, length=4), prompt)
        ranked = front.corpus.ranked(front.keys, 2.0, 0.8)
        assert ranked
        for sample, (number, _) in enumerate(ranked[:width]):
            assert decode(Seal(corpus=file, width=width, length=4), target(), prompt, sample=sample) == texts[number]


def test_where_every_pair_occurs_it_is_beam_search_of_two_tokens(tmp_path: Path) -> None:
    ids = range(97)
    file = file_of([[token for b in ids for token in (a, b)] for a in ids], tmp_path / "corpus")
    for prompt in prompts(2, 97, 5):
        for sample in range(4):
            found = decode(Seal(corpus=file, width=4, length=2, gives="key"), target(), prompt, sample=sample, eos=None)
            assert found == decode(Beam(width=4, length_rule="none"), target(), prompt, new=2, sample=sample, eos=None)


@torch.inference_mode()
def test_several_searches_at_once_are_those_alone(tmp_path: Path) -> None:
    method = Seal(corpus=file_of(random_texts(30, 30, 4), tmp_path / "corpus"), width=3, length=4)
    jobs = [partial(decode, method, target(), prompt) for prompt in prompts(4, 97, 4)]
    assert run_batched([target()], jobs, 4) == [job() for job in jobs]


def test_passages_of_the_task_are_those_of_a_file(tmp_path: Path) -> None:
    texts, prompt = random_texts(40, 8, 3), [5, 6, 7]
    lines = tuple(" ".join(f"t{token}" for token in text) for text in texts)
    text = replace(words(prompt, 97), parts=PromptParts(passages=lines))
    request = Request(tuple(prompt), 30, PhiloxStream(0), frozenset(), text=text)
    (found,) = Seal(width=3, corpus="task").generate(Session(target()), request)
    assert list(found) == decode(Seal(width=3, corpus=file_of(texts, tmp_path / "corpus")), target(), prompt, eos=None)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give corpus="):
        decode(Seal(), target(), [5, 6])
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(UserError, match="write one a line"):
        decode(Seal(corpus=str(tmp_path / "empty")), target(), [5, 6])
    with pytest.raises(UserError, match="cannot be read"):
        decode(Seal(corpus=str(tmp_path / "none")), target(), [5, 6])
    with pytest.raises(Unsupported, match="only its token ids"):
        next(iter(Seal(corpus=file_of([[5]], tmp_path / "one")).generate(Session(target()), Request(
            (5,), 4, PhiloxStream(0)))))
