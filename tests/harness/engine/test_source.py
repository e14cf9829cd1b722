"""Sources of sequences: encoded once, shared by forks, moved with rows, and never mixed up."""

from contextlib import closing
from functools import partial

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.models.encoder_decoder import make_engine
from harness.models.loading import check
from harness.plugins.registry import STRATEGIES
from strategies.greedy import Greedy
from tests.seq2seq import ARCHS, LONGEST, engine, tiny, traced

SOURCES = [[5, 6, 7, 2], [9, 4, 11, 12, 13, 14, 8, 3, 2], [30, 2]]
TREE = TokenTree((9, 4, 12, 6), (-1, -1, 1, 2))


@torch.inference_mode()
def plain(target: Engine, source: list[int], tokens: list[int]) -> torch.Tensor:
    """Return the logits (V,) after `tokens` from one forward without cache."""
    logits: torch.Tensor = target.model(input_ids=torch.tensor([source]), use_cache=False,
                                        decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
    return logits


def opened(target: Engine, source: list[int], tokens: list[int]) -> Session:
    session = Session(target)
    session.begin(source)
    session.follow([*target.prefix, *tokens])
    return session


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ARCHS)
def test_trees_of_ragged_rows_are_read_as_plain_sequences(kind: str, attention: str) -> None:
    model = tiny(kind)
    model.set_attn_implementation(attention)
    target = make_engine(model, LONGEST)
    check(target)
    assert (target.forwards, target.encodings, target.encoded) == (0, 0, 0)
    sessions = [opened(target, source, list(range(20, 20 + 3 * i))) for i, source in enumerate(SOURCES)]
    with torch.inference_mode():
        for kept in ([1, 2], [0]):  # the second tree is below tokens whose slots have moved
            rows = sessions[0].run_batched([partial(_read, session) for session in sessions])
            for session, source, logits in zip(sessions, SOURCES, rows, strict=True):
                for node in range(-1, len(TREE)):
                    tokens = [*session.tokens, *(TREE.tokens[i] for i in TREE.path(node))]
                    torch.testing.assert_close(logits[node + 1], plain(target, source, tokens), atol=1e-4, rtol=1e-3)
                session.keep(kept)
    assert (target.forwards, target.encodings, target.encoded) == (2, 1, sum(map(len, SOURCES)))
    assert [session.work.encoded for session in sessions] == list(map(len, SOURCES))


def _read(session: Session) -> torch.Tensor:
    return session.read(TREE).logits


@pytest.mark.parametrize("kind", ARCHS)
@torch.inference_mode()
def test_sources_after_forks_and_closed_rows_are_fresh(kind: str) -> None:
    target = make_engine(tiny(kind), LONGEST)
    sessions = [opened(target, source, [20, 21]) for source in SOURCES]
    for session in sessions:
        session.read()
    sessions[0].close()  # the last row moves into its place
    copy = sessions[1].fork()
    assert copy.source == tuple(SOURCES[1])
    copy.follow([*copy.tokens, 33])
    sessions[1].follow([*target.prefix, 20])  # back
    empty = sessions[2].new_sequence()
    empty.follow(list(target.prefix))
    for session, source in ((copy, SOURCES[1]), (sessions[1], SOURCES[1]), (sessions[2], SOURCES[2]),
                            (empty, SOURCES[2])):
        row = session.read().logits[0]
        torch.testing.assert_close(row, plain(target, source, session.tokens), atol=1e-4, rtol=1e-3)
    assert target.encoded == sum(map(len, SOURCES))
    sessions[1].begin(SOURCES[0])  # the next turn of a conversation
    sessions[1].follow([*target.prefix, 20])
    row = sessions[1].read().logits[0]
    torch.testing.assert_close(row, plain(target, SOURCES[0], [*target.prefix, 20]), atol=1e-4, rtol=1e-3)
    assert sessions[1].work.encodings == 2
    for session in sessions[1:]:
        session.close()
    assert target.open_rows == 0


def test_a_request_encodes_its_source_once() -> None:
    target = engine("t5")
    before = target.encoded
    first = traced(Greedy(), target, SOURCES[1], new=6)
    assert target.encoded - before == len(SOURCES[1])
    assert first.steps.forwards == [1] * len(first.steps.forwards)
    assert first.steps.positions[0] == 1  # the start token
    traced(STRATEGIES.build("best_of_n:n=4"), target, SOURCES[1], new=6)
    assert target.encoded - before == 2 * len(SOURCES[1])


def test_a_sequence_without_source_is_refused() -> None:
    with closing(Session(engine("bart"))) as session:
        session.follow([2])
        with pytest.raises(UserError, match="nothing is for its encoder to read"):
            session.read()
