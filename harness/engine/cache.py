"""The KV cache: rows of slots that are written in place, never concatenated."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from harness.errors import UserError

LARGE = 1 << 28  # bytes; a smaller cache is never shrunk
START = 256      # slots of the first row, which is allocated whatever the budget


class CacheFull(UserError):
    """The running sequences need a larger KV cache than the budget or the device allows."""


class Move(NamedTuple):
    """A scheduled copy of slots `sources` of a row to its slots from `start` on."""

    row: int
    sources: Sequence[int]
    start: int


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """The keys and values of one layer, (rows, heads, slots, dim) each, and views of the part that a forward uses."""

    is_sliding = False

    def __init__(self, owner: "SlotCache") -> None:
        super().__init__()
        self.owner = owner
        self.key_view: Tensor | None = None
        self.value_view: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate on the first forward, when the shapes are known."""
        rows, slots = self.owner.rows, self.owner.slots
        self.keys = key_states.new_zeros(rows, key_states.shape[1], slots, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], slots, value_states.shape[3])
        self.is_initialized = True
        self.set_views()

    def set_views(self) -> None:
        """Create the views of the rows and slots that the next forward attends to."""
        if self.keys is not None and self.values is not None:
            (first, last), end = self.owner.row_range, self.owner.end
            self.key_view, self.value_view = self.keys[first:last, :, :end], self.values[first:last, :, :end]
            for view in (self.key_view, self.value_view) if self.owner.dynamic else ():
                torch._dynamo.maybe_mark_dynamic(view, (0, 2) if last - first > 1 else 2)

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
               ) -> tuple[Tensor, Tensor]:
        """Write the new tokens (B, heads, Q, dim) to their slots and return the views of keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values, rows, slots = self.key_view, self.value_view, self.owner.index, self.owner.write_slots
        if slots.device != key_states.device:
            rows, slots = self.owner.places_on(key_states.device)
        assert keys is not None
        assert values is not None
        if key_states.shape[0] == 1:
            keys.index_copy_(2, slots[0], key_states)
            values.index_copy_(2, slots[0], value_states)
        else:
            keys[rows, :, slots] = key_states.transpose(1, 2)
            values[rows, :, slots] = value_states.transpose(1, 2)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys in view and their offset, for models that ignore the mask that they are given."""
        return self.owner.end, 0

    def get_seq_length(self) -> int:
        """Return the number of keys in view."""
        return self.owner.end

    def get_max_length(self) -> int:
        """Return the number of slots per row."""
        return self.owner.slots


