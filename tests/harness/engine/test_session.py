"""The session: after any sequence of reads, keeps and drops the cache equals that of a fresh read."""

from functools import cache
from random import Random

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import HIDDEN
from harness.engine.session import Session
from harness.engine.tree import TokenTree, visible
from harness.errors import UserError
from tests.decode import engine
from tests.models import ARCHS, tiny_model

VOCAB = 97


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch, layers=2))


@torch.inference_mode()
def fresh(arch: str, text: list[int]) -> torch.Tensor:
    """(V,) logits after `text`, by a plain forward."""
    places = torch.arange(len(text))[None]
    return target(arch).model(torch.tensor([text]), position_ids=places).logits[0, -1].float()


def close(row: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.allclose(row, other, atol=2e-4))


def random_tree(random: Random, size: int) -> TokenTree:
    return TokenTree(tuple(random.randrange(VOCAB) for _ in range(size)),
                     tuple(random.randrange(-1, node) for node in range(size)))


@pytest.mark.parametrize("arch", ARCHS)
def test_any_order_of_read_keep_and_rollback(arch: str) -> None:
    random, session = Random(7), Session(target(arch), remember=(HIDDEN,))
    text = [random.randrange(3, VOCAB) for _ in range(6)]
    for _ in range(25):
        session.follow(text)
        tree = random_tree(random, random.randrange(7))
        reading = session.read(tree)
        node = random.randrange(-1, len(tree))
        path = tree.path(node)
        assert close(reading.logits[node + 1], fresh(arch, [*text, *(tree.tokens[n] for n in path)]))
        if random.random() < 0.7:
            session.keep(path)
            text = [*text, *(tree.tokens[n] for n in path)]
            assert session.tokens == text
            assert close(session.read().logits[0], fresh(arch, text))
            assert session.memory.shape == (len(text), reading.hidden.shape[1])
        move = random.random()
        if move < 0.3:
            text = text[:random.randrange(1, len(text) + 1)]
        elif move < 0.8:
            text = [*text, random.randrange(VOCAB)]
    session.close()


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_states_are_those_of_a_fresh_read(arch: str) -> None:
    """After trees of which a path is kept, rollbacks, and in a copy of the sequence."""
    random, names = Random(3), (HIDDEN, "hidden:0", "hidden:1", "hidden:-1")
    session = Session(target(arch), remember=names)
    text = [random.randrange(3, VOCAB) for _ in range(5)]
    session.follow(text)
    for _ in range(6):
        tree = random_tree(random, 4)
        session.read(tree)
        session.keep(tree.path(3))
        session.follow(session.tokens[:-1])
    session.read()
    other, copy = Session(target(arch), remember=names), session.fork()
    other.follow(session.tokens)
    other.read()
    assert other.states(names).shape == (len(session.tokens), 4 * other.memory.shape[1])
    assert torch.equal(other.states(names, 2), other.states(names)[2:])
    model = target(arch).model
    wanted = model(torch.tensor([session.tokens]), output_hidden_states=True).hidden_states
    assert close(other.states(("hidden:0", "hidden:1")), torch.cat([wanted[0], wanted[1]], -1)[0])
    for each in (session, copy):
        assert close(each.states(names), other.states(names))
    with pytest.raises(ValueError, match="does not remember the hidden states hidden:2"):
        session.states(("hidden:2",))
    for each in (session, other):
        each.close()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_growing_forest(arch: str) -> None:
    """Beams that die leave slots behind; retaining compacts them and every leaf still sees its own path."""
    random, session = Random(5), Session(target(arch))
    text = [random.randrange(3, VOCAB) for _ in range(4)]
    session.follow(text)
    session.read()
    leaves: list[tuple[int, list[int]]] = [(-1, text)] * 3
    nodes = 0
    for _ in range(40):
        chosen = [random.choice(leaves) for _ in range(3)]
        session.retain(sorted({node for node, _ in chosen} - {-1}))
        tokens = [random.randrange(VOCAB) for _ in chosen]
        reading = session.grow(tokens, [node for node, _ in chosen])
        leaves = [(nodes + i, [*path, token]) for i, ((_, path), token) in enumerate(zip(chosen, tokens, strict=True))]
        nodes += 3
        for i, (_, path) in enumerate(leaves):
            assert close(reading.logits[i + 1], fresh(arch, path))
    assert target(arch).cache.slots <= 256, "dead branches were not cleared away"
    session.close()


def test_counts_are_exact() -> None:
    session = Session(target("llama"))
    session.follow([5, 6, 7])
    session.read()
    session.follow([5, 6, 7, 8])
    session.read(TokenTree.chain([9, 10]))
    session.keep([0])
    work = session.work
    assert (work.forwards, work.positions, work.drafted, work.accepted) == (2, 6, 2, 1)
    session.read()
    assert work.forwards == 2, "what is known is not read again"
    session.close()


def test_long_prompts_are_read_in_chunks() -> None:
    model = tiny_model("llama")
    model.config.max_position_embeddings = 2048
    whole = Engine(model, 2048)
    text = [3 + i % 90 for i in range(1100)]
    session = Session(whole)
    session.follow(text)
    row = session.read().logits[0]
    assert session.work.forwards == 3
    with torch.inference_mode():
        assert close(row, model(torch.tensor([text])).logits[0, -1])


def test_too_long_a_text_is_refused() -> None:
    session = Session(target("gpt2"))
    with pytest.raises(UserError, match="513 tokens"):
        session.follow([5] * 513)
    session.close()


@pytest.mark.parametrize("arch", ARCHS)
def test_merged_forwards_equal_single_forwards(arch: str) -> None:
    """Ragged lengths, trees and chains in one forward: every row is what it would be alone."""
    random, big = Random(11), target(arch)
    texts = [[random.randrange(3, VOCAB) for _ in range(length)] for length in (3, 9, 5)]
    trees = [random_tree(random, size) for size in (0, 5, 2)]

    def job(text: list[int], tree: TokenTree) -> torch.Tensor:
        session = Session(big)
        session.follow(text)
        session.read(tree)
        session.keep([])
        session.follow([*text, 8])
        logits = session.read(tree).logits
        session.close()
        return logits
    before = big.forwards
    merged = run_batched([big], [lambda t=t, c=c: job(t, c) for t, c in zip(texts, trees, strict=True)])
    assert big.forwards - before == 2
    for text, tree, rows in zip(texts, trees, merged, strict=True):
        assert torch.allclose(rows, job(text, tree), atol=2e-4)


def test_a_failing_read_harms_no_other() -> None:
    big = target("llama")

    def job(text: list[int]) -> str:
        session = Session(big)
        try:
            session.follow(text)
            session.read()
            return "fine"
        except IndexError:
            return "failed"
        finally:
            session.close()
    assert run_batched([big], [lambda: job([5, VOCAB + 5]), lambda: job([5, 6])]) == ["failed", "fine"]
    assert big.open_rows == 0


@pytest.mark.parametrize("closed", [False, True])
def test_nan_in_a_copy_is_known_to_the_first_sequence(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = torch.nan
    session = Session(engine(model))
    session.follow([5, 6])
    session.read()
    copy = session.fork()
    assert not session.has_nan
    copy.follow([5, 6, 9])
    copy.read()
    if closed:
        copy.close()
    assert session.has_nan
    monkeypatch.setattr(Session, "_undefined_now", None)  # the device may be lost: closing asks nothing of it
    session.close()
    assert session.engine.open_rows == 0


def test_visible() -> None:
    """Specs, golden 18."""
    seen = visible((-1, -1, 0, 0, 1))
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[0], [1], [0, 2], [0, 3], [1, 4]]
