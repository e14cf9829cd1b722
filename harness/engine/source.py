"""Encoder-decoder models: each sequence has a source, which is encoded once and read by cross-attention."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

from harness.engine.attention_hooks import source_attention
from harness.engine.engine import Engine
from harness.engine.forced import Forced
from harness.engine.forward import ForwardRequest, ForwardRows, Row, Source
from harness.engine.offers import Capability
from harness.engine.positions import Positions
from harness.engine.tree import additive
from harness.engine.windows import Masks
from harness.errors import Unsupported, UserError

STATES = ("key_value_states", "encoder_hidden_states")     # and of the argument that has the encoder's states
OFFERS: frozenset[Capability] = frozenset({"tree", "rollback", "source", "causal"})
CANVAS_OFFERS: frozenset[Capability] = frozenset({"canvas", "source"})


class CrossLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """The keys and values of the sources in one layer, `stored` (rows, heads, S, dim) each, and views of some rows."""

    is_sliding = False

    def __init__(self, owner: "CrossCache") -> None:
        super().__init__()
        self.owner = owner
        self.stored: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate rows when the shapes are known."""
        self.grow(key_states, value_states)

    def grow(self, keys: Tensor, values: Tensor) -> None:
        """Make room for `owner.shape`, rows and tokens, of the shapes of `keys` and `values` (B, heads, S, dim)."""
        rows, tokens = self.owner.shape
        larger = [like.new_zeros(rows, like.shape[1], tokens, like.shape[3]) for like in (keys, values)]
        for old, new in zip(self.stored or (), larger, strict=bool(self.stored)):
            new[:old.shape[0], :, :old.shape[2]] = old
        self.stored, self.is_initialized = (larger[0], larger[1]), True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
               ) -> tuple[Tensor, Tensor]:
        """Write the keys and values (B, heads, S, dim) of encoded sources to the rows `owner.written`."""
        if self.stored is None:
            self.lazy_initialization(key_states, value_states)
        assert self.stored is not None
        for held, new in zip(self.stored, (key_states, value_states), strict=True):
            held[self.owner.written, :, :new.shape[2]] = new
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return the number of tokens in view."""
        return 0 if self.keys is None else int(self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of tokens in view, and their offset."""
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        """Return the number of tokens that a row has room for."""
        return self.owner.shape[1]


