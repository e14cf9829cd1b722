"""The KV cache when the device's memory runs out while it grows."""

import pytest
import torch
from torch import Tensor

from harness.engine import cache
from harness.engine.cache import CacheFull, SlotCache

LAYERS, HEADS, DIM = 4, 2, 3


def filled(rows: int, slots: int) -> SlotCache:
    """A cache in which every place holds a number of its own."""
    made = SlotCache(LAYERS, torch.device("cpu"))
    made.rows, made.slots = rows, slots
    made.prepare(0, 1, slots, torch.zeros(1, 1, dtype=torch.long))
    for i, layer in enumerate(made.layers):
        layer.lazy_initialization(torch.zeros(1, HEADS, 1, DIM), torch.zeros(1, HEADS, 1, DIM))
        numbers = torch.arange(layer.keys.numel(), dtype=torch.float32).view(layer.keys.shape)
        layer.keys.copy_(numbers + 1000 * i)
        layer.values.copy_(-numbers - 1000 * i)
    return made


def held(made: SlotCache, rows: int, slots: int) -> list[Tensor]:
    return [each[:rows, :, :slots].clone() for layer in made.layers for each in (layer.keys, layer.values)]


@pytest.mark.parametrize("allowed", range(2 * LAYERS))
@pytest.mark.parametrize(("rows", "slots"), [(3, 8), (2, 1000), (3, 1000)])
def test_no_memory_in_the_middle_of_growing_changes_nothing(
        monkeypatch: pytest.MonkeyPatch, allowed: int, rows: int, slots: int) -> None:
    made = filled(2, 8)
    before, real, left = held(made, 2, 8), cache._resized, [allowed]

    def allocate(held: Tensor, rows: int, slots: int) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(held, rows, slots)
    monkeypatch.setattr(cache, "_resized", allocate)
    with pytest.raises(CacheFull, match="lower --cache-gb, --concurrency or --max-new-tokens"):
        made.reserve(rows, slots)
    assert (made.rows, made.slots) == (2, 8)
    assert all(torch.equal(old, new) for old, new in zip(before, held(made, 99, 9999), strict=True))
    assert all(layer.key_view.data_ptr() == layer.keys.data_ptr() for layer in made.layers)
    monkeypatch.setattr(cache, "_resized", real)
    made.reserve(rows, slots)
    assert made.rows >= rows
    assert made.slots >= slots
    assert all(torch.equal(old, new) for old, new in zip(before, held(made, 2, 8), strict=True))


def test_what_is_in_use_survives_a_failure_where_rows_give_way_to_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(4, 8)
    made.budget = 256 * made.slot_bytes()
    before, real, left = held(made, 1, 8), cache._resized, [3]

    def allocate(held: Tensor, rows: int, slots: int) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator")
        return real(held, rows, slots)
    monkeypatch.setattr(cache, "_resized", allocate)
    with pytest.raises(CacheFull):
        made.reserve(1, 100)
    assert (made.rows, made.slots) == (2, 8)
    assert all(torch.equal(old, new) for old, new in zip(before, held(made, 1, 8), strict=True))


def test_free_memory_is_that_of_the_card_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: {"cuda:1": (7, 9), None: (1, 9)}[device])
    assert cache.free_bytes("cuda:1") == 7
    assert cache.free_bytes("cpu") > 1 << 20
