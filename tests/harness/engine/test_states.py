"""Recurrent states after any reading, rejecting, branching and copying are those of a fresh forward."""

import random
from contextlib import closing
from functools import partial

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.mixers import reads_chunks
from harness.engine.session import Session
from harness.engine.state import StateEngine
from harness.engine.states import MARKS, NEAR, NODES, Place, RowStates, State
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from harness.models.loading import check
from strategies.greedy import Greedy
from strategies.prompt_lookup import PromptLookup
from tests.decode import decode
from tests.models import prompts
from tests.recurrent import ONE_BY_ONE, OPTIONS, engine
from tests.scale import scaled

TREE = TokenTree((9, 4, 12, 6, 8), (-1, -1, 1, 2, 1))
MAIN = ("Mamba2", "GraniteMoeHybrid", "Rwkv", "Mamba")
ROUNDING = 1e-4  # of a state in fp32, behind three layers whose weights are four times as large as usual; mostly 5e-6


@torch.inference_mode()
def plain(target: StateEngine, tokens: list[int]) -> torch.Tensor:
    """Return the logits (V,) after `tokens` from one forward without cache."""
    logits: torch.Tensor = target.model(torch.tensor([tokens]), use_cache=False).logits[0, -1].float()
    return logits


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)


def state(target: StateEngine, session: Session) -> list[torch.Tensor]:
    """Return the state of all mixers after the sequence, which must be known."""
    found, rest = target.cache.row(session.row.index).before(Place(len(session.tokens)))
    assert found
    assert not rest
    return [part[place] for parts, place in found.parts.values() for part in parts if part is not None]


@pytest.mark.parametrize("name", OPTIONS)
def test_classes_read_trees_as_plain_sequences(name: str) -> None:
    """The table of classes: also whether their mixers go on from a state when they read several tokens at once."""
    target = engine(name)
    check(target)
    assert target.chunks == (name not in ONE_BY_ONE)
    with closing(Session(target)) as session:
        session.follow(list(range(20, 31)))
        session.read()
        for kept in ([1, 2], [0], [1, 4], []):  # later trees are below tokens whose slots have moved
            logits = session.read(TREE).logits
            for node in range(-1, len(TREE)):
                close(logits[node + 1], plain(target, [*session.tokens, *(TREE.tokens[i] for i in TREE.path(node))]))
            session.keep(kept)
            session.follow([*session.tokens, 33])
    assert not target.open_rows


def test_a_mixer_that_forgets_is_told_in_any_precision() -> None:
    for name in ("Mamba", "Mamba2"):
        for dtype in (torch.float32, torch.bfloat16):
            mixer = engine(name).mixers[0]
            mixer.module.to(dtype)
            assert reads_chunks(mixer, 32) == (name == "Mamba2")
            mixer.module.to(torch.float32)


@pytest.mark.parametrize("name", MAIN)
@torch.inference_mode()
def test_any_history_leaves_the_state_of_a_fresh_read(name: str) -> None:
    target, rng = engine(name), random.Random(0)
    for _ in range(scaled(3, 20)):
        sessions = [Session(target)]
        sessions[0].follow(rng.choices(range(3, 97), k=rng.randint(1, 12)))
        for _ in range(12):
            session = rng.choice(sessions)
            move = rng.choice(["chain", "tree", "back", "fork", "close", "grow", "more"])
            if move in ("chain", "tree"):
                size = rng.randint(1, 5)
                parents = tuple(node - 1 if move == "chain" else rng.randint(-1, node - 1) for node in range(size))
                tree = TokenTree(tuple(rng.choices(range(3, 97), k=size)), parents)
                session.read(tree)
                path = tree.path(rng.randint(-1, size - 1))
                session.keep(path[:rng.randint(0, len(path))])
            elif move == "back":
                session.follow(session.tokens[:rng.randint(1, len(session.tokens))])
            elif move == "fork" and len(sessions) < 4:
                session.read()
                sessions.append(_copied(session))
            elif move == "close" and len(sessions) > 1:
                sessions.pop(1).close()
            elif move == "grow":
                _grown(target, session, rng)
            elif move == "more":
                session.follow([*session.tokens, *rng.choices(range(3, 97), k=rng.randint(1, 3))])
        for session in sessions:
            session.follow([*session.tokens, 50])
            close(session.read().logits[0], plain(target, session.tokens))
            with closing(Session(target)) as fresh:
                fresh.follow(session.tokens)
                fresh.read()
                for found, wanted in zip(state(target, session), state(target, fresh), strict=True):
                    assert (found - wanted).norm() <= ROUNDING * max(1.0, float(wanted.norm()))
        for session in sessions[::-1]:
            session.close()
    assert not target.open_rows
    assert not any(row.found for row in target.cache.states.values())


