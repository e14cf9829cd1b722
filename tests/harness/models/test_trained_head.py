"""A head on disk belongs to one model, and says in a sentence what is wrong with it."""

import json
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.heads.network import settings_of
from harness.models import trained_head
from harness.models.loading import Model, fingerprint
from harness.models.trained_head import CARD, WEIGHTS
from tests.decode import engine
from tests.heads import kinds, untrained
from tests.models import tiny_model


def loaded(seed: int = 0) -> Model:
    own = engine(tiny_model("llama", seed=seed))
    return Model("tiny", own, None, frozenset(), fingerprint(own.model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = loaded()
    head = untrained("medusa", model.engine, heads=2)
    card = head.card.model_copy(update={"fingerprint": fingerprint(model.engine.model, rounded=True)})
    trained_head.save(tmp_path / "head", head.network, card)
    return tmp_path / "head"


def test_a_head_comes_back_as_it_was_saved(folder: Path) -> None:
    model = loaded()
    head, before = trained_head.load(str(folder), model), untrained("medusa", model.engine, heads=2)
    for weight, other in zip(head.network.parameters(), before.network.parameters(), strict=True):
        torch.testing.assert_close(weight, other.bfloat16().float())
    assert (head.card.settings, head.network.depth) == ({"heads": 2}, 2)
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]


def test_a_head_is_told_apart_by_its_weights_and_settings(folder: Path) -> None:
    model, first = loaded(), trained_head.load(str(folder), loaded())
    other = untrained("medusa", model.engine, heads=2)
    with torch.no_grad():
        next(other.network.parameters())[0, 0] += 1
    trained_head.save(folder, other.network, first.card)
    assert trained_head.load(str(folder), model).fingerprint != first.fingerprint


def test_the_model_may_be_loaded_in_another_precision(folder: Path) -> None:
    own = engine(tiny_model("llama").bfloat16())
    head = trained_head.load(str(folder), Model("tiny", own, None, frozenset(), fingerprint(own.model)))
    assert next(head.network.parameters()).dtype == torch.bfloat16


def changed(folder: Path, **fields: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | fields))


@pytest.mark.parametrize(("fields", "words"), [
    ({"settings": {"heads": 3}}, "do not fit its card: .* has the shape None, not"),
    ({"settings": {"heads": 0}}, "setting 'heads' of the head is 0"),
    ({"settings": {"tails": 1}}, "no setting 'tails', only heads, layers, own"),
    ({"hidden": 32}, "for hidden states of 32 numbers, but 'tiny' has 64"),
    ({"vocab": 5}, "for 5 logits, but 'tiny' has 97"),
    ({"kind": "greedy"}, "'greedy' has no trained head of its own"),
    ({"kind": "eagle2"}, "it drafts with that of 'eagle'"),
    ({"kind": "medusar"}, "no strategy 'medusar'. Did you mean 'medusa'"),
    ({"colour": "red"}, "is no card of a head"),
    ({"ranks": []}, "is no card of a head"),
    ({"ranks": [[0.5, 0.2]]}, "has ranks of 1 depths, and its network 2"),
    ({"fingerprint": "0"}, "other weights than those of 'tiny'"),
])
def test_what_is_wrong_with_a_card_is_said(folder: Path, fields: dict[str, object], words: str) -> None:
    changed(folder, **fields)
    with pytest.raises(UserError, match=words):
        trained_head.load(str(folder), loaded())


def test_what_is_wrong_with_files_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained for 'tiny' with other weights"):
        trained_head.load(str(folder), loaded(seed=1))
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="missing or was cut off"):
        trained_head.load(str(folder), loaded())
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="missing or was cut off"):
        trained_head.load(str(folder), loaded())
    (folder / CARD).unlink()
    with pytest.raises(UserError, match=f"holds no head: neither {CARD} nor config.json can be read"):
        trained_head.load(str(folder), loaded())
    with pytest.raises(UserError, match=r"There is no head '\./nowhere'"):
        trained_head.load("./nowhere", loaded())


def test_settings_are_texts_or_values() -> None:
    network = kinds()["medusa"]
    assert settings_of(network, {"heads": "3", "own": "false"}) == settings_of(network, {"heads": 3, "own": False})
