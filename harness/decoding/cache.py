"""The key–value cache: rows of slots that are written in place, never concatenated."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """One layer's keys and values, (rows, heads, slots, dim each); the cache says where the next tokens go."""

    is_sliding = False

    def __init__(self, owner: "SlotCache") -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate on the first forward, when the shapes are known."""
        rows, slots = self.owner.rows, self.owner.slots
        self.keys = key_states.new_zeros(rows, key_states.shape[1], slots, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], slots, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
               ) -> tuple[Tensor, Tensor]:
        """Write the new tokens (B, heads, Q, dim) to their slots and return all that the rows may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        rows, slots, end = self.owner.target
        if isinstance(slots, slice):
            self.keys[rows, :, slots] = key_states
            self.values[rows, :, slots] = value_states
        else:
            self.keys[rows, :, slots] = key_states.transpose(1, 2)
            self.values[rows, :, slots] = value_states.transpose(1, 2)
        view = self.owner.view
        return self.keys[view, :, :end], self.values[view, :, :end]

    def resize(self, rows: int, slots: int) -> None:
        """Grow to `rows` × `slots`, keeping what is held."""
        if self.is_initialized and self.keys is not None and self.values is not None:
            self.keys = _grown(self.keys, rows, slots)
            self.values = _grown(self.values, rows, slots)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys in view and their offset; only asked for when a model ignores the mask that it is given."""
        return self.owner.target[2], 0

    def get_seq_length(self) -> int:
        """Keys in view before this forward."""
        return self.owner.target[2]

    def get_max_length(self) -> int:
        """Slots of a row."""
        return self.owner.slots


class SlotCache(Cache):  # type: ignore[misc]
    """`rows` × `slots` places for tokens in every layer, and the target of the running forward.

    The engine sets `target` (rows, slots to write, end of the view) before each forward.
    """

    def __init__(self, layers: int, rows: int = 1, slots: int = 256) -> None:
        self.rows, self.slots = rows, slots
        self.target: tuple[slice | Tensor, slice | Tensor, int] = (slice(0, 1), slice(0, 0), 0)
        self.view: slice | Tensor = slice(0, 1)
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def reserve(self, rows: int, slots: int) -> None:
        """Make room for `rows` × `slots`, doubling, so that growth is paid for rarely."""
        if rows <= self.rows and slots <= self.slots:
            return
        self.rows = max(self.rows, rows if rows <= 1 else 1 << (rows - 1).bit_length())
        self.slots = max(self.slots, 1 << (slots - 1).bit_length())
        for layer in self.layers:
            layer.resize(self.rows, self.slots)

    @torch.inference_mode()
    def move(self, row: int, sources: Sequence[int] | Tensor, start: int) -> None:
        """Gather slots `sources` of `row` into the slots from `start` on."""
        index = torch.as_tensor(sources, dtype=torch.long)
        for layer in self.layers:
            if layer.is_initialized:
                for held in (layer.keys, layer.values):
                    held[row, :, start:start + len(index)] = held[row].index_select(1, index.to(held.device))


def _grown(held: Tensor, rows: int, slots: int) -> Tensor:
    grown = held.new_zeros(rows, held.shape[1], slots, held.shape[3])
    grown[:held.shape[0], :, :held.shape[2]] = held
    return grown
