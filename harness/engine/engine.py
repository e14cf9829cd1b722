"""One model, its KV cache and its counters: every forward pass of a run goes through `Engine.run`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from harness.engine.cache import SlotCache
from harness.engine.canvas_settings import canvas_settings
from harness.engine.compute import Depth
from harness.engine.executor import Executor, SerialExecutor
from harness.engine.forced import Forced
from harness.engine.forward import ForwardOutput, ForwardRequest, ForwardRows, Row, SharedPrefix
from harness.engine.grouping import costs_of
from harness.engine.hooks import HIDDEN, Captured, ForwardHook, ModelParts, View, Watch, layer_count
from harness.engine.offers import CANVAS, DECODER, Capability
from harness.engine.rotary import Rotary
from harness.engine.windows import Masks, Windows
from harness.errors import Unsupported

if TYPE_CHECKING:
    from harness.models.translation import Translation

PREFILL = 512  # tokens of a prompt prefilled in one forward; the same on every device, because forwards are counted


def cache_argument(model: Any) -> str:
    """Return the name of the KV cache argument of a transformers model, which transformers 5.24 renamed."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


class Engine:
    """Runs the forward passes of many sequences on one model; sessions hold its rows.

    `forwards` counts forward passes, `positions` the tokens in them and `padding` the padded positions; none of them
    counts what the model drafts for itself; `encodings` and `encoded` are those of an encoder. `vocab` is the number of
    logits, `max_len` the maximum length of a sequence in tokens. `device` is that of the inputs and outputs, and
    `devices` those of the weights. `executor` runs requests one at a time or merges them. `offers` is what the model
    can do, `forced` are tokens that every answer must have, and `prefix` those before it if an encoder reads the
    prompt. A draft model with another vocabulary than the target has a `translation`. `canvas` says how the model fills
    masks, if it does. Raises `UserError` for a model whose state is more than a KV cache.
    """

    others: ClassVar[frozenset[str]] = frozenset()  # kinds of layers beside those with attention

    def __init__(self, model: Any, max_len: int) -> None:
        self.model, self.max_len = model, max_len
        self.device, self.dtype, self.costs = model.device, model.dtype, costs_of(model.device)
        self.devices = {weight.device for weight in model.parameters() if not weight.is_meta} or {model.device}
        self.clear_counts()
        self.windows, self.canvas = Windows(model, self.others), canvas_settings(model.config)
        self.vocab = int(model.config.get_text_config().vocab_size)
        self.cache = SlotCache(layer_count(model), self.device)
        self.cache_argument = cache_argument(model)
        self.executor: Executor = SerialExecutor()
        self.offers: frozenset[Capability] = CANVAS if self.canvas else DECODER
        self.forced, self.prefix = Forced(), tuple[int, ...]()
        self.prefixes = list[SharedPrefix]()
        self.translation: Translation | None = None
        self.blind = False  # whether it drafts for a model that reads images, and leaves these out
        self.learnt = dict[str, Any]()  # state of strategies that learn across prompts, by spec
        self.heads = dict[str, Any]()   # trained heads of the model, by the name of their strategy
        self._rows = list[Row]()
        self._hidden: Tensor | None = None
        self._columns = torch.arange(0, device=self.device)
        self._zero, self._blocked = torch.tensor([0.0, torch.finfo(model.dtype).min], dtype=model.dtype,
                                                 device=self.device).unbind(0)
        self._edge = self._zero  # (1, 1, 1, 2n): n open slots, then n blocked ones
        self._forward: Callable[..., tuple[Tensor, Tensor]] = self._plain
        model.get_decoder().register_forward_hook(self._keep_hidden)

    def clear_counts(self) -> None:
        """Set all counts to zero."""
        self.forwards = self.positions = self.padding = self.encodings = self.encoded = 0

    def compile(self) -> None:
        """Run forwards through `torch.compile` from now on; the first forward of each kind takes long.

        One graph serves all shapes, except that one sequence and one token have graphs of their own. At least one
        forward must have been run before.
        """
        torch._dynamo.config.recompile_limit = 64
        torch._inductor.config.freezing = True  # weights are packed for the processor once
        self.cache.mark_dynamic()
        self._forward = torch.compile(self._plain, dynamic=True)

    @cached_property
    def parts(self) -> ModelParts:
        """The model's layers, embedding, norm and output layer."""
        return ModelParts(self.model)

    @cached_property
    def rotary(self) -> Rotary:
        """The rotation of the model's queries and keys; raises `Unsupported` if it has none."""
        self.on_one_device()
        return Rotary(self.parts, self.cache_argument)

    def on_one_device(self) -> None:
        """Raise `Unsupported` if the layers of the model are on several devices."""
        if len(self.devices) > 1:
            raise Unsupported("needs the whole model on one device: leave --device-map out")

    @property
    def depth(self) -> Depth:
        """The model's layers, by what they attend to."""
        return Depth.of(len(self.cache.layers), self.windows)

    def remembered(self, kinds: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the hidden states that heads of these kinds read, and that of the last ones."""
        reads = [name for kind in kinds if kind in self.heads for name in self.heads[kind].network.reads]
        return tuple(dict.fromkeys([HIDDEN, *reads]))

    @property
    def open_rows(self) -> int:
        """The number of rows in use."""
        return len(self._rows)

    @property
    def merging(self) -> bool:
        """Whether forwards of several sequences are merged; all must then be requested in one thread."""
        return self.executor.merges

    def open_row(self) -> Row:
        """Allocate a row; raises `CacheFull` when there is no room for one more."""
        self.cache.reserve(len(self._rows) + 1, max([1, *[row.end for row in self._rows]]))
        self._rows.append(Row(len(self._rows)))
        return self._rows[-1]

    def close_row(self, row: Row) -> None:
        """Release a row; the last row is moved into its place, so that the rows in use stay contiguous."""
        last = self._rows.pop()
        if last is not row:
            self.cache.copy(last.index, row.index, last.end)
            self._rows[row.index], last.index = last, row.index

    def copy_prefix(self, prefix: SharedPrefix, row: Row, count: int) -> None:
        """Copy the keys and values of the first `count` tokens of a prefix into `row`."""
        self.cache.copy(prefix.row.index, row.index, count)
        row.end = count

    def fill_row(self, row: Row, contents: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write the keys and values (heads, T, dim) of each layer to the first T slots of `row`.

        Raises `CacheFull` when there is no room for them.
        """
        count = contents[0][0].shape[1]
        self.cache.reserve(len(self._rows), max([count, *[other.end for other in self._rows]]))
        self.cache.fill(row.index, contents)
        row.end = count

    def unpin(self) -> None:
        """Release the rows of all shared prefixes."""
        while self.prefixes:
            self.close_row(self.prefixes.pop().row)

    def run(self, requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        """Run one forward pass for all `requests`, whose hooks are equal, over the rows from the first to the last.

        Shorter requests are padded on the right, and rows in between without a request get padding alone; padding is
        written behind a row's own tokens. Raises `CacheFull` when there is no room for the new tokens.
        """
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.run(requests)
        indices = [request.row.index for request in requests]
        counts, first = [len(request.tokens) for request in requests], min(indices)
        rows = self._rows[first:max(indices) + 1]
        width, total, stride = max(counts), sum(counts), self.costs.stride
        for request in requests:
            request.row.end = request.start
        end = -(-(max([row.end for row in rows]) + width) // stride) * stride
        if end > self.cache.slots:
            self.cache.reserve(len(self._rows), max(end, *[row.end for row in self._rows]))
        self.cache.apply_moves()
        tokens, positions, slots = self._inputs(requests, rows, width)
        self.cache.prepare(first, first + len(rows), end, slots)
        kept = width - min([len(request.tokens) - request.logits_to_keep for request in requests])
        hook = requests[0].hook
        plain = hook is None and (width > 1 or all(request.mask is None for request in requests))
        forward: Callable[..., Any] = self._forward if plain else partial(self._hooked, hook)
        if hook is not None:
            self.parts.view = View(rows, slots, positions, 1 + max(max(request.positions) for request in requests),
                                   lambda: self.rotary, self.depth)
        masks = self.windows.masks(self._mask(requests, first, slots, end))
        output = ForwardOutput(*forward(tokens, positions, masks, kept))
        if not requests[0].draft:
            self.forwards += 1
            self.positions += total
            self.padding += len(rows) * width - total
        for request, count in zip(requests, counts, strict=True):
            request.row.end = request.start + count
            output.ends[request.row.index - first] = count - 1
        return [ForwardRows(output, request.row.index - first, 0, count)
                for request, count in zip(requests, counts, strict=True)]

    def _hooked(self, hook: ForwardHook | None, *inputs: Any) -> tuple[Tensor, Tensor, Captured | None]:
        """Run a forward uncompiled, because compiled forwards have no hooks and no masks for single tokens.

        Over several devices, the only hook is `Watch`, and what it records is copied to the device of the outputs.
        """
        if hook and not isinstance(hook, Watch):
            self.on_one_device()
        with hook.applied_to(self.parts) if hook else nullcontext() as captured:
            logits, hidden = self._plain(*inputs)
        if captured and len(self.devices) > 1:
            captured = {name: states.to(self.device) for name, states in captured.items()}
        return logits, hidden, captured

    def _plain(self, tokens: Tensor, positions: Tensor, masks: Masks, kept: int) -> tuple[Tensor, Tensor]:
        out = self.model(input_ids=tokens, attention_mask=masks, position_ids=positions, use_cache=True,
                         logits_to_keep=kept, **{self.cache_argument: self.cache})
        assert self._hidden is not None
        return out.logits, self._hidden

    def _inputs(self, requests: Sequence[ForwardRequest], rows: Sequence[Row], width: int) -> tuple[Tensor, ...]:
        """Return token ids, positions and slots, (B, Q) each, in one transfer to the device."""
        slots = [list(range(row.end, row.end + width)) for row in rows]
        if len(rows) == 1:
            return torch.tensor([[requests[0].tokens], [requests[0].positions], slots], device=self.device).unbind(0)
        tokens, positions = [[0] * width for _ in rows], [[0] * width for _ in rows]
        for request in requests:
            line, count = request.row.index - rows[0].index, len(request.tokens)
            tokens[line][:count], positions[line][:count] = request.tokens, request.positions
        return torch.tensor([tokens, positions, slots], device=self.device).unbind(0)

    def _mask(self, requests: Sequence[ForwardRequest], first: int, slots: Tensor, end: int) -> Tensor:
        """Return the additive mask (B, 1, Q, end): zero where a token attends to a slot, the lowest number elsewhere.

        Additive, because transformers adds a boolean mask to the scores under eager attention.
        """
        if len(self._columns) < 2 * end:
            self._columns = torch.arange(4 * end, device=self.device)
            self._edge = torch.where(self._columns < 2 * end, self._zero, self._blocked).view(1, 1, 1, -1)
        if slots.numel() == 1 and requests[0].mask is None:
            offset = self._edge.shape[-1] // 2 - requests[0].start - 1
            # copied, because CUDA kernels refuse a mask that starts at any offset or has the strides of a longer one
            return self._edge[..., offset:offset + end].clone(memory_format=torch.contiguous_format)
        mask = torch.where(self._columns[:end] <= slots[:, None, :, None], self._zero, self._blocked)
        for request in requests:
            if request.mask is not None:
                size, last = request.mask.shape, request.start + len(request.tokens)
                mask[request.row.index - first, 0, :size[0], last - size[1]:last] = request.mask
        return mask

    def _keep_hidden(self, module: object, args: object, output: Any) -> None:
        self._hidden = output.last_hidden_state
