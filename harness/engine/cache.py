"""The key–value cache: rows of slots that are written in place, never concatenated."""

from collections.abc import Sequence
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from harness.errors import UserError

LARGE = 1 << 28  # bytes below which memory is not given back
START = 256      # slots of the one row that there is at first, whatever the budget


class CacheFull(UserError):
    """The texts at work need more room than the cache may take."""


class Move(NamedTuple):
    """Slots of a row to be copied to other slots of it."""

    row: int
    sources: Sequence[int]
    start: int


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """One layer's keys and values, (rows, heads, slots, dim each), and the part of them that a forward is to use."""

    is_sliding = False

    def __init__(self, owner: "SlotCache") -> None:
        super().__init__()
        self.owner = owner
        self.near_keys: Tensor | None = None
        self.near_values: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate on the first forward, when the shapes are known."""
        rows, slots = self.owner.rows, self.owner.slots
        self.keys = key_states.new_zeros(rows, key_states.shape[1], slots, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], slots, value_states.shape[3])
        self.is_initialized = True
        self.aim()

    def aim(self) -> None:
        """Cut out the rows and slots that the next forward looks at."""
        if self.keys is not None and self.values is not None:
            (first, last), end = self.owner.near, self.owner.end
            self.near_keys, self.near_values = self.keys[first:last, :, :end], self.values[first:last, :, :end]
            for near in (self.near_keys, self.near_values) if self.owner.dynamic else ():
                torch._dynamo.maybe_mark_dynamic(near, (0, 2) if last - first > 1 else 2)

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
               ) -> tuple[Tensor, Tensor]:
        """Write the new tokens (B, heads, Q, dim) to their slots and return all that the rows may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values, rows, slots = self.near_keys, self.near_values, self.owner.index, self.owner.places
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
        """Keys in view and their offset; only asked for when a model ignores the mask that it is given."""
        return self.owner.end, 0

    def get_seq_length(self) -> int:
        """Keys in view before this forward."""
        return self.owner.end

    def get_max_length(self) -> int:
        """Slots of a row."""
        return self.owner.slots