class SlotCache(Cache):  # type: ignore[misc]
    """`rows` × `slots` slots in every layer, at most `budget` bytes in total (0: no limit).

    Before a forward, `prepare` sets which rows and slots it attends to and where its new tokens are written. All rows
    have the same length, so that no forward copies earlier keys and values. Each layer's slots are on the device of
    the layer.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self.rows, self.slots, self.budget, self.dynamic = 1, START, 0, False
        self.row_range, self.end = (0, 1), 0
        self.index = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.write_slots = self.index
        self._places = dict[torch.device, tuple[Tensor, Tensor]]()
        self._moves: list[Move] = []
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def prepare(self, first: int, last: int, end: int, write_slots: Tensor) -> None:
        """Prepare a forward over slots 0 … `end` of rows `first` … `last` that writes to `write_slots` (B, Q)."""
        self.write_slots = write_slots
        self._places.clear()
        if (first, last, end) != (*self.row_range, self.end):
            self.row_range, self.end = (first, last), end
            self.index = torch.arange(last - first, device=write_slots.device)[:, None]
            self._set_views()

    def places_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return `index` and `write_slots` on another device, to which each forward copies them once."""
        if device not in self._places:
            self._places[device] = self.index.to(device), self.write_slots.to(device)
        return self._places[device]

    def mark_dynamic(self) -> None:
        """From now on, mark the sizes of views as dynamic for the compiler."""
        self.dynamic = True
        self._set_views()

    def slot_bytes(self) -> int:
        """Return the bytes of one slot over all layers; 0 before the first forward."""
        return sum(self.slot_bytes_by_device().values())

    def slot_bytes_by_device(self) -> Counter[torch.device]:
        """Return the bytes of one slot over all layers on each device; nothing before the first forward."""
        found = Counter[torch.device]()
        for layer in self._allocated():
            found[layer.keys.device] += sum(tensor[0, :, 0].nbytes for tensor in (layer.keys, layer.values))
        return found

    def reserve(self, rows: int, slots: int) -> None:
        """Grow the cache to at least `rows` × `slots`, which cover all slots in use.

        Unused rows or slots are dropped when the budget is short. Raises `CacheFull`, and changes nothing, when
        `rows` × `slots` exceed the budget.
        """
        if rows <= self.rows and slots <= self.slots:
            return
        self.apply_moves()
        used, (rows, slots) = (rows, slots), (max(rows, self.rows), max(slots, self.slots))
        limit = max(START, self.budget // (self.slot_bytes() or 1)) if self.budget else 2 * rows * slots
        if rows * slots > limit:
            rows, slots = used
        if rows * slots > limit:
            raise CacheFull(f"{rows} sequences of up to {slots} tokens need a KV cache of "
                            f"{rows * slots * self.slot_bytes() / 1e9:.3g} GB but only {self.budget / 1e9:.3g} GB "
                            "are allowed; raise --cache-gb, or lower --concurrency or --max-new-tokens")
        if slots != self.slots:  # with headroom, so that the cache grows rarely
            slots = min(_with_headroom(slots, 64), limit // rows)
        if rows != self.rows:
            rows = min(_with_headroom(rows, 4), limit // slots)
        self._resize(rows, slots)

    def trim(self, rows: int, slots: int) -> None:
        """Shrink a cache much larger than `rows` × `slots` to that size, which must cover all slots in use.

        A prompt with many beams makes all rows long and one with many samples adds rows; later prompts need neither.
        """
        size, wanted = self.rows * self.slots * self.slot_bytes(), rows * slots * self.slot_bytes()
        if size <= max(LARGE, 4 * wanted):
            return
        self.apply_moves()
        self._resize(min(rows, self.rows), min(slots, self.slots))

    def _resize(self, rows: int, slots: int) -> None:
        """Copy every layer into tensors of `rows` × `slots`; raises `CacheFull` when the device's memory runs out.

        After a failure, all slots in use keep their contents.
        """
        # One layer at a time, so that peak memory is the larger cache plus one layer, not two caches. After a failure,
        # the layers that were already copied are sliced back to size, which needs no memory.
        try:
            for layer in self._moved():
                layer.keys, layer.values = _resized(layer.keys, rows, slots), _resized(layer.values, rows, slots)
        except (RuntimeError, MemoryError) as error:  # on a CPU, torch raises no error of a narrower class
            size = rows * slots * self.slot_bytes()
            self.rows, self.slots = min(rows, self.rows), min(slots, self.slots)
            for layer in self._moved():
                layer.keys, layer.values = (tensor[:self.rows, :, :self.slots] for tensor in (layer.keys, layer.values))
            self._set_views()
            raise CacheFull(f"the device has no memory for a KV cache of {size / 1e9:.3g} GB; lower --cache-gb, "
                            "--concurrency or --max-new-tokens") from error
        self.rows, self.slots = rows, slots
        self._set_views()

    def _allocated(self) -> list[SlotLayer]:
        """Return the layers that have been allocated."""
        return [layer for layer in self.layers if layer.is_initialized]

    def _moved(self) -> list[SlotLayer]:
        """Return what has a value in each slot, which moves with the slot."""
        return self._allocated()

    def _set_views(self) -> None:
        for layer in self.layers:
            layer.set_views()

    def move(self, row: int, sources: Sequence[int], start: int) -> None:
        """Schedule a copy of slots `sources` of `row` to the slots from `start` on, before the next forward."""
        if any(move.row == row for move in self._moves):
            self.apply_moves()
        self._moves.append(Move(row, sources, start))

    @torch.inference_mode()
    def apply_moves(self) -> None:
        """Apply all scheduled moves, in one gather per layer."""
        if not self._moves:
            return
        rows = [move.row for move in self._moves for _ in move.sources]
        old = [slot for move in self._moves for slot in move.sources]
        new = [move.start + i for move in self._moves for i in range(len(move.sources))]
        self._moves = []
        moves = torch.tensor([rows, old, new], device=self.index.device)
        on = cache(lambda device: moves.to(device).unbind(0))  # one copy to each device
        for layer in self._moved():
            row, source, target = on(layer.keys.device)
            for tensor in (layer.keys, layer.values):
                tensor[row, :, target] = tensor[row, :, source]

    @torch.inference_mode()
    def change_keys(self, row: int, first: int, last: int, change: Callable[[int, Tensor], Tensor]) -> None:
        """Replace the keys (1, heads, N, dim) of N slots of `row` by what `change` returns for each layer and them."""
        self.apply_moves()
        for number, layer in enumerate(self._allocated()):
            layer.keys[row, :, first:last] = change(number, layer.keys[row:row + 1, :, first:last])[0]

    @torch.inference_mode()
    def change_values(self, row: int, first: int, last: int, change: Callable[[int, Tensor], Tensor]) -> None:
        """Replace the values of slots as `change_keys` replaces keys."""
        self.apply_moves()
        for number, layer in enumerate(self._allocated()):
            layer.values[row, :, first:last] = change(number, layer.values[row:row + 1, :, first:last])[0]

    @torch.inference_mode()
    def select(self, row: int, slots: Tensor) -> None:
        """Keep of `row` the slots (layers, heads, N), those of each layer and head, in its first N slots."""
        self.apply_moves()
        count = slots.shape[-1]
        for layer, kept in zip(self._allocated(), slots, strict=True):
            for tensor in (layer.keys, layer.values):
                tensor[row, :, :count] = tensor[row].gather(1, kept[:, :, None].expand(-1, -1, tensor.shape[-1]))

    def keys(self, row: int, count: int) -> list[Tensor]:
        """Return the keys (heads, `count`, dim) in the first slots of `row`, layer by layer."""
        self.apply_moves()
        return [layer.keys[row, :, :count] for layer in self._allocated()]

    @torch.inference_mode()
    def contents(self, row: int, count: int) -> list[tuple[Tensor, Tensor]]:
        """Return copies of the keys and values in the first `count` slots of `row`, layer by layer."""
        self.apply_moves()
        return [(layer.keys[row, :, :count].clone(), layer.values[row, :, :count].clone())
                for layer in self._allocated()]

    @torch.inference_mode()
    def fill(self, row: int, contents: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write `contents` to the first slots of `row`, which must exist."""
        self.apply_moves()
        for layer, (keys, values) in zip(self.layers, contents, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[row, :, :keys.shape[1]], layer.values[row, :, :values.shape[1]] = keys, values

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` slots of row `source` to row `target`."""
        self.apply_moves()
        for layer in self._moved():
            for tensor in (layer.keys, layer.values):
                tensor[target, :, :count] = tensor[source, :, :count]


def _with_headroom(count: int, step: int) -> int:
    """Return 1.25 · `count`, rounded up to a multiple of `step`."""
    return -(-count * 5 // 4 // step) * step


def _resized(held: Tensor, rows: int, slots: int) -> Tensor:
    """Copy (R, H, S, D) keys or values into a tensor with other numbers of rows and slots, padded with zeros."""
    copy = held.new_zeros(rows, held.shape[1], slots, held.shape[3])
    kept = held[:rows, :, :slots]
    copy[:kept.shape[0], :, :kept.shape[2]] = kept
    return copy


def free_bytes(device: str) -> int:
    """Return the bytes of free memory on `device`; `cuda:1` means that card."""
    return int(torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available)