def _copied(session: Session) -> Session:
    """Return a copy of a session that is not closed with it."""
    other = session.fork()
    session._others.remove(other)
    return other


def _grown(target: StateEngine, session: Session, rng: random.Random) -> None:
    """Search three levels below a sequence, check each row, and keep a path."""
    session.read()
    alive, paths = [-1], {-1: list[int]()}
    for _ in range(3):
        tokens, parents, before = rng.choices(range(3, 97), k=4), rng.choices(alive, k=4), session.nodes
        logits = session.grow(tokens, parents).logits
        for number, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            paths[before + number] = [*paths[parent], token]
            close(logits[1 + number], plain(target, [*session.tokens, *paths[before + number]]))
        alive = rng.sample(range(before, before + 4), 2)
        session.retain(alive)
    session.keep(session.forest.path(alive[0]))


@pytest.mark.parametrize("name", MAIN)
def test_sequences_that_share_forwards_are_as_alone(name: str) -> None:
    target, texts = engine(name), prompts(scaled(4, 8), 97, 1)
    for strategy in (Greedy(), PromptLookup()):
        alone = [decode(strategy, target, text, new=12) for text in texts]
        before = target.forwards
        assert run_batched([target], [partial(decode, strategy, target, text, new=12) for text in texts]) == alone
        assert target.forwards - before < sum(map(len, alone))


def test_mixers_read_again_no_more_than_was_accepted() -> None:
    target, text = engine("GraniteMoeHybrid"), [5, 6, 7, 8, 9, 10, 5, 6, 7]
    before = target.again
    decode(Greedy(), target, text, new=12)
    assert target.again == before
    with closing(Session(target)) as session:
        session.follow(text)
        for drafts, accepted in (((4, 9, 3), 2), ((4, 9, 3), 0), ((8, 6), 2), ((7,), 1)):
            before = target.again
            session.read(TokenTree.chain(drafts))
            session.keep(range(accepted))
            session.follow([*session.tokens, 11])
            again = accepted if accepted < len(drafts) else 0
            session.read()
            assert target.again - before == again


def test_places_follow_their_slots() -> None:
    assert Place.of(3, [3, 4, 7]) == Place(5, (7,))
    assert Place(5, (7, 9)).moved([5, 7, 9], 4) is None         # slot 4 is overwritten
    assert Place(5, (7, 9)).moved([7, 9], 5) == Place(7)        # a path that is kept
    assert Place(5, (7, 9)).moved([6, 7, 8], 5) is None         # 9 is gone
    assert Place(5, (7, 9)).moved([6, 7, 8, 9], 5) == Place(5, (6, 8))
    assert Place(5).moved([9, 9], 5) == Place(5)
    assert Place(8).moved([5, 6, 7], 4) is None


def test_a_row_keeps_few_states() -> None:
    row = RowStates()
    for end in range(1, 500):
        row.add({Place(end): State()}, end if end in (100, 110, 120) else 0)
        row.add({Place(end, (end + 5,)): State()})
    places = sorted(row.found)
    assert sum(bool(place.path) for place in places) == NODES
    kept = [place.prefix for place in places if not place.path]
    assert len(kept) <= NEAR + MARKS
    assert {110, 120, 499} <= set(kept)
    assert 100 not in kept


def test_keys_cannot_be_given_or_changed() -> None:
    cache = engine("GraniteMoeHybrid").cache
    with pytest.raises(Unsupported, match="carries a state"):
        cache.fill(0, [])
    with pytest.raises(Unsupported, match="carries a state"):
        cache.change_keys(0, 0, 1, lambda layer, keys: keys)
