"""The data of one forward pass: the request of each sequence, the output of the batch, and each sequence's part."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from harness.engine.hooks import Captured, ForwardHook, ModelParts


class Encoded(Protocol):
    """Counts forwards of an encoder and the tokens in them."""

    encodings: int
    encoded: int


class Source(NamedTuple):
    """The text that an encoder reads for some sequences, as token ids, and where its cost is counted."""

    tokens: Sequence[int]
    work: Encoded


class Row:
    """The row of the KV cache that one sequence holds.

    `index` changes when other rows are closed; `end` is the first slot that has never been written. `state` is what the
    cache policy of the sequence knows of it, None while the prompt is read as without a policy. `source` is what an
    encoder reads for it, and `placed` the source whose keys and values are in the cross-attention cache.
    """

    __slots__ = ("end", "index", "placed", "source", "state")

    def __init__(self, index: int) -> None:
        self.index, self.end = index, 0
        self.state: Any = None
        self.source: Source | None = None
        self.placed: Source | None = None


class SharedPrefix(NamedTuple):
    """A prefix that many sequences share: its token ids, its row, and its hidden states (T, D) by name."""

    tokens: Sequence[int]
    row: Row
    states: Mapping[str, Tensor]


class ForwardRequest(NamedTuple):
    """New tokens of one sequence, to be written to its cache slots from `start` on.

    Each token attends to every slot up to its own, unless the additive `mask` (Q, Q') is given for the last Q'
    slots. Logits are computed for the last `logits_to_keep` tokens. `hook` changes or records the forward;
    `draft` marks tokens that the model drafts for itself, which the engine does not count. The last `candidates` of the
    tokens are not committed.
    """

    row: Row
    start: int
    tokens: Sequence[int]
    positions: Sequence[int]
    mask: Tensor | None
    logits_to_keep: int
    hook: ForwardHook | None = None
    draft: bool = False
    candidates: int = 0


class ForwardOutput:
    """The output of one forward pass over B sequences of W tokens.

    `logits` (B, W', V) are those of the last W' tokens, `hidden` is (B, W, D) after the final norm, and `captured`
    holds the recordings of the hook. `ends` are the indices of the sequences' last tokens, which padding may follow.
    """

    def __init__(self, logits: Tensor, hidden: Tensor, captured: Captured | None = None) -> None:
        self.logits, self.hidden, self.captured, self.ends = logits, hidden, captured or {}, [0] * len(logits)
        self._best: list[list[int]] | None = None
        self._exits = dict[tuple[Sequence[str], bool], Tensor]()

    @property
    def best(self) -> list[list[int]]:
        """The most likely next token at every position, in one transfer from the device for the batch."""
        if self._best is None:
            self._best = self.logits.argmax(-1).tolist()
        return self._best

    def recorded(self, name: str) -> Tensor:
        """Return the tensor (B, W, …) that the hook recorded under `name`; raises `KeyError` if there is none."""
        batch = self.captured[name]
        if batch.dim() == 2:  # some MLPs get the tokens of all sequences in one dimension
            batch = batch.view(*self.hidden.shape[:2], -1)
        return batch

    def exits(self, names: Sequence[str], parts: ModelParts, norm: bool) -> Tensor:
        """Return the logits (B, J, V) of J recorded hidden states after each last token, in one product for the batch.

        The states go through the final norm if `norm`.
        """
        key = tuple(names), norm
        if key not in self._exits:
            with torch.inference_mode():
                states = torch.stack([self.recorded(name)[range(len(self.ends)), self.ends] for name in names], 1)
                self._exits[key] = parts.head(parts.norm(states) if norm else states)
        return self._exits[key]


class ForwardRows:
    """The part of a forward's output that belongs to N consecutive tokens of one sequence, cut out on access."""

    __slots__ = ("_first", "_last", "_output", "_row")

    def __init__(self, output: ForwardOutput, row: int, first: int, last: int) -> None:
        self._output, self._row, self._first, self._last = output, row, first, last

    def part(self, first: int, last: int) -> "ForwardRows":
        """Return tokens `first` … `last` − 1 of these rows."""
        return ForwardRows(self._output, self._row, self._first + first, self._first + last)

    @property
    def logits(self) -> Tensor:
        """The logits (N, V) in float32, only for tokens whose logits were kept."""
        return self._output.logits[self._row, self._kept()].float()

    @property
    def best(self) -> list[int]:
        """The most likely next token after each token, only for tokens whose logits were kept."""
        return self._output.best[self._row][self._kept()]

    @property
    def hidden(self) -> Tensor:
        """The hidden states (N, D) of the last layer after the final norm."""
        return self._output.hidden[self._row, self._first:self._last]

    def captured(self, name: str) -> Tensor:
        """Return the tensor (N, …) that the hook recorded under `name`; raises `KeyError` if there is none."""
        return self._output.recorded(name)[self._row, self._first:self._last]

    def recorded(self, name: str) -> Tensor | None:
        """Return the tensor (N, …) that the hook recorded under `name`, None if there is none."""
        return self.captured(name) if name in self._output.captured else None

    def exits(self, names: Sequence[str], parts: ModelParts, norm: bool) -> Tensor:
        """Return the logits (J, V) in float32 of J recorded hidden states after the sequence's last token."""
        return self._output.exits(names, parts, norm)[self._row].float()

    def _kept(self) -> slice:
        without_logits = self._output.hidden.shape[1] - self._output.logits.shape[1]
        return slice(max(0, self._first - without_logits), max(0, self._last - without_logits))
