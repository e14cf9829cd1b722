"""Methods in which the model drafts for itself: greedy identity, output law, counts, and the masks they rely on."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from harness.decoding import accept
from harness.decoding.draw import PhiloxStream
from harness.decoding.engine import Engine
from harness.decoding.loop import Step
from harness.decoding.session import Session
from harness.decoding.tree import EMPTY
from harness.strategy import Request, Strategy
from strategies.greedy import Greedy
from strategies.jacobi import Guesses, Jacobi
from strategies.lookahead import Lookahead, Pool, Window
from tests.decode import engine
from tests.law.test_output_law import MASS, TEMPERATURE, p_value
from tests.markov import Markov
from tests.models import prompts, tiny_model

PROMPTS = prompts(3, 97, 1)


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


def steps(strategy: Strategy, prompt: Sequence[int], new: int, on: Engine | None = None
          ) -> tuple[Session, list[list[int]]]:
    """The session and the tokens of each step, past EOS."""
    session, blocks = Session(on or target()), list[list[int]]()
    for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0))):
        blocks.append(list(block))
        if sum(map(len, blocks)) >= new:
            break
    session.close()
    return session, blocks


def greedy(prompt: Sequence[int], new: int, on: Engine | None = None) -> list[int]:
    return [token for block in steps(Greedy(), prompt, new, on)[1] for token in block]


LOSSLESS = [
    Jacobi(), Jacobi(block=3, init="prompt"), Jacobi(block=8, init="random"),
    Lookahead(), Lookahead(window=3, ngram=2, guesses=3), Lookahead(window=1, ngram=3), Lookahead(from_prompt=True),
]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "qwen2"])
@pytest.mark.parametrize("strategy", LOSSLESS, ids=lambda s: s.spec())
def test_tokens_are_those_of_greedy(strategy: Strategy, arch: str) -> None:
    for prompt in PROMPTS:
        session, blocks = steps(strategy, prompt, 40, target(arch))
        assert [t for block in blocks for t in block] == greedy(prompt, 40, target(arch))
        assert session.work.forwards == len(blocks)


@pytest.mark.parametrize("strategy", [
    Jacobi(block=2, temperature=TEMPERATURE, p=MASS),
    Lookahead(window=2, ngram=2, guesses=3, from_prompt=True, temperature=TEMPERATURE, p=MASS),
], ids=lambda s: s.name)
def test_the_law_is_kept(strategy: Strategy) -> None:
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