class SlotCache(Cache):  # type: ignore[misc]
    """`rows` × `slots` places for tokens in every layer, at most `budget` bytes in all (0: no limit).

    Before a forward, `aim` says which rows and slots it reads and where its new tokens go. A row is as long as the
    longest, so that no forward ever has to copy what was read before.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self.rows, self.slots, self.budget, self.dynamic = 1, START, 0, False
        self.near, self.end = (0, 1), 0
        self.index = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.places = self.index
        self._moves: list[Move] = []
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def aim(self, first: int, last: int, end: int, places: Tensor) -> None:
        """The next forward reads slots 0 … `end` of the rows `first` … `last` and writes to `places` (B, Q)."""
        self.places = places
        if (first, last, end) != (*self.near, self.end):
            self.near, self.end = (first, last), end
            self.index = torch.arange(last - first, device=places.device)[:, None]
            self._aim_layers()

    def mark_dynamic(self) -> None:
        """From now on, tell the compiler which sizes vary from forward to forward."""
        self.dynamic = True
        self._aim_layers()

    def slot_bytes(self) -> int:
        """Bytes of one slot of one row over all layers; 0 before the first forward."""
        held = [each for layer in self._filled() for each in (layer.keys, layer.values)]
        return sum(each[0, :, 0].numel() * each.element_size() for each in held)

    def reserve(self, rows: int, slots: int) -> None:
        """Make room for `rows` × `slots`, which are all that is in use; what is not gives way where room is short.

        Raises `CacheFull`, and changes nothing, when that is over the budget.
        """
        if rows <= self.rows and slots <= self.slots:
            return
        self.settle()
        used, (rows, slots) = (rows, slots), (max(rows, self.rows), max(slots, self.slots))
        most = max(START, self.budget // (self.slot_bytes() or 1)) if self.budget else 2 * rows * slots
        if rows * slots > most:
            rows, slots = used
        if rows * slots > most:
            raise CacheFull(f"{rows} texts of up to {slots} tokens need a key–value cache of "
                            f"{rows * slots * self.slot_bytes() / 1e9:.3g} GB and {self.budget / 1e9:.3g} GB are "
                            "allowed; raise --cache-gb, or lower --concurrency or --max-new-tokens")
        if slots != self.slots:  # some to spare, so that growth is paid for rarely
            slots = min(_roomy(slots, 64), most // rows)
        if rows != self.rows:
            rows = min(_roomy(rows, 4), most // slots)
        self._resize(rows, slots)

    def trim(self, rows: int, slots: int) -> None:
        """Give back what is beyond `rows` × `slots` where that is much; those in use must be among them, and stay.

        A text of many beams makes all rows long, and one of many samples makes many rows, which no other text needs.
        """
        size, wanted = self.rows * self.slots * self.slot_bytes(), rows * slots * self.slot_bytes()
        if size <= max(LARGE, 4 * wanted):
            return
        self.settle()
        self._resize(min(rows, self.rows), min(slots, self.slots))

    def _resize(self, rows: int, slots: int) -> None:
        """Copy every layer into tensors of `rows` × `slots`; raises `CacheFull` when the device's memory runs out.

        After a failure, all that is in use is where it was.
        """
        # One layer after the other, so that the memory held at the peak is that of the larger cache and of one layer,
        # not of two caches. Layers that were copied before a failure need no memory to go back: they are cut to size.
        try:
            for layer in self._filled():
                layer.keys, layer.values = _resized(layer.keys, rows, slots), _resized(layer.values, rows, slots)
        except (RuntimeError, MemoryError) as error:  # on a CPU, torch raises no error of a narrower class
            size = rows * slots * self.slot_bytes()
            self.rows, self.slots = min(rows, self.rows), min(slots, self.slots)
            for layer in self._filled():
                layer.keys, layer.values = (each[:self.rows, :, :self.slots] for each in (layer.keys, layer.values))
            self._aim_layers()
            raise CacheFull(f"there is no memory for a key–value cache of {size / 1e9:.3g} GB; lower --cache-gb, "
                            "--concurrency or --max-new-tokens") from error
        self.rows, self.slots = rows, slots
        self._aim_layers()

    def _filled(self) -> list[SlotLayer]:
        """The layers that have been written to, which are those that know their shapes."""
        return [layer for layer in self.layers if layer.is_initialized]

    def _aim_layers(self) -> None:
        for layer in self.layers:
            layer.aim()

    def move(self, row: int, sources: Sequence[int], start: int) -> None:
        """Copy slots `sources` of `row` to the slots from `start` on, before the next forward."""
        if any(move.row == row for move in self._moves):
            self.settle()
        self._moves.append(Move(row, sources, start))

    @torch.inference_mode()
    def settle(self) -> None:
        """Make the moves that were asked for, all in one gather a layer."""
        if not self._moves:
            return
        rows = [move.row for move in self._moves for _ in move.sources]
        old = [slot for move in self._moves for slot in move.sources]
        new = [move.start + i for move in self._moves for i in range(len(move.sources))]
        self._moves = []
        row, source, target = torch.tensor([rows, old, new], device=self.index.device).unbind(0)
        for layer in self._filled():
            for held in (layer.keys, layer.values):
                held[row, :, target] = held[row, :, source]

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` slots of row `source` to row `target`."""
        self.settle()
        for layer in self._filled():
            for held in (layer.keys, layer.values):
                held[target, :, :count] = held[source, :, :count]


def _roomy(count: int, step: int) -> int:
    """A quarter more than `count`, in whole steps."""
    return -(-count * 5 // 4 // step) * step


def _resized(held: Tensor, rows: int, slots: int) -> Tensor:
    """A copy of (R, H, S, D) keys or values in a tensor of other rows and slots, zero where there was nothing."""
    copy = held.new_zeros(rows, held.shape[1], slots, held.shape[3])
    kept = held[:rows, :, :slots]
    copy[:kept.shape[0], :, :kept.shape[2]] = kept
    return copy


def free_bytes(device: str) -> int:
    """Bytes of memory that are free on `device`, which is that of the very card that it names."""
    return int(torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available)
