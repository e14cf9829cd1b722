"""Jacobi iterations and lookahead: greedy identity, output distribution, counts, masks, and fixed noise."""

from functools import cache

import pytest
import torch

from harness.decoding import accept
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.plugins.strategy import Request, Strategy
from strategies.jacobi import Guesses, Jacobi
from strategies.lookahead import Lookahead, Pool, Window
from strategies.swift import Swift
from strategies.tr_jacobi import TrJacobi, shape, tail
from tests.chances import MASS, TEMPERATURE, PValue
from tests.markov import Markov
from tests.self_drafting import NEW, PROMPTS, as_greedy, deep, steps, target

LOSSLESS = [
    Jacobi(), Jacobi(block=3, init="prompt"), Jacobi(block=8, init="random"),
    TrJacobi(), TrJacobi(k=3, depth=2, nodes=5, retrieval=False), TrJacobi(k=200, depth=8, max_ngram=1),
    Lookahead(), Lookahead(window=3, ngram=2, guesses=3), Lookahead(window=1, ngram=3), Lookahead(from_prompt=True),
]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])  # tests/law has more, at the defaults
@pytest.mark.parametrize("strategy", LOSSLESS, ids=lambda s: s.spec())
def test_tokens_are_those_of_greedy(strategy: Strategy, arch: str) -> None:
    for session, blocks in as_greedy(strategy, target(arch)):
        assert session.work.forwards == len(blocks)


@pytest.mark.parametrize("strategy", [
    Jacobi(block=2, temperature=TEMPERATURE, p=MASS),
    TrJacobi(k=3, depth=2, nodes=6, temperature=TEMPERATURE, p=MASS),
    Lookahead(window=2, ngram=2, guesses=3, from_prompt=True, temperature=TEMPERATURE, p=MASS),
], ids=lambda s: s.name)
def test_the_distribution_is_preserved(strategy: Strategy, p_value: PValue) -> None:
    assert p_value(strategy, None) > 1e-3


@pytest.mark.parametrize("init", ["last", "prompt", "random"])
def test_a_block_converges_in_as_many_iterations_as_it_has_tokens(init: str) -> None:
    """Every iteration fixes at least one more token, so n tokens take at most n forwards."""
    for prompt in PROMPTS:
        session, blocks = steps(Jacobi(block=8, init=init), prompt, 24)
        assert session.work.forwards <= 24
        assert all(blocks)


def test_a_text_that_repeats_a_token_is_confirmed_in_blocks() -> None:
    """0 is followed by 1, 1 by 2, and 2 by itself; the row after a wrong guess is a right guess."""
    table = torch.tensor([[0.0, 0.9, 0.1], [0.1, 0.0, 0.9], [0.1, 0.0, 0.9]])
    _, blocks = steps(Jacobi(block=4), [0], 26, Engine(Markov(table), 64))
    assert blocks == [[1], [2], *[[2] * 5] * 4, [2] * 4]


def test_jacobi_guesses_are_the_plain_iteration() -> None:
    """The guesses of every step are argmaxes of a forward over the whole text and the guesses before them."""
    prompt, model, seen = PROMPTS[0], target().model, list[list[int]]()
    guesses = Guesses(6, "last", Request(tuple(prompt), 20, PhiloxStream(0)))
    session, text = Session(target()), list(prompt)
    last: Step | None = None
    for step in range(8):
        tree = guesses.draft(text, last, 100) if last else EMPTY
        if seen:
            with torch.inference_mode():
                rows = model(torch.tensor([seen[-1]])).logits[0].argmax(-1).tolist()
            known = rows[len(text) - 1:]  # what the plain iteration says from the text's next place on
            assert list(tree.tokens[:len(known)]) == known, step
        session.follow(text)
        reading = session.read(tree)
        path, token = accept.follow(tree, reading.best)
        session.keep(path)
        last = Step(tree, reading, path, token)
        text += [*(tree.tokens[n] for n in last.path), last.token]
        seen.append([*text[:-1 - len(last.path)], *tree.tokens])
    session.close()


def test_without_guesses_lookahead_takes_single_steps() -> None:
    session, blocks = steps(Lookahead(guesses=0), PROMPTS[0], 20)
    assert set(map(len, blocks)) == {1}
    assert session.work.accepted == 0


def test_the_window_is_read_as_its_mask_says() -> None:
    """Level l of column i sees the text, level 0 up to column i, and the lower levels of its own column."""
    window, text = Window([9, 10, 11, 12, 13], 3), list(PROMPTS[0])
    session = Session(target())
    session.follow(text)
    for _ in range(4):
        tree = window.grow(EMPTY, text[-1], 100)
        reading = session.read(tree)
        columns = len(window.levels[0])
        for i in range(columns):
            whole = [*text, *window.levels[0][1:i + 1], *(level[i] for level in window.levels[1:])]
            with torch.inference_mode():
                said = target().model(torch.tensor([whole])).logits[0, -1]
            torch.testing.assert_close(reading.logits[window.rows[i]], said, atol=1e-4, rtol=1e-4)
        before, new = [list(level) for level in window.levels], [reading.best[row] for row in window.rows]
        pool = Pool(5)
        window.move(reading.best, pool)
        if len(before) == 3:
            assert window.levels == [*before[1:], new]
            for first, *rest in zip(*before, new, strict=True):
                assert tuple(rest) in pool.after(first)
        else:
            assert window.levels == [*(level[1:] for level in before), new[1:]]
    session.close()


