"""Methods that draft from tables and indexes: golden numbers, brute force, counts, and their state between prompts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from harness.backends.transformers import Transformers
from harness.decoding.accept import greedy
from harness.decoding.loop import Step, draft_and_verify
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.errors import UserError
from harness.models.loading import load
from harness.plugins.strategy import Request, Strategy
from harness.run.runner import Runner
from strategies.aded import Aded
from strategies.drafters.automaton import SuffixAutomaton
from strategies.drafters.ngram import NgramLookup
from strategies.drafters.recycled import LEVELS, Recycler, Table, template
from strategies.drafters.suffixes import Substring, SuffixTree
from strategies.drafters.trigrams import Node, Search, Size, Trigrams
from strategies.greedy import Greedy
from strategies.input_copy import InputCopy, SourceCopy
from strategies.prompt_lookup import PromptLookup
from strategies.suffix_automaton import Continuation, SuffixAutomatonDecoding
from strategies.suffix_decoding import Counted, SuffixDecoding
from strategies.token_recycling import TokenRecycling
from tests.decode import decode
from tests.draft_tables import PROMPTS, target, texts, work
from tests.scale import scaled

SOME, NEW = PROMPTS[:scaled(3, 4)], scaled(20, 40)
METHODS: list[Strategy] = [TokenRecycling(), TokenRecycling(nodes=16, k=4), SuffixAutomatonDecoding(len_threshold=2),
                           SuffixAutomatonDecoding(fallback="token_recycling"), SuffixDecoding(),
                           SuffixDecoding(shape="tree", factor=2.0, min_prob=0.0), InputCopy(), Aded(),
                           PromptLookup(variant="original"), PromptLookup(variant="spec_bench")]
LEARNERS: list[Strategy] = [TokenRecycling(warm=True), SuffixDecoding(warm=True),
                            Aded(warm=True)]


@cache
def greedily(arch: str) -> list[list[int]]:
    return [decode(Greedy(), target(arch), prompt, new=NEW) for prompt in SOME]


@pytest.mark.parametrize("strategy", [*METHODS, *LEARNERS], ids=lambda s: s.spec())
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_greedy_tokens_whatever_is_drafted(strategy: Strategy, arch: str) -> None:
    target(arch).learnt.clear()
    assert [decode(strategy, target(arch), prompt, new=NEW) for prompt in SOME] == greedily(arch)


@pytest.mark.parametrize("strategy", METHODS, ids=lambda s: s.spec())
def test_cold_runs_forget(strategy: Strategy) -> None:
    first = [work(strategy, prompt, NEW) for prompt in SOME]
    assert not target().learnt.get(strategy.spec())
    assert [work(strategy, prompt, NEW) for prompt in SOME[::-1]][::-1] == first


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


def test_recycling_stores_the_likeliest_successors_of_all_verified_tokens() -> None:
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
    """Return the length of the longest suffix that also ends earlier, and the index of its first end."""
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


def test_suffix_decoding_golden() -> None:
    """Specs/speculative, golden 12."""
    drafter = Counted(SuffixDecoding(), 0, None)
    drafter.own.feed([1, 2, 3, 1, 2, 3, 1, 2])
    drafts = [drafter.grown(drafter.own, place, place.depth, 99) for place in drafter.own.repeated()]
    assert [score for score, _ in drafts] == pytest.approx([2 / 3, 4 / 3, 3 / 2, 3 / 2, 3 / 2])
    assert [tree.tokens for _, tree in drafts] == [(3,), (3, 1), (3, 1, 2), (3, 1, 2), (3, 1, 2)]
    assert drafter.best(drafter.own, drafter.own.repeated()) == (1.5, TokenTree.chain([3, 1, 2]))
    assert drafter.best(drafter.own, drafter.own.repeated(), 2)[1] == TokenTree.chain([3, 1])


def test_suffix_tree_counts_every_substring() -> None:
    for number in range(12):
        tree, written = SuffixTree(depth := 2 + number % 5), list[list[int]]()
        for text in texts(6)[number % 3:]:
            for end in range(1, len(text) + 1):
                tree.feed(text[end - 1:end])
                counts = substrings([*written, text[:end]], depth)
                met = [tuple(text[end - size:end]) for size in range(1, depth + 1) if size <= end]
                assert [place.times for place in tree.repeated()] == [counts[s] for s in met if counts[s] > 1]
            assert dict(walked(tree, tree.root)) == counts
            written.append(text)
            tree.end()


def substrings(written: list[list[int]], most: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(text[i:i + size]) for text in written for size in range(1, most + 1)
                   for i in range(len(text) - size + 1))


def walked(tree: SuffixTree, place: Substring, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield every substring of the tree and its count."""
    for token, child in tree.following(place):
        yield (*path, token), child.times
        yield from walked(tree, child, (*path, token))


def test_suffix_decoding_takes_the_likelier_source() -> None:
    earlier = SuffixTree(24)
    for _ in range(3):
        earlier.feed([7, 8, 9, 10, 11])
        earlier.end()
    drafter, step = Counted(SuffixDecoding(), 0, earlier), None
    assert drafter.draft([8, 1, 7, 8], step, 9) == TokenTree.chain([9, 10])  # type: ignore[arg-type]
    assert drafter.draft([8, 1, 7, 8, 1], step, 9) == TokenTree.chain([7, 8])  # type: ignore[arg-type]


