"""Published heads: what cannot be read is said, and no more is read than a head needs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.models import public_heads, trained_head
from strategies.drafters.choices import best_choices
from tests.public_heads import MEDUSA, SMALL, ZLAB, D, Tensors, V, dflash, eagle3, loaded, noise, renamed, written


def refused(folder: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        trained_head.load(str(folder), loaded())
    assert str(error.value).count(". ") == 0
    assert str(error.value).endswith(".")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    folder, (tensors, *_, config, file) = tmp_path / "head", MEDUSA["own"]
    for name in ("medusa_lm_head.pt", "pytorch_model.bin", "model.safetensors"):
        written(folder, tensors, config, name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:len(whole) // 2])
        refused(folder, f"{name} cannot be read as weights: it was cut off")
        (folder / name).write_bytes(b"nothing of the kind")
        refused(folder, f"{name} cannot be read as weights")
        (folder / name).unlink()
    torch.save({"model": tensors}, folder / file)
    refused(folder, "holds other things")
    (folder / file).unlink()
    torch.save({}, folder / "training_args.bin")
    refused(folder, r"has no weights in files \*.safetensors, \*.bin, \*.pt")
    for text in (None, "{", "[]"):
        (folder / "config.json").write_text(text) if text else (folder / "config.json").unlink()
        written(tmp_path / "other", tensors, {})
        refused(folder, "has no weights" if text == "[]" else "neither head.json nor config.json can be read")


def test_files_of_the_old_format_are_read(tmp_path: Path) -> None:
    tensors, *_, config, file = MEDUSA["own"]
    folder = tmp_path / "head"
    written(folder, tensors, config, file)
    torch.save(tensors, folder / file, _use_new_zipfile_serialization=False)
    head = trained_head.load(str(folder), loaded())
    torch.testing.assert_close(head.network.state_dict()["outputs.2.weight"], tensors["2.2.weight"])


WRONG: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "no head": (noise({"model.layers.0.mlp.up_proj.weight": (D, D)}), {}, "of a known layout: .* is model.layers.0"),
    "unknown tensor": (MEDUSA["own"][0] | noise({"0.0.gate.weight": (D, D)}), {},
                       "'medusa', but that has no tensor 0.0.gate.weight"),
    "wide states": (noise({"0.0.linear.weight": (32, 32), "0.1.weight": (V, 32)}), {},
                    r"do not fit 'tiny': .* has the shape \(32, 32\), not \(64, 64\)"),
    "more tokens": (noise({"0.0.linear.weight": (D, D), "0.1.weight": (98, D)}), {}, r"\(98, 64\), not \(97, 64\)"),
    "other states": (eagle3("authors")[0], {**SMALL, "hidden_size": 32, "head_dim": 8},
                     "hidden states of 32 numbers, but 'tiny' has 64"),
    "other tokens": (eagle3("authors")[0], SMALL | {"vocab_size": 98}, "for 98 logits, but 'tiny' has 97"),
    "other embedding": (eagle3("authors")[0] | noise({"embed_tokens.weight": (98, D)}), SMALL,
                        r"embedding has the shape \(98, 64\), and the model's \(97, 64\)"),
    "missing tensor": ({name: tensor for name, tensor in eagle3("authors")[0].items() if name != "fc.weight"}, SMALL,
                       "fc.weight has the shape None, not"),
    "other sizes": (eagle3("authors")[0], SMALL | {"intermediate_size": 48}, "do not fit 'tiny': mlp"),
    "bad sizes": (eagle3("authors")[0], SMALL | {"num_attention_heads": "many"}, "sizes of the head cannot be read"),
    "token out of range": (eagle3("few tokens")[0] | {"d2t": torch.full((20,), 78)}, SMALL, "drafts token 97, but the"),
    "layers that the model lacks": (eagle3("authors")[0], SMALL | {"eagle_aux_hidden_state_layer_ids": [1, 3]},
                                    "'1-3', but the model has 2 layers"),
    "some of the tokens": (MEDUSA["vllm"][0] | {"token_map": torch.arange(9)}, {}, "a part of the vocabulary"),
    "fewer tokens": (MEDUSA["vllm"][0], {"truncated_vocab_size": 9, "vocab_size": V}, "a part of the vocabulary"),
}


@pytest.mark.parametrize("case", WRONG)
def test_heads_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    tensors, config, words = WRONG[case]
    refused(Path(written(tmp_path / "head", tensors, config)), words)


@pytest.mark.parametrize(("fields", "words"), [
    ({"mask_token_id": 97}, "mask is token 97, which"), ({"mask_token_id": None}, "mask is token None, which"),
    ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": None}, "window of None positions"),
    ({"layer_types": ["sliding_attention"]}, "'windows' of the head is '3', but it has 2 layers")])
def test_blocks_that_do_not_fit_are_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs, sizes = dflash()
    refused(Path(written(tmp_path / "head", theirs.state_dict(), sizes | fields)), words)


def test_variants_that_are_not_known_are_refused(tmp_path: Path) -> None:
    theirs, sizes = dflash()
    own = noise({"prefix_gru.weight_ih_l0": (30, D), "prefix_gru.weight_hh_l0": (30, 10),
                 "embed_proj.0.weight": (7, D + 10), "embed_proj.2.weight": (V, 7)})
    block = renamed(theirs.state_dict(), ZLAB)
    refused(Path(written(tmp_path / "a", block | own, {**sizes, "shift_label": False})), "predict their own places")
    gated = noise({"markov_head.markov_w1.weight": (V, 6), "markov_head.gate_proj.weight": (6, D + 6)})
    refused(Path(written(tmp_path / "b", block | gated, sizes)), "no tensor markov_head.gate_proj.weight")
    early = noise({"hydra_mlp.0.0.linear.weight": (D, 2 * D)})
    refused(Path(written(tmp_path / "c", early, {"hidden_state_offset": 1})), "reads an earlier layer")


def test_only_the_files_of_a_head_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First those that tell what it is, then weights of the first kind that there are."""
    asked = list[list[str]]()
    tensors, *_, config, _ = MEDUSA["own"]

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return written(tmp_path, tensors, config, "pytorch_model.bin") if "*.pt" in allow_patterns else str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    head = trained_head.load("someone/head", loaded())
    assert (head.name, head.card.kind) == ("someone/head", "medusa")
    assert asked == [["head.json", "head.safetensors", "config.json"], ["*_lm_head.safetensors", "*_lm_head.pt"],
                     ["*.safetensors"], ["*.bin", "*.pt"]]


def test_a_file_of_a_head_beside_those_of_a_model_is_read_alone(tmp_path: Path) -> None:
    tensors, *_, config, file = MEDUSA["own"]
    written(tmp_path / "head", {"model.embed_tokens.weight": torch.zeros(V, D)}, config)
    assert trained_head.load(written(tmp_path / "head", tensors, config, file), loaded()).card.kind == "medusa"


def test_the_rest_of_a_whole_model_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, *_, config, file = MEDUSA["whole"]
    read = list[str]()
    one = public_heads._one
    monkeypatch.setattr(public_heads, "_one", lambda file, name: (read.append(name), one(file, name))[1])
    trained_head.load(written(tmp_path / "head", tensors, config, file), loaded())
    assert sorted(read) == sorted(name for name in tensors if name.startswith("medusa_head."))


def test_assumed_ranks_make_a_tree_of_all_depths(tmp_path: Path) -> None:
    tensors, *_, config, file = MEDUSA["own"]
    head = trained_head.load(written(tmp_path / "head", tensors, config, file), loaded())
    assert len(head.card.ranks) == 3
    assert {depth for depth, _ in best_choices(head.card.ranks, 63).nodes} == {0, 1, 2}
