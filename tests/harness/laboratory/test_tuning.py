"""A model that is trained together with its head (Medusa-2)."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from harness.engine.hooks import HIDDEN
from harness.engine.session import Session
from harness.errors import UserError
from harness.heads.network import Network, TargetParts, settings_of
from harness.laboratory.corpus import Corpus
from harness.laboratory.training import train
from harness.laboratory.tuning import SINE, TWO_STAGE, Tuned
from harness.models.trained_head import CARD
from strategies.eagle3 import Eagle3
from strategies.medusa import MedusaHeads
from tests.program import call
from tests.walks import model, read, write


@pytest.fixture
def tuned() -> Tuned:
    torch.manual_seed(0)
    return Tuned(fresh(MedusaHeads))


def fresh(network: type[Network]) -> Network:
    return network(TargetParts.of(model()), settings_of(network, {}))


def changed(tuned: Tuned) -> Tuned:
    with torch.no_grad():
        for weight in tuned.adapters.up:
            weight.normal_(std=0.1)
    return tuned


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write(folder := tmp_path_factory.mktemp("corpus") / "answers")
    return folder


TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 0]])


def test_untrained_changes_leave_the_states_as_they_are(tuned: Tuned) -> None:
    session = Session(model(), remember=(HIDDEN,))
    session.follow(TOKENS[0].tolist())
    with torch.inference_mode():
        session.read()
    torch.testing.assert_close(tuned.states(TOKENS)[0], session.remembered[HIDDEN], rtol=1e-4, atol=1e-5)


def test_merged_changes_give_the_states_of_training(tuned: Tuned) -> None:
    before, trained = tuned.states(TOKENS), changed(tuned).states(TOKENS)
    assert (trained - before).abs().max() > 0.01
    tuned.adapters.merge()
    for weight in tuned.adapters.up:
        torch.nn.init.zeros_(weight)
    torch.testing.assert_close(tuned.states(TOKENS), trained, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_model_and_a_share_of_that_of_the_heads(tuned: Tuned, data: Path) -> None:
    """Computed anew from the logits, for both schedules; behind a sine of zero, heads do not count."""
    walks = read(data, tuned.network)
    tokens = walks.batch([0, 1], torch.device("cpu"))
    batch = tokens._replace(hidden=changed(tuned).states(tokens.tokens).detach())
    logits = tuned.target.logits(tuned.states(batch.tokens)).log_softmax(-1)
    rows = [(row, place) for row, place in batch.answer.nonzero().tolist()]
    text = -sum(logits[row, place - 1, batch.tokens[row, place]] for row, place in rows) / len(rows)
    entropy = -sum((logits[row, place - 1].exp() * logits[row, place - 1]).sum() for row, place in rows) / len(rows)
    heads = torch.zeros(())
    for depth, features in enumerate(tuned(batch.states, batch.tokens)):
        wanted = [(row, place) for row, place in rows if batch.answer[row, place - 1] and place > depth + 1
                  and batch.answer[row, place - 1 - depth]]
        found = tuned.logits(depth, features)
        value = sum(functional.cross_entropy(found[row, place - 2 - depth], batch.tokens[row, place])
                    for row, place in wanted) / len(wanted)
        heads = heads + 0.8 ** depth * value
    torch.testing.assert_close(tuned.objective(TWO_STAGE, batch, 0.3), text + 0.2 * heads)
    torch.testing.assert_close(tuned.objective(SINE, batch, 0.0), entropy)
    torch.testing.assert_close(tuned.objective(SINE, batch, 0.3), entropy + 0.01 * math.sin(0.15 * math.pi) * heads)


def test_training_changes_the_model_at_a_quarter_of_the_rate_of_its_head(tuned: Tuned, data: Path) -> None:
    walks, blocks = read(data, tuned.network), tuned.network.blocks
    train(tuned, walks, walks, 1, size=4, rate=1e-3, objective=partial(tuned.objective, TWO_STAGE))
    model = max(weight.abs().max().item() for weight in tuned.adapters.up)
    head = max(block[0].linear.weight.abs().max().item() for block in blocks)
    assert model == pytest.approx(head / 4, rel=0.01)


def test_perplexity_is_that_of_the_answers(tuned: Tuned, data: Path) -> None:
    walks: Corpus = read(data, tuned.network)
    batch = walks.batch(range(len(walks)), torch.device("cpu"))
    logits = tuned.target.logits(tuned.states(batch.tokens)).log_softmax(-1)
    found = [logits[row, place - 1, batch.tokens[row, place]].item() for row, place in batch.answer.nonzero().tolist()]
    assert tuned.perplexity(walks, size=7) == pytest.approx(math.exp(-sum(found) / len(found)))


def test_heads_that_read_other_layers_are_refused() -> None:
    with pytest.raises(UserError, match="leave --tune out"):
        Tuned(fresh(Eagle3.network))


def test_a_tuned_model_and_its_head_belong_together(tmp_path: Path) -> None:
    model, head = tmp_path / "model", tmp_path / "head"
    small = ("-t", "nano_math", "--limit", "20", "--max-new-tokens", "8", "--steps", "2")
    for folder in (tmp_path / "again", model):
        result = call("train-head", "medusa:heads=2", *small, "--tune", str(folder), "-o", str(head))
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert [file.name for file in head.glob("*.pt")] == []
    trained = json.loads((head / CARD).read_text())["trained"]
    assert (trained["tuned"], trained["schedule"]) == ("nano", "two-stage")
    assert all(value >= 1 for value in trained["perplexity before and after"])
    run = ("run", "-s", "medusa", "-t", "nano_math", "--limit", "1", "--max-new-tokens", "8", "--quiet")
    found = call(*run, "-m", str(model), "--head", str(head), "-o", str(tmp_path / "run"))
    assert found.exit_code == 0, found.stderr
    other = call(*run, "--head", str(head), "-o", str(tmp_path / "other"))
    assert other.exit_code == 2
    assert "was trained for" in other.stderr
