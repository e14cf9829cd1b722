"""Methods that draft from tables and indexes: golden numbers, brute force, counts, and what they keep or forget."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from harness.decoding.accept import greedy
from harness.decoding.draw import PhiloxStream
from harness.decoding.engine import Engine
from harness.decoding.loop import Step, draft_and_verify
from harness.decoding.session import Session, Work
from harness.decoding.tree import ROOT, TokenTree
from harness.strategy import Request, Strategy
from strategies.drafters.automaton import SuffixAutomaton
from strategies.drafters.recycled import LEVELS, Recycler, Table, template
from strategies.greedy import Greedy
from strategies.suffix_automaton import Continuation, SuffixAutomatonDecoding
from strategies.token_recycling import TokenRecycling
from tests.decode import decode, engine
from tests.models import prompts, tiny_model

PROMPTS = prompts(4, 97, 1)
METHODS: list[Strategy] = [TokenRecycling(), TokenRecycling(nodes=16, k=4), SuffixAutomatonDecoding(len_threshold=2),
                           SuffixAutomatonDecoding(fallback="token_recycling")]
LEARNERS: list[Strategy] = [TokenRecycling(warm=True)]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


def work(strategy: Strategy, prompt: Sequence[int], new: int = 40) -> tuple[Work, list[int]]:
    """What a text cost, and its tokens without EOS."""
    session, tokens = Session(target()), list[int]()
    for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0))):
        tokens += block
        if len(tokens) >= new:
            break
    session.close()
    return session.work, tokens[:new]


@pytest.mark.parametrize("strategy", [*METHODS, *LEARNERS], ids=lambda s: s.spec())
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_greedy_tokens_whatever_is_drafted(strategy: Strategy, arch: str) -> None:
    target(arch).learnt.clear()
    for prompt in PROMPTS:
        assert decode(strategy, target(arch), prompt, new=40) == decode(Greedy(), target(arch), prompt, new=40)


@pytest.mark.parametrize("strategy", METHODS, ids=lambda s: s.spec())
def test_cold_runs_forget(strategy: Strategy) -> None:
    first = [work(strategy, prompt) for prompt in PROMPTS]
    assert not target().learnt.get(strategy.spec())
    assert [work(strategy, prompt) for prompt in PROMPTS[::-1]][::-1] == first


@pytest.mark.parametrize("strategy", LEARNERS, ids=lambda s: s.spec())
def test_warm_runs_write_the_same_and_draft_better(strategy: Strategy) -> None:
    target().learnt.clear()
    first, again = ([work(strategy, prompt, 60) for prompt in PROMPTS] for _ in range(2))
    assert [tokens for _, tokens in first] == [tokens for _, tokens in again]
    assert sum(done.forwards for done, _ in again) < sum(done.forwards for done, _ in first)
    assert list(target().learnt) == [strategy.spec()]


def test_recycling_template() -> None:
    """Specs/speculative M10: 8/21/25/15/8/3, and the paths that it gives of the first two levels."""
    places = template(80, 8)
    assert tuple(Counter(place.depth for place in places).values()) == LEVELS
    assert [place.rank for place in places if place.depth == 1] == list(range(8))
    second = {(places[place.parent].rank, place.rank) for place in places if place.depth == 2}
    assert second == {(above, rank) for above, count in enumerate((8, 4, 3, 2, 1, 1, 1, 1)) for rank in range(count)}
    for nodes in (1, 2, 3, 5, 16, 32, 60, 120):
        for number, place in enumerate(places := template(nodes, 8)):
            assert place.parent < number
            assert place.depth == (1 if place.parent == ROOT else places[place.parent].depth + 1)
        assert len(places) == nodes
    assert [place.parent for place in template(80, 1)] == [-1, 0, 1, 2, 3, 4]


def test_recycling_keeps_the_likeliest_successors_of_all_that_was_read() -> None:
    session, text, seen = Session(target()), tuple(PROMPTS[0]), list[tuple[Step, Table]]()
    table: Table = {}

    class Watched(Recycler):
        def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
            self.learn(text, last)
            read = [text[-2 - len(last.path)], *last.tree.tokens]
            for token, row in {token: row for row, token in enumerate(read)}.items():
                assert self.table[token] == last.reading.logits[row].topk(4).indices.tolist()
            tree = super().draft(text, last, limit)
            known = [text[-1], *tree.tokens]
            for token, parent in zip(tree.tokens, tree.parents, strict=True):
                assert token in self.table[known[parent + 1]]
            seen.append((last, dict(self.table)))
            return tree
    tokens = list[int]()
    for block in draft_and_verify(session, Watched(32, 4, table), greedy, Request(text, 60, PhiloxStream(0))):
        tokens += block
        if len(tokens) > 50:
            break
    session.close()
    assert len(seen[0][0].tree) == 0
    assert len(seen[0][1]) == 1
    assert max(len(last.tree) for last, _ in seen) > 20


def texts(count: int, most: int = 60) -> list[list[int]]:
    """Random texts over two to four tokens, which repeat themselves a lot."""
    rng = random.Random(7)
    return [[rng.randrange(2 + i % 3) for _ in range(rng.randrange(1, most))] for i in range(count)]


def test_automaton_finds_the_longest_repeated_suffix() -> None:
    for text in texts(60):
        automaton = SuffixAutomaton()
        for end in range(1, len(text) + 1):
            automaton.feed(text[end - 1:end])
            size, first = longest_repeat(text[:end])
            state = automaton.repeated()
            assert (automaton.longest[state], automaton.first[state]) == (size, first)
        assert len(automaton.link) <= max(2, 2 * len(text))


def longest_repeat(text: list[int]) -> tuple[int, int]:
    """The length of the longest suffix that also ends earlier, and the index of the token at which it first does."""
    for size in range(len(text) - 1, 0, -1):
        for start in range(len(text) - size):
            if text[start:start + size] == text[-size:]:
                return size, start + size - 1
    return 0, -1


def test_automaton_is_fed_once() -> None:
    text = PROMPTS[0] * 40
    drafter = SuffixAutomatonDecoding().drafter(Session(target()), Request((5,), 9, PhiloxStream(0)))
    for end in range(1, len(text)):
        drafter.continuation(text[:end])
    assert drafter.automaton.size == len(text) - 1
    assert sum(map(len, drafter.automaton.after)) <= 3 * len(text)


def test_automaton_continuations() -> None:
    def found(text: list[int], length: int, threshold: int) -> list[int]:
        return list(Continuation(length, threshold, None).continuation(text))
    assert found([5, 1, 2, 9, 1, 2, 7, 1, 2], 3, 2) == [9, 1, 2]
    assert found([5, 1, 2, 9, 1, 2, 7, 1, 2], 3, 3) == []
    assert found([1, 2, 3, 2, 9, 1, 2], 2, 2) == [3, 2]
    assert found([2, 6, 6, 6, 1, 2, 3, 1, 2], 5, 2) == [3, 1, 2]  # a fuller match is too short
    assert found([2, 6, 6, 6, 1, 2, 3, 1, 2], 5, 1) == [6, 6, 6, 1, 2]
    assert found([4, 4, 4, 4], 5, 1) == [4, 4, 4]
    assert found([1, 2, 3], 5, 1) == []


def test_automaton_falls_back() -> None:
    plain, with_table = SuffixAutomatonDecoding(len_threshold=64), SuffixAutomatonDecoding(len_threshold=64,
                                                                                         fallback="token_recycling")
    for prompt in PROMPTS:
        assert work(plain, prompt)[0].drafted == 0
        assert work(with_table, prompt) == work(TokenRecycling(), prompt)
