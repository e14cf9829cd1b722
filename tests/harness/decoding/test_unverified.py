"""Drafts that nothing verifies: committed without a forward, and counted like a chain that was verified."""

import torch

from harness.decoding.unverified import commit_draft
from harness.engine.session import Session
from tests.decode import engine
from tests.models import tiny_model


def test_a_draft_is_committed_without_a_forward() -> None:
    """It is computed by the next read; a rejected one counts as drafted and leaves the sequence as it was."""
    target, text = engine(tiny_model("llama", layers=2)), [5, 6, 7]
    session = Session(target)
    work = session.work
    session.kept_trees = []
    session.follow(text)
    session.read()
    commit_draft(session, text, [8, 9], accepted=False)
    assert session.tokens == text
    commit_draft(session, text, [10, 11], accepted=True)
    assert (work.forwards, work.positions, work.drafted, work.accepted, work.whole) == (1, 3, 4, 2, 1)
    assert [(tree.tokens, path) for tree, path in session.kept_trees] == [((8, 9), []), ((10, 11), [0, 1])]
    with torch.inference_mode():
        fresh = target.model(torch.tensor([[*text, 10, 11]])).logits[0, -1]
    assert torch.allclose(session.read().logits[0], fresh, atol=2e-4)
    assert (work.forwards, work.positions) == (2, 5)
    session.close()
