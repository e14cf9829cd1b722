"""One model, its cache and its counters: every forward pass of a run goes through `Engine.run`."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.engine.cache import SlotCache
from harness.engine.hooks import ForwardHook, Parts, Seen
from harness.errors import UserError

PREFILL = 512  # tokens of a long prompt that are read at a time
STRIDE = 32    # a forward looks at whole strides of slots, so that its view of the cache rarely changes


class Row:
    """One text's place in the cache; `index` moves when rows are closed, `end` is the first slot never written."""

    __slots__ = ("end", "index")

    def __init__(self, index: int) -> None:
        self.index, self.end = index, 0


class Read(NamedTuple):
    """New tokens of one row: they go to the slots from `start` on.

    Each looks at every slot up to its own, unless `block` (Q, Q'), additive, says what they see of the last Q' slots.
    `wanted` counts the last tokens whose logits are asked for. `hook` says what is different about the forward, and
    `draft` that its tokens are only proposals.
    """

    row: Row
    start: int
    tokens: Sequence[int]
    positions: Sequence[int]
    block: Tensor | None
    wanted: int
    hook: ForwardHook | None = None
    draft: bool = False


class Forward:
    """What one forward pass said: `logits` (B, W', V) of its last W' places, `hidden` (B, W, D), what was `seen`."""

    def __init__(self, logits: Tensor, hidden: Tensor, seen: Seen | None = None) -> None:
        self.logits, self.hidden, self.seen = logits, hidden, seen or {}
        self._best: list[list[int]] | None = None

    @property
    def best(self) -> list[list[int]]:
        """The likeliest token at each place: one wait for the device, whatever the number of texts."""
        if self._best is None:
            self._best = self.logits.argmax(-1).tolist()
        return self._best


class Outcome:
    """What the model said after some tokens of one read; nothing is cut out before it is looked at."""

    __slots__ = ("_first", "_forward", "_last", "_row")

    def __init__(self, forward: Forward, row: int, first: int, last: int) -> None:
        self._forward, self._row, self._first, self._last = forward, row, first, last

    def part(self, first: int, last: int) -> "Outcome":
        """Tokens `first` … `last` − 1 of these."""
        return Outcome(self._forward, self._row, self._first + first, self._first + last)

    @property
    def logits(self) -> Tensor:
        """(N, V) in float32; only of the tokens that were wanted."""
        return self._forward.logits[self._row, self._kept()].float()

    @property
    def best(self) -> list[int]:
        """The likeliest token after each; only of the tokens that were wanted."""
        return self._forward.best[self._row][self._kept()]

    @property
    def hidden(self) -> Tensor:
        """(N, D), the last layer after its norm."""
        return self._forward.hidden[self._row, self._first:self._last]

    def seen(self, name: str) -> Tensor:
        """(N, …) of what the hook of this forward took down as `name`."""
        whole = self._forward.seen[name]
        if whole.dim() == 2:  # some MLPs are given the places of all texts in one row
            whole = whole.view(*self._forward.hidden.shape[:2], -1)
        return whole[self._row, self._first:self._last]

    def _kept(self) -> slice:
        left_out = self._forward.hidden.shape[1] - self._forward.logits.shape[1]
        return slice(self._first - left_out, self._last - left_out)


class Prefix(NamedTuple):
    """The start that many texts have in common: `tokens`, the row that holds them, and `hidden` (T, D) of each."""

    tokens: Sequence[int]
    row: Row
    hidden: Tensor


