"""EAGLE-3's own parts: the draft vocabulary, the norms of EAGLE-3.1, and the head on disk."""

from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.heads.network import Network, TargetParts, settings_of
from harness.laboratory.corpus import Batch
from harness.laboratory.training import loss
from harness.models import trained_head
from harness.models.loading import Model, fingerprint
from harness.models.trained_head import Card
from strategies.eagle3 import Eagle3Network
from tests.decode import engine
from tests.models import tiny_model

VOCAB = 97


def network(**settings: bool | int | str) -> Network:
    torch.manual_seed(0)
    parts = TargetParts.of(engine(tiny_model("llama", layers=2)))
    return Eagle3Network(parts, settings_of(Eagle3Network, settings))


def test_only_listed_tokens_are_drafted() -> None:
    """Offsets 3, 3, 10, 10 for drafted tokens 0 … 3 are the target's tokens 3, 4, 12 and 13."""
    head = network(draft_vocab=4)
    head.get_buffer("d2t").copy_(torch.tensor([3, 3, 10, 10]))
    features = torch.randn(2, 64)
    logits = head.logits(0, features)
    torch.testing.assert_close(logits[:, [3, 4, 12, 13]], features @ head.get_submodule("output").weight.T)
    assert (logits.softmax(-1) > 0).sum(-1).tolist() == [4, 4]
    states = torch.randn(3, 64)
    law = head.target.logits(states).softmax(-1)[:, [3, 4, 12, 13]]
    torch.testing.assert_close(head.law(states)[:, [3, 4, 12, 13]], law / law.sum(-1, keepdim=True))
    assert head.law(states).count_nonzero() == 12


def test_a_head_of_few_tokens_learns_the_distribution_over_them() -> None:
    """Its loss is finite, and its gradient at the output that copies the target is that of the restricted one."""
    head = network(draft_vocab=20, unroll=1)
    tokens, states = torch.randint(3, VOCAB, (2, 8)), torch.randn(2, 8, 64)
    batch = Batch(tokens, states, torch.cat([states, states], -1), torch.ones(2, 8, dtype=torch.bool))
    value = loss(head, batch)
    features = head(batch.states, tokens)[0][:, :6]
    known = states[:, 1:7] @ head.target.head.weight[:20].T
    expected = -(known.softmax(-1) * head.get_submodule("output")(features).log_softmax(-1)).sum(-1).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    value.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())


@pytest.mark.parametrize(("settings", "extra"), [
    ({}, set()), ({"fc_norm": True}, {"fc_norm.0.weight", "fc_norm.1.weight"}),
    ({"norm_before_fc": True}, {"before_norm.weight"})])
def test_the_norms_of_newer_heads_are_parameters_of_their_own(settings: dict[str, bool], extra: set[str]) -> None:
    assert {name for name, _ in network(**settings).named_parameters()} == {
        "fc.weight", "word_norm.weight", "state_norm.weight", "mlp_norm.weight", "norm.weight", "output.weight",
        *(f"attention.{name}.weight" for name in "qkvo"), *(f"mlp.{name}.weight" for name in ("gate", "up", "down")),
        *extra}


def test_normed_taps_do_not_depend_on_the_size_of_a_layer() -> None:
    tokens, states = torch.randint(3, VOCAB, (1, 6)), torch.randn(1, 6, 128)
    larger = torch.cat([states[..., :64] * 50, states[..., 64:]], -1)
    for settings, same in (({"fc_norm": True}, True), ({}, False)):
        head = network(**settings)
        assert torch.allclose(head(states, tokens)[0], head(larger, tokens)[0], atol=1e-4) == same


def test_steps_go_on_from_what_the_setting_says() -> None:
    """Both variants agree at the first step; with `norm_output` the second one reads the first one's features."""
    tokens, states = torch.randint(3, VOCAB, (1, 6)), torch.randn(1, 6, 128)
    old, new = network(unroll=2), network(unroll=2, norm_output=True)
    new.get_submodule("norm").weight.data.mul_(3)
    old.load_state_dict(new.state_dict())
    first, second = old(states, tokens), new(states, tokens)
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)


@pytest.mark.parametrize("settings", [{"fc_norm": True, "norm_before_fc": True}, {"draft_vocab": 98}, {"taps": "3"}])
def test_settings_that_do_not_fit_are_refused(settings: dict[str, bool | int | str]) -> None:
    with pytest.raises(UserError):
        network(**settings)


def test_offsets_of_tokens_survive_on_disk(tmp_path: Path) -> None:
    """1,001 is no number of bfloat16."""
    owner = engine(tiny_model("llama", layers=2))
    head = network(draft_vocab=4)
    head.get_buffer("d2t").copy_(torch.tensor([0, 1001, 1001, 1001]))
    card = Card(kind="eagle3", target="tiny", fingerprint=fingerprint(owner.model, rounded=True), hidden=64,
                vocab=VOCAB, settings={"draft_vocab": 4}, ranks=[[0.5]] * head.depth)
    trained_head.save(tmp_path, head, card)
    found = trained_head.load(str(tmp_path), Model("tiny", owner, None, frozenset(), ""))
    assert found.network.get_buffer("d2t").tolist() == [0, 1001, 1001, 1001]
