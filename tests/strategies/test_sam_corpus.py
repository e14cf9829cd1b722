"""The suffix automaton of a store and that of the sequence: longest matches, the choice, and no side effects."""

import random
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Request, Strategy
from strategies.drafters.automaton import Cursor, SuffixAutomaton
from strategies.drafters.store import END, Store
from strategies.greedy import Greedy
from strategies.rest import Rest
from strategies.suffix_automaton import Continuation, Corpus, SuffixAutomatonDecoding
from tests import chances
from tests.decode import decode, engine, traced
from tests.models import prompts, tiny_model

PROMPTS = prompts(4, 97, 1)


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


def spoken(vocab: int = 97, sharpness: float = 2.5) -> list[list[int]]:
    """Return the greedy outputs of the model for half of the prompts."""
    model = engine(tiny_model("llama", vocab=vocab, sharpness=sharpness))
    return [[*prompt, *decode(Greedy(), model, prompt, new=40, eos=None)] for prompt in prompts(4, vocab, 1)[::2]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "known.npz"
    Store.of(spoken(), 97).save(path)
    return path


def written(rng: random.Random, kinds: int, most: int) -> list[int]:
    return [rng.randrange(kinds) for _ in range(rng.randrange(1, most))]


def longest(texts: Sequence[Sequence[int]], tail: Sequence[int]) -> tuple[int, list[int]]:
    """By brute force: the size of the longest end of `tail` in `texts`, and what follows the first place of it."""
    for size in range(len(tail), 0, -1):
        for text in texts:
            for end in range(size, len(text) + 1):
                if list(text[end - size:end]) == list(tail[-size:]):
                    return size, list(text[end:])
    return 0, []


@pytest.mark.parametrize("kinds", [1, 2, 3, 5])
def test_longest_match_against_brute_force(kinds: int) -> None:
    rng = random.Random(kinds)
    for _ in range(25):
        texts = [written(rng, kinds, 30) for _ in range(rng.randrange(1, 5))]
        known = Store.of(texts, 9)
        assert len(known.automaton.link) <= max(2, 2 * len(known.tokens))
        text, corpus = written(rng, kinds + 1, 60), Corpus(known, 0)  # one kind of token that no text has
        for end in range(1, len(text) + 1):
            size, after = longest(texts, text[:end])
            assert corpus.match(text[:end]) == size
            assert not size or corpus.continuation(4) == after[:4]


def test_following_takes_as_many_transfers_as_tokens() -> None:
    """Every token adds one to the length at most, and every link that is followed takes from it."""
    rng, counted = random.Random(3), 0

    class Links(list[int]):
        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            nonlocal counted
            counted += 1
            return super().__getitem__(index)
    known = SuffixAutomaton()
    known.feed([rng.randrange(2) for _ in range(500)])
    known.link = Links(known.link)
    cursor = Cursor(known)
    cursor.follow([rng.randrange(3) for _ in range(3000)])
    assert cursor.size == 3000
    assert 0 < counted <= 3000


def test_the_longer_match_wins_after_the_bias() -> None:
    known = Store.of([[1, 2, 3, 4, 5, 6, 7]], 97)

    def found(text: list[int], threshold: int, bias: int) -> list[int]:
        return list(Continuation(9, threshold, None, Corpus(known, bias)).continuation(text))
    text = [4, 5, 50, 3, 4, 5]  # two tokens stand earlier in the text, three in the store
    assert found(text, 1, 0) == [6, 7]
    assert found(text, 1, 1) == [50, 3, 4, 5]  # as long: the text's own wins
    assert found(text, 3, 0) == [6, 7]
    assert found(text, 3, 1) == []
    assert found([3, 4, 5], 2, 1) == [6, 7]
    assert found([9, 4, 5], 2, 1) == []
    assert found([5, 6, 50, 5, 6, 7], 1, 0) == []  # nothing follows in the store, and 7 is new to the text
    assert found([6, 7, 50, 2, 6, 7], 1, 0) == [50, 2, 6, 7]
    assert found([4, 5, 6, 7, 50, 4, 5, 6, 7], 1, 0) == [50, 4, 5, 6, 7]


def test_a_draft_stops_where_its_text_ends() -> None:
    known = Store.of([[1, 2, 3], [1, 2, 4, 5, 6, 7, 8]], 97)
    corpus = Corpus(known, 0)
    assert (corpus.match([1, 2]), corpus.continuation(9)) == (2, [3])  # the first place, though the second goes on
    corpus = Corpus(known, 0)
    assert (corpus.match([9, 2, 4]), corpus.continuation(3)) == (2, [5, 6, 7])
    assert (corpus.match([9, 2, 4, 1]), corpus.continuation(1)) == (1, [2])
    assert END not in corpus.continuation(9)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("fallback", ["none", "token_recycling"])
def test_greedy_tokens_with_a_store(file: Path, arch: str, fallback: str) -> None:
    strategy = SuffixAutomatonDecoding(len_threshold=1, len_bias=1, fallback=fallback, store=str(file))
    for prompt in PROMPTS:
        assert decode(strategy, target(arch), prompt, new=40) == decode(Greedy(), target(arch), prompt, new=40)


def test_what_is_in_the_store_is_drafted(file: Path) -> None:
    """The first step drafts nothing and the second one all that is left; without the store it takes many."""
    short = SuffixAutomatonDecoding(len_threshold=2, len_bias=0, store=str(file))
    work = traced(short, target(), PROMPTS[0], new=40, eos=None)[1]
    assert (work.forwards, work.accepted) == (2, 38)
    assert traced(SuffixAutomatonDecoding(len_threshold=2), target(), PROMPTS[0], new=40, eos=None)[1].forwards > 10


def test_no_text_leaves_a_trace(file: Path) -> None:
    strategy = SuffixAutomatonDecoding(len_threshold=1, len_bias=1, store=str(file))
    alone = [traced(strategy, target(), prompt, new=30) for prompt in PROMPTS]
    known = strategy.drafter(Session(target()), Request((5,), 9, PhiloxStream(0))).corpus
    assert known is not None
    before = deepcopy(known.known.automaton.__dict__)
    assert [traced(strategy, target(), prompt, new=30) for prompt in PROMPTS[::-1]][::-1] == alone
    again = strategy.drafter(Session(target()), Request((5,), 9, PhiloxStream(0))).corpus
    assert again is not None
    assert again.known.automaton is known.known.automaton
    assert again.known.automaton.__dict__ == before
    assert (again.cursor.state, again.cursor.length, again.cursor.size) == (0, 0, 0)


def test_the_distribution_is_preserved_with_a_store(tmp_path: Path, p_value: chances.PValue) -> None:
    Store.of(spoken(chances.VOCAB, 0.8), chances.VOCAB).save(tmp_path / "small.npz")
    strategy = SuffixAutomatonDecoding(len_threshold=1, len_bias=0, store=str(tmp_path / "small.npz"),
                                       temperature=chances.TEMPERATURE, p=chances.MASS)
    assert p_value(strategy, None) > 1e-3


def test_without_a_store_the_bias_says_nothing() -> None:
    for prompt in PROMPTS:
        runs = [traced(SuffixAutomatonDecoding(len_threshold=1, len_bias=bias), target(), prompt) for bias in (0, 9)]
        assert runs[0] == runs[1]


def test_a_bad_store_is_one_sentence_as_of_rest(tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_text("no")

    def said(strategy: Strategy, kind: type[Exception]) -> str:
        with pytest.raises(kind) as caught:
            decode(strategy, target(), PROMPTS[0])
        return str(caught.value)
    for name, kind in (("nano", Unsupported), (str(tmp_path / "no.npz"), UserError), ("missing.npz", UserError)):
        mine, other = said(SuffixAutomatonDecoding(store=name), kind), said(Rest(store=name), kind)
        assert mine == other.replace("rest:store", "suffix_automaton:store")
        assert "\n" not in mine


@torch.inference_mode()
def test_the_embedded_store_is_that_of_rest() -> None:
    from harness.models.loading import load

    engine, request = load("nano").engine, Request((5,), 9, PhiloxStream(0))
    corpus = SuffixAutomatonDecoding(store="nano").drafter(Session(engine), request).corpus
    assert corpus is not None
    assert corpus.known is Rest().drafter(Session(engine), request).datastore
    states = len(corpus.known.automaton.link)
    assert states <= 2 * len(corpus.known.tokens)
    text = corpus.known.tokens[:30].tolist()
    assert corpus.match(text) == 30 - 5
