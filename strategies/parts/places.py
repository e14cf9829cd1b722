"""Prompts with sets of segments that all begin at the same place and do not see each other, and the hook for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.engine.hooks import ModelParts, replaced
from harness.errors import UserError
from harness.plugins.prompt_parts import Span

START, SPLIT, END = "<|start_2d|>", "<|split_2d|>", "<|end_2d|>"
Pieces = list[str | list[str]]


@dataclass
class Layout:
    """Token ids with the place of each, and the segment that it is in: 0 outside of sets, else a number of its own."""

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    sets: list[range] = field(default_factory=list)  # the indices of each set

    @property
    def next(self) -> int:
        """The place of the next token outside of sets: behind the longest member of a set."""
        return max(self.places, default=-1) + 1

    def add(self, tokens: Sequence[int]) -> None:
        """Add tokens outside of sets, which see everything before them."""
        self.places += range(self.next, self.next + len(tokens))
        self.tokens += tokens
        self.segments += [0] * len(tokens)

    def add_set(self, members: Sequence[Sequence[int]]) -> None:
        """Add a set, whose members see what is before it and themselves.

        They are sorted by their tokens: the order of keys would still change sums of attention in the last digits.
        """
        start, first, number = self.next, len(self.tokens), max(self.segments, default=0)
        for index, member in enumerate(sorted(map(list, members)), number + 1):
            self.tokens += member
            self.places += range(start, start + len(member))
            self.segments += [index] * len(member)
        self.sets.append(range(first, len(self.tokens)))

    def hidden(self) -> Tensor:
        """Return (E, E) which tokens do not see which, up to the end of the last set."""
        size = self.sets[-1].stop if self.sets else 0
        segments, found = torch.tensor(self.segments[:size]), torch.zeros(size, size, dtype=torch.bool)
        for one in self.sets:
            own = segments[one.start:one.stop]
            found[one.start:one.stop, one.start:one.stop] = own[:, None] != own
        return found


@dataclass(frozen=True)
class Placed:
    """A hook that gives the tokens of a sequence the places of a layout; hooks with equal keys have the same one.

    Tokens behind the layout have the places behind its last one.
    """

    key: tuple[int, ...]
    places: Tensor = field(compare=False)  # (E,) of the tokens up to the end of the last set
    hidden: Tensor = field(compare=False)  # (E, E)
    shift: int = field(compare=False)      # of the places behind them

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Placed":
        """Return the hook of a layout."""
        hidden = layout.hidden()
        size = len(hidden)
        return cls((*layout.places[:size], -1, *layout.segments[:size]),
                   torch.tensor(layout.places[:size]).to(device), hidden.to(device),
                   size - max(layout.places[:size], default=-1) - 1)

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Change positions and masks in one forward pass."""
        with replaced({parts.model: partial(self._run, parts.model.forward)}):
            yield

    def _run(self, forward: Callable[..., Any], position_ids: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
        size = len(self.places)
        inside, index = position_ids < size, position_ids.clamp(max=size - 1)                       # (B, Q)
        hidden = self.hidden[index] & inside[..., None]                                             # (B, Q, E)
        places = self.places[index].where(inside, position_ids - self.shift)
        masks = {kind: self._masked(mask, hidden) for kind, mask in attention_mask.items()} \
            if isinstance(attention_mask, dict) else self._masked(attention_mask, hidden)
        return forward(position_ids=places, attention_mask=masks, **kwargs)

    def _masked(self, mask: Tensor, hidden: Tensor) -> Tensor:
        """Return an additive mask (B, 1, Q, S) in which tokens do not see those hidden from them."""
        size = min(mask.shape[-1], hidden.shape[-1])
        part = mask[..., :size].masked_fill(hidden[:, None, :, :size], torch.finfo(mask.dtype).min)
        return torch.cat([part, mask[..., size:]], -1)


def pieces(prompt: str) -> Pieces:
    """Split a prompt into texts and sets of texts; raises `UserError` where the marks of a set do not match."""
    found: Pieces = []
    text, *sets = prompt.split(START)
    found.append(text)
    for part in sets:
        inside, end, after = part.partition(END)
        if not end:
            raise UserError(f"A set begins with {START} but has no {END} in the prompt.")
        found += [[member for member in inside.split(SPLIT) if member], after]
    if any(mark in piece for piece in found if isinstance(piece, str) for mark in (SPLIT, END)):
        raise UserError(f"The prompt has {SPLIT} or {END} outside of a set; a set begins with {START}.")
    return found


def around(prompt: str, members: Sequence[Span]) -> Pieces:
    """Split a prompt into the set of `members`, which are next to each other, and the texts before and after it."""
    return [prompt[:members[0].start], [member.of(prompt) for member in members], prompt[members[-1].end:]]