class CrossCache(Cache):  # type: ignore[misc]
    """The keys and values of the sources of all rows; a forward reads those of consecutive rows."""

    def __init__(self, layers: int) -> None:
        self.shape, self.written = (0, 0), list[int]()
        super().__init__(layers=[CrossLayer(self) for _ in range(layers)])

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for so many rows and tokens of a source, with headroom, when something is written next."""
        if rows > self.shape[0] or tokens > self.shape[1]:
            self.shape = max(self.shape[0], rows + rows // 4), max(self.shape[1], -(-tokens // 32) * 32)
            for layer in self.layers:
                if layer.stored:
                    layer.grow(*layer.stored)

    def view(self, first: int, last: int, tokens: int) -> None:
        """Let the next forward read the first `tokens` of rows `first` … `last` − 1."""
        for layer in self.layers:
            layer.keys, layer.values = (held[first:last, :, :tokens] for held in layer.stored)

    @torch.inference_mode()
    def copy(self, source: int, target: int) -> None:
        """Copy row `source` to row `target`."""
        for layer in self.layers:
            for held in layer.stored or ():
                if max(source, target) < len(held):
                    held[target] = held[source]


class SourceEngine(Engine):
    """The engine of an encoder-decoder model, whose rows have sources.

    The first forward of a row encodes its source, together with those of other rows that wait; padding is not counted.
    `prefix` are the tokens with which every decoder sequence begins. Raises `Unsupported` for a model whose
    positions or cross-attention are unknown, and `UserError` for a forward of a row without source.
    """

    def __init__(self, model: Any, max_len: int, prefix: tuple[int, ...], forced: Forced) -> None:
        super().__init__(model, max_len)
        self.vocab = int(model.get_output_embeddings().weight.shape[0])
        self.prefix, self.forced, decoder = prefix, forced, model.get_decoder()
        self.known = Positions(decoder)
        self.crossing = source_attention(model)
        layers = len(self.cache.layers)
        if len(self.crossing) != layers:
            raise Unsupported("cannot tell which parts of its decoder attend to the source")
        self.cache = self.known.cache(layers, self.device)
        self.cross = CrossCache(layers)
        self.both = EncoderDecoderCache(self.cache, self.cross)
        self._lengths = list[int]()
        self.offers = CANVAS_OFFERS if self.canvas else OFFERS | ({"attention"} if self._has_parts() else set())

    def _has_parts(self) -> bool:
        try:
            return bool(self.parts.layers)
        except Unsupported:
            return False

    def compile(self) -> None:
        """Raise `Unsupported`, because positions are given to each forward by hooks."""
        raise Unsupported("an encoder-decoder model cannot be compiled")

    def close_row(self, row: Row) -> None:
        """Release a row; the last row and its source are moved into its place."""
        if (last := self._rows[-1]) is not row:
            self.cross.copy(last.index, row.index)
        super().close_row(row)

    def run(self, requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        """Encode the sources of rows that are new, then run one forward of the decoder as for any model."""
        with torch.inference_mode():
            self.cross.reserve(len(self._rows), 1)
            self._place([request.row for request in requests])
            first = min(request.row.index for request in requests)
            rows = self._rows[first:max(request.row.index for request in requests) + 1]
            self._lengths = [len(row.source.tokens) if row.placed and row.source else 1 for row in rows]
            self.cross.view(first, first + len(rows), max(self._lengths))
            return super().run(requests)

    def _place(self, rows: Sequence[Row]) -> None:
        """Have the source of each row in its row of the cross-attention cache: copied from another row, or encoded."""
        if any(row.source is None for row in rows):
            raise UserError(f"{type(self.model).__name__} is an encoder-decoder model, and here nothing is for its "
                            "encoder to read; give a decoder-only one.")
        new = [row for row in rows if row.placed is not row.source]
        if not new:
            return
        at = {id(row.placed): row.index for row in self._rows if row.placed}
        waiting = {row.index: row.source for row in new if row.source and id(row.source) not in at}
        if encoded := {id(source): row for row, source in waiting.items()}:
            self._encode({row: source for row, source in waiting.items() if row in encoded.values()})
        at |= encoded
        for row in self._rows:  # also those of the same source that are read later, when the others may be closed
            if row.placed is not row.source and (source := at.get(id(row.source))) is not None:
                if source != row.index:
                    self.cross.copy(source, row.index)
                row.placed = row.source

    def _encode(self, sources: Mapping[int, Source]) -> None:
        """Encode the sources of rows, given by their indices, in one forward, and write their keys and values."""
        lengths = [len(source.tokens) for source in sources.values()]
        width, pad = max(lengths), int(getattr(self.model.config, "pad_token_id", None) or 0)
        ids = torch.tensor([[*source.tokens, *[pad] * (width - len(source.tokens))] for source in sources.values()],
                           device=self.device)
        mask = None if min(lengths) == width else self._read(lengths).long()
        states = self.model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
        self.cross.reserve(len(self._rows), width)
        self.cross.written = list(sources)
        cache = EncoderDecoderCache(self.cache, self.cross)
        cache.is_updated = dict.fromkeys(range(len(self.crossing)), False)
        for module in self.crossing:  # a query of any content makes it compute the keys and values
            name = next(name for name in STATES if name in signature(module.forward).parameters)
            module(states[:, :1], **{name: states, self.cache_argument: cache})
        self.encodings += 1
        self.encoded += sum(lengths)
        for source in sources.values():
            source.work.encodings += 1
            source.work.encoded += len(source.tokens)

    def _read(self, lengths: Sequence[int]) -> Tensor:
        """Return which of the tokens of padded sources of these lengths are read: (B, S), true before their ends."""
        return (torch.arange(max(lengths), device=self.device)
                < torch.tensor(lengths, device=self.device)[:, None])

    def _plain(self, tokens: Tensor, positions: Tensor, masks: Masks, kept: int) -> tuple[Tensor, Tensor]:
        read = self._read(self._lengths)
        self.both.is_updated = dict.fromkeys(range(len(self.crossing)), True)
        with self.known.given(positions, self.cache):
            out = self.model(
                decoder_input_ids=tokens, decoder_attention_mask=masks, use_cache=True,
                attention_mask=additive(read, self.dtype, self.device)[:, None, None],
                encoder_outputs=(tokens.new_zeros(*read.shape, 1, dtype=self.dtype),),
                **{self.cache_argument: self.both})
        assert self._hidden is not None
        return out.logits[:, -kept:], self._hidden
