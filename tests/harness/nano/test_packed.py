"""Weights in 8 bits."""

from pathlib import Path

import torch

from harness.nano import packed


def test_a_row_is_off_by_half_a_step_at_most(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {"matrix": torch.randn(5, 64) * torch.tensor([[1e-3], [0.1], [1.0], [7.0], [0.0]]),
               "window": torch.randn(6, 1, 4), "norm": torch.rand(64)}
    packed.save(weights, tmp_path)
    found = packed.load(tmp_path)
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in weights.items()}
    steps = weights["matrix"].abs().amax(1, keepdim=True) / packed.LEVELS
    assert ((found["matrix"] - weights["matrix"]).abs() <= 0.55 * steps).all()
    assert (found["norm"] - weights["norm"]).abs().max() < 1e-3


def test_packed_weights_stay_when_they_are_packed_again(tmp_path: Path) -> None:
    packed.save({"matrix": torch.randn(8, 32)}, tmp_path)
    first = packed.load(tmp_path)
    packed.save(first, tmp_path)
    assert torch.equal(packed.load(tmp_path)["matrix"], first["matrix"])


def test_matrices_take_one_byte_a_number(tmp_path: Path) -> None:
    packed.save({"matrix": torch.randn(256, 256)}, tmp_path)
    assert (tmp_path / packed.FILE).stat().st_size < 256 * 256 * 1.02


def test_four_bits_are_off_by_half_a_step_at_most(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = torch.tensor([[1e-3], [0.1], [1.0], [7.0], [0.0]])
    weights = {"matrix": torch.randn(5, 192) * sizes, "norm": torch.rand(9)}
    packed.save(weights, tmp_path, bits=4)
    found = packed.load(tmp_path)
    steps = weights["matrix"].unflatten(1, (-1, packed.GROUP)).abs().amax(2) / packed.FEW
    assert ((found["matrix"] - weights["matrix"]).abs() <= 0.55 * steps.repeat_interleave(packed.GROUP, 1)).all()
    assert (found["norm"] - weights["norm"]).abs().max() < 1e-3
    packed.save(found, tmp_path, bits=4)
    assert torch.equal(packed.load(tmp_path)["matrix"], found["matrix"])
    packed.save({"matrix": torch.randn(256, 256)}, tmp_path, bits=4)
    assert (tmp_path / packed.FILE).stat().st_size < 256 * 256 * 0.54