def cache_argument(model: Any) -> str:
    """Name of the argument that gives a transformers model its KV cache; transformers 5.24 renamed it."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


class Engine:
    """Runs the reads of many texts on one model; sessions hold its rows.

    `forwards` counts forward passes, `positions` tokens read, `padding` places that were computed for nothing, all
    three without drafts that the model reads for itself.
    `max_len` is the longest text in tokens. Raises `UserError` when the model's cache is not one of keys and values.
    """

    def __init__(self, model: Any, max_len: int) -> None:
        self.model, self.max_len = model, max_len
        self.device, self.kind = model.device, (model.dtype, model.device)
        self.forwards = self.positions = self.padding = 0
        self.cache = SlotCache(_layers(model), self.device)
        self.cache_argument = cache_argument(model)
        self.submit: Callable[[Read], Outcome] = self._alone
        self.several: Callable[[Sequence[Callable[[], Any]]], Any] | None = None  # runs jobs where reads are merged
        self.prefixes = list[Prefix]()
        self.learnt = dict[str, Any]()  # what strategies that learn across prompts keep, by their spec
        self._rows = list[Row]()
        self._hidden: Tensor | None = None
        self._columns = torch.arange(0, device=self.device)
        self._zero, self._blocked = torch.tensor([0.0, torch.finfo(model.dtype).min], dtype=model.dtype,
                                                 device=self.device).unbind(0)
        self._edge = self._zero  # (1, 1, 1, 2n): open places, then blocked ones
        self._forward: Callable[..., tuple[Tensor, Tensor]] = self._plain
        model.get_decoder().register_forward_hook(self._keep_hidden)

    def compile(self) -> None:
        """Run forwards through `torch.compile` from now on; the first of each kind then takes long.

        One graph serves all lengths, apart from those for one text and for one token. The cache must have been used.
        """
        torch._dynamo.config.recompile_limit = 64
        torch._inductor.config.freezing = True  # weights are packed for the processor once
        self.cache.mark_dynamic()
        self._forward = torch.compile(self._plain, dynamic=True)

    @cached_property
    def parts(self) -> Parts:
        """The model's layers, embedding, norm and output layer."""
        return Parts(self.model)

    @property
    def open_rows(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def merging(self) -> bool:
        """Whether reads of texts side by side are merged, which only the thread that these run in may ask for."""
        return self.submit != self._alone

    def open_row(self) -> Row:
        """Take a row; raises `CacheFull` when there is no room for one more."""
        self.cache.reserve(len(self._rows) + 1, max([1, *[row.end for row in self._rows]]))
        self._rows.append(Row(len(self._rows)))
        return self._rows[-1]

    def close_row(self, row: Row) -> None:
        """Give a row back; the last row takes its place, so that the rows in use stay side by side."""
        last = self._rows.pop()
        if last is not row:
            self.cache.copy(last.index, row.index, last.end)
            self._rows[row.index], last.index = last, row.index

    def borrow(self, prefix: Prefix, row: Row, count: int) -> None:
        """Copy the first `count` tokens of a prefix into `row`."""
        self.cache.copy(prefix.row.index, row.index, count)
        row.end = count

    def unpin(self) -> None:
        """Give the rows of all prefixes back."""
        while self.prefixes:
            self.close_row(self.prefixes.pop().row)

    def run(self, reads: Sequence[Read]) -> list[Outcome]:
        """One forward pass for all `reads`, whose plans are equal, over the rows from the first to the last of them.

        Shorter reads are padded at the right, and rows in between that do not read get padding alone; what padding
        writes lies behind a row's own tokens. Raises `CacheFull` when there is no room for the new tokens.
        """
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.run(reads)
        widths, first = [len(read.tokens) for read in reads], min([read.row.index for read in reads])
        rows = self._rows[first:max([read.row.index for read in reads]) + 1]
        width, asked = max(widths), sum(widths)
        for read in reads:
            read.row.end = read.start
        end = -(-(max([row.end for row in rows]) + width) // STRIDE) * STRIDE
        if end > self.cache.slots:
            self.cache.reserve(len(self._rows), max(end, *[row.end for row in self._rows]))
        self.cache.settle()
        tokens, positions, places = self._inputs(reads, rows, width)
        self.cache.aim(first, first + len(rows), end, places)
        kept = width - min([len(read.tokens) - read.wanted for read in reads])
        bent = reads[0].hook is not None or (width == 1 and any(read.block is not None for read in reads))
        forward: Callable[..., Any] = partial(self._planned, reads[0].hook) if bent else self._forward
        said = Forward(*forward(tokens, positions, self._mask(reads, first, places, end), kept))
        if not reads[0].draft:
            self.forwards += 1
            self.positions += asked
            self.padding += len(rows) * width - asked
        for read, count in zip(reads, widths, strict=True):
            read.row.end = read.start + count
        return [Outcome(said, read.row.index - first, 0, count) for read, count in zip(reads, widths, strict=True)]

    def _alone(self, read: Read) -> Outcome:
        return self.run([read])[0]

    def _planned(self, hook: ForwardHook | None, *inputs: Any) -> tuple[Tensor, Tensor, Seen | None]:
        """Never compiled: a compiled forward is that of the whole model, and its single tokens see all before them."""
        with hook.around(self.parts) if hook else nullcontext() as seen:
            return *self._plain(*inputs), seen

    def _plain(self, tokens: Tensor, positions: Tensor, mask: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        out = self.model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True,
                         logits_to_keep=kept, **{self.cache_argument: self.cache})
        assert self._hidden is not None
        return out.logits, self._hidden

    def _inputs(self, reads: Sequence[Read], rows: Sequence[Row], width: int) -> tuple[Tensor, ...]:
        """Token ids, positions and slots, (B, Q) each, in one transfer to the device."""
        places = [list(range(row.end, row.end + width)) for row in rows]
        if len(rows) == 1:
            return torch.tensor([[reads[0].tokens], [reads[0].positions], places], device=self.device).unbind(0)
        tokens, positions = [[0] * width for _ in rows], [[0] * width for _ in rows]
        for read in reads:
            line, count = read.row.index - rows[0].index, len(read.tokens)
            tokens[line][:count], positions[line][:count] = read.tokens, read.positions
        return torch.tensor([tokens, positions, places], device=self.device).unbind(0)

    def _mask(self, reads: Sequence[Read], first: int, places: Tensor, end: int) -> Tensor:
        """(B, 1, Q, end) additive: zero where a token may look, the lowest number elsewhere.

        Additive, because transformers adds a boolean mask to the scores under eager attention.
        """
        if len(self._columns) < 2 * end:
            self._columns = torch.arange(4 * end, device=self.device)
            self._edge = torch.where(self._columns < 2 * end, self._zero, self._blocked).view(1, 1, 1, -1)
        if places.numel() == 1 and reads[0].block is None:
            left = self._edge.shape[-1] // 2 - reads[0].start - 1
            mask = self._edge[..., left:left + end]
            return mask.clone(memory_format=torch.contiguous_format) if self.cache.dynamic else mask
        mask = torch.where(self._columns[:end] <= places[:, None, :, None], self._zero, self._blocked)
        for read in reads:
            if read.block is not None:
                size, last = read.block.shape, read.start + len(read.tokens)
                mask[read.row.index - first, 0, :size[0], last - size[1]:last] = read.block
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