def test_the_pool_forgets_the_least_recent() -> None:
    pool = Pool(2)
    for rest in ((1, 2), (3, 4), (1, 2), (5, 6)):
        pool.add(9, rest)
    assert pool.after(9) == [(5, 6), (1, 2)]
    assert pool.after(8) == []


def test_the_tree_of_ranks_prefers_likely_paths() -> None:
    paths = shape(10, 5, 63)
    assert len(set(paths)) == 63
    assert all(path[:-1] in ((), *paths[:i]) for i, path in enumerate(paths))
    assert all((*path[:-1], path[-1] - 1) in paths[:i] for i, path in enumerate(paths) if path[-1])
    assert shape(1, 3, 63) == ((0,), (0, 0), (0, 0, 0))
    assert len(shape(2, 2, 63)) == 6


def test_what_was_not_confirmed_is_carried_over() -> None:
    """The rows that give the next table stand below the last accepted node, on the first path."""
    tree = TokenTree((4, 5, 6, 7, 8, 9), (-1, -1, 0, 0, 2, 3))
    session = Session(target())
    session.follow(PROMPTS[0])
    reading = session.read(tree)
    assert tail(Step(tree, reading, [], 1)) == [0, 2, 4]
    assert tail(Step(tree, reading, [0, 3], 1)) == [5]
    assert tail(Step(tree, reading, [1], 1)) == []
    drafter = TrJacobi(k=2, depth=2, nodes=6, retrieval=False).drafter(session, Request((3, 4), 9, PhiloxStream(0)))
    (a, b), (c, d) = reading.logits[[3, 5]].topk(2).indices.tolist()
    made = drafter.draft([3, 4], Step(tree, reading, [0], 1), 9)
    assert {tuple(made.tokens[n] for n in made.path(node)) for node in range(6)} == {
        (a,), (b,), (a, c), (a, d), (b, c), (b, d)}
    assert max(map(len, map(made.path, range(len(made))))) <= 2
    session.close()


def test_a_chain_is_looked_up_in_the_text() -> None:
    text, session = [4, 5, 6, 7, 8, 9, 4, 5], Session(target())
    session.follow(text)
    last, request = Step(EMPTY, session.read(), [], 5), Request((4,), 30, PhiloxStream(0))
    for retrieval in (False, True):
        made = TrJacobi(k=1, depth=4, retrieval=retrieval).drafter(session, request).draft(text, last, 30)
        paths = [[made.tokens[n] for n in made.path(node)] for node in range(len(made))]
        assert ([6, 7, 8, 9] in paths) == retrieval
        short = TrJacobi(depth=4, retrieval=retrieval).drafter(session, request).draft(text, last, 1)
        assert set(short.parents) == {-1}
    session.close()


class Coupled:
    """Noise fixed for each position: the token is the argmax of logits plus noise, so drafts must change nothing."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, tree: TokenTree, logits: torch.Tensor, stream: object) -> tuple[list[int], int]:
        path, node, children = list[int](), -1, tree.children()
        while True:
            noise = torch.rand(logits.shape[1], generator=torch.Generator().manual_seed(self.done + len(path)))
            token = int((logits[node + 1] - (-noise.log()).log()).argmax())
            node = next((c for c in children.get(node, ()) if tree.tokens[c] == token), -1)
            if node < 0:
                self.done += len(path) + 1
                return path, token
            path.append(node)


@cache
def undrafted(prompt: tuple[int, ...]) -> list[list[int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jacobi, "rule", lambda self: Coupled())
        patch.setattr(Guesses, "draft", lambda *_: EMPTY)
        return steps(Jacobi(temperature=0.5), prompt, NEW, deep())[1]


@pytest.mark.parametrize("strategy", [
    Jacobi(temperature=0.5), Lookahead(temperature=0.5, from_prompt=True), TrJacobi(temperature=0.5),
    Swift(window=4, theta=0.1, temperature=0.5),
], ids=lambda s: s.name)
def test_under_fixed_noise_tokens_are_those_of_single_steps(strategy: Verified, monkeypatch: pytest.MonkeyPatch
                                                            ) -> None:
    """Sampling with the same Gumbel noise at every position is deterministic: drafting must not be seen."""
    faster = 0
    for prompt in PROMPTS:
        monkeypatch.setattr(type(strategy), "rule", lambda self: Coupled())
        _, blocks = steps(strategy, prompt, NEW, deep())
        monkeypatch.undo()
        single = undrafted(tuple(prompt))
        assert len(single) == NEW
        assert [t for block in blocks for t in block] == [t for block in single for t in block]
        faster += len(blocks) < NEW
    assert faster
