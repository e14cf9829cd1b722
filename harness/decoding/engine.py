"""One model, its cache and its counters: every forward pass of a run goes through `Engine.run`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.decoding.cache import SlotCache
from harness.errors import UserError

PREFILL = 512


@dataclass(frozen=True)
class Read:
    """New tokens of one row: they go to the slots from `start` on.

    `block` (Q, Q') bool says which of the last Q' slots each token may look at; it sees every slot before those.
    `wanted` counts the last tokens whose logits are asked for.
    """

    row: int
    start: int
    tokens: Sequence[int]
    positions: Sequence[int]
    block: Tensor
    wanted: int


class Outcome(NamedTuple):
    """What a read returned: `logits` (wanted, V) in float32 and `hidden` (Q, D), the last layer after its norm."""

    logits: Tensor
    hidden: Tensor


class Engine:
    """Runs the reads of many texts on one model; sessions hold its rows.

    `forwards` and `positions` count forward passes and tokens read, padding left out. `max_len` is the longest text
    in tokens. Raises `UserError` from `check` when the model cannot read trees through a slot cache.
    """

    def __init__(self, model: Any, max_len: int) -> None:
        self.model, self.max_len = model, max_len
        self.device = model.device
        self.forwards = self.positions = 0
        self.cache = SlotCache(_layers(model))
        self.submit: Callable[[Read], Outcome] = lambda read: self.run([read])[0]
        self._free: list[int] = [0]
        self._hidden: Tensor | None = None
        self._blocked = torch.finfo(model.dtype).min
        model.get_decoder().register_forward_hook(self._keep_hidden)

    def open_row(self) -> int:
        """Take a free row, growing the cache when there is none."""
        if not self._free:
            self._free = [self.cache.rows]
            self.cache.reserve(self.cache.rows + 1, self.cache.slots)
            self._free += range(self._free[0] + 1, self.cache.rows)
        return self._free.pop(0)

    def close_row(self, row: int) -> None:
        """Give a row back."""
        self._free = sorted({*self._free, row})

    @torch.inference_mode()
    def run(self, reads: Sequence[Read]) -> list[Outcome]:
        """One forward pass for all `reads` (different rows), padded at the left to the longest."""
        width = max(len(read.tokens) for read in reads)
        end = max(read.start + len(read.tokens) for read in reads)
        self.cache.reserve(1, end + 1)  # the last slot of a row takes what padding writes
        self._aim(reads, width, end)
        device = self.device
        tokens = torch.tensor([[0] * (width - len(r.tokens)) + list(r.tokens) for r in reads], device=device)
        places = torch.tensor([[0] * (width - len(r.positions)) + list(r.positions) for r in reads], device=device)
        wanted = max(read.wanted for read in reads)
        out = self.model(input_ids=tokens, attention_mask=self._mask(reads, width, end), position_ids=places,
                         past_key_values=self.cache, use_cache=True, logits_to_keep=wanted)
        assert self._hidden is not None
        self.forwards += 1
        self.positions += sum(len(read.tokens) for read in reads)
        logits, hidden = out.logits.float(), self._hidden
        return [Outcome(logits[i, wanted - r.wanted:], hidden[i, width - len(r.tokens):])
                for i, r in enumerate(reads)]

    def _aim(self, reads: Sequence[Read], width: int, end: int) -> None:
        """Tell the cache where the new tokens of each row go and what the forward looks at."""
        rows = [read.row for read in reads]
        if len(reads) == 1:
            self.cache.view = slice(rows[0], rows[0] + 1)
            self.cache.target = self.cache.view, slice(reads[0].start, end), end
            return
        spare = self.cache.slots - 1
        slots = [[spare] * (width - len(r.tokens)) + list(range(r.start, r.start + len(r.tokens))) for r in reads]
        index = torch.tensor(rows, device=self.device)
        whole = rows == list(range(rows[0], rows[0] + len(rows)))
        self.cache.view = slice(rows[0], rows[0] + len(rows)) if whole else index
        self.cache.target = index[:, None], torch.tensor(slots, device=self.device), end

    def _mask(self, reads: Sequence[Read], width: int, end: int) -> Tensor:
        """(B, 1, Q, end) additive: zero where a token may look, the lowest number elsewhere.

        Additive, because transformers adds a boolean mask to the scores under eager attention.
        """
        mask = torch.zeros(len(reads), 1, width, end, dtype=self.model.dtype, device=self.device)
        for i, read in enumerate(reads):
            last = read.start + len(read.tokens)
            mask[i, :, :, last:] = self._blocked
            if read.block.numel() > 1:
                hidden = ~read.block.to(self.device)
                mask[i, 0, width - len(read.tokens):, last - read.block.shape[1]:last].masked_fill_(
                    hidden, self._blocked)
        return mask

    def _keep_hidden(self, module: object, args: object, output: Any) -> None:
        self._hidden = output.last_hidden_state


def _layers(model: Any) -> int:
    """How many layers cache keys; raises `UserError` for a model whose cache is not one of keys and values."""
    config = model.config.get_text_config()
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder model; give a decoder-only one.")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if strange := kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"{name} keeps a recurrent state ({', '.join(sorted(strange))}), which cannot be rolled back; "
                        "give a model whose layers all use attention.")
    return int(config.num_hidden_layers)