def test_suffix_tree_shape_holds_the_likeliest_nodes() -> None:
    drafter = Counted(SuffixDecoding(shape="tree", min_prob=0.0), 0, None)
    drafter.own.feed([1, 2, 5, 1, 2, 6, 1, 2, 5, 4, 1, 2])
    score, tree = drafter.grown(drafter.own, drafter.own.repeated()[1], 3, 9)
    assert tree == TokenTree((5, 6, 1), (-1, -1, 0))
    assert score == pytest.approx(1 / 2 + 1 / 4 + 1 / 4)


def test_input_copy_needs_exactly_one_match() -> None:
    source = (3, 4, 5, 3, 4, 6, 7, 8)
    copied = {output: tuple(SourceCopy(source, 1, 3, 9).copy(output)) for output in [
        (), (5,), (9, 5), (3,), (9, 4), (5, 3), (6, 3, 4), (5, 3, 4), (8,), (9,)]}
    assert copied == {(): (), (5,): source[3:], (9, 5): source[3:], (3,): (), (9, 4): (), (5, 3): source[4:],
                      (6, 3, 4): (), (5, 3, 4): source[5:], (8,): (), (9,): ()}
    assert SourceCopy(source, 1, 3, 2).copy((5,)) == (3, 4)
    assert SourceCopy(source, 2, 3, 9).copy((9, 5)) == ()


def search(text: Sequence[int], **size: float) -> Search:
    """Return a search over the trigrams of `text` before its first draft."""
    known = Trigrams()
    for a, b, c in zip(text, text[1:], text[2:], strict=False):
        known.count((a, b), c)
    whole = Size(150, 4, 24, 64, 16, 0.04)._replace(**size)  # type: ignore[arg-type]
    return Search(whole, known, PhiloxStream(0), seen=len(text))


def test_trigram_weights() -> None:
    known = search([1, 2, 3, 1, 2, 4, 1, 2, 3]).trigrams
    assert known.weights((1, 2)) == [(3, 2 / 3), (4, 1 / 3)]
    known.gain((1, 2), 4, 0.5)
    assert known.weights((1, 2)) == [(4, 1 / 3 + 0.5), (3, 2 / 3)]
    for _ in range(9):
        known.gain((1, 2), 4, 0.5)
    assert known.weights((1, 2))[0] == (4, 3.0)
    assert known.weights((2, 2)) == []
    for token in range(40):
        known.count((8, 9), token)
    assert len(known.weights((8, 9))) == 12


def test_search_is_rewarded_by_chances() -> None:
    """With a fork of 3 to 1 and a single successor of each, the mean reward of each branch is its probability."""
    text = [1, 2, 3, 5, 5] * 3 + [1, 2, 4, 5, 5]
    root = search(text, depth=2).searched(Node((1, 2)))
    assert root.children is not None
    assert [(child.pair, child.chance, child.score / child.visits) for child in root.children] == [
        ((2, 3), 0.75, 0.75), ((2, 4), 0.25, 0.25)]
    assert root.visits == 150
    assert root.children[0].visits > 2 * root.children[1].visits > 0


def test_search_drafts_the_most_visited_paths() -> None:
    text = [1, 2, 3, 5, 5] * 3 + [1, 2, 4, 5, 6, 1, 2]
    step: Step = None  # type: ignore[assignment]
    tree = search(text, depth=2, choices=3).draft(text, step, 9)
    assert {tuple(tree.tokens[n] for n in tree.path(node)) for node in range(len(tree))} == {
        (3,), (3, 5), (3, 5, 5), (4,), (4, 5)}
    assert len(search(text).draft(text, step, 2).tokens) == 4
    assert len(search(text, budget=3).draft(text, step, 9)) == 3
    assert search(text).draft([*text, 9], step, 9) == TokenTree()
    assert search(text).draft([1], step, 9) == TokenTree()


def test_prompt_lookup_variants() -> None:
    """Specs/speculative, golden 11, and where the variants differ."""
    text = [5, 1, 2, 9, 1, 2, 7, 1, 2]
    assert NgramLookup(2, 3, full=True).lookup(text) == [9, 1, 2]
    assert NgramLookup(2, 3, full=True, latest=True).lookup(text) == [7, 1, 2]
    assert (NgramLookup(1, 1).lookup([4, 5, 5]), NgramLookup(1, 1, full=True).lookup([4, 5, 5])) == ([5], [])
    assert NgramLookup(2, 9).lookup(text) == [9, 1, 2, 7, 1, 2]
    assert NgramLookup(2, 9, full=True).lookup(text) == []
    assert NgramLookup(2, 9, full=True, filler=[100]).lookup(text) == [100]
    assert NgramLookup(5, 3, min_ngram=3).lookup(text) == []
    assert NgramLookup(5, 3, min_ngram=2).lookup(text) == [9, 1, 2]
    for method in (PromptLookup, InputCopy):
        with pytest.raises(UserError, match="more than max_ngram"):
            method(min_ngram=4)


def test_spec_bench_checks_something_at_each_step() -> None:
    done, _ = work(PromptLookup(variant="spec_bench", length=30), PROMPTS[0], 20)
    assert done.drafted == done.forwards - 2   # nothing below the prompt, and no room for a draft in the last step


def test_what_is_learnt_in_warm_up_is_forgotten() -> None:
    learnt, model = list[str](), load("nano")
    plan: Any = SimpleNamespace(manifest=SimpleNamespace(tasks=[]), strategies=LEARNERS,
                                config=SimpleNamespace(batch_size=1), backend=Transformers(model, None))

    class Noted(dict[str, Any]):
        def clear(self) -> None:
            learnt.extend(self)
            super().clear()
    model.engine.learnt = Noted()
    Runner(plan, lambda: 0.0).warm_up()
    assert sorted(learnt) == sorted(strategy.spec() for strategy in LEARNERS)
    assert not model.engine.learnt
