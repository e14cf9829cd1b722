"""A sequence with masks that a diffusion language model fills in any order."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from harness.engine.cached_sequence import shared_start
from harness.engine.forward import ForwardRequest
from harness.engine.logit_warps import identity
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import additive
from harness.errors import Unsupported, UserError


class Canvas:
    """A prompt and the masks behind it, of which only those in the `window` can be filled at present.

    `extend` adds masks, `advance` moves the window to the next block of them, `look` runs a forward and returns what
    the model predicts for every place of the window, `write` fills places, `reopen` undoes that, and `cut` drops all
    behind one. `take` returns the new tokens of the prefix without masks, and `restart` begins with another prompt.

    The cache mode says which keys and values a forward takes from earlier ones (Fast-dLLM, arXiv 2505.22618, §3). With
    `none`, it computes the whole canvas. With `prefix`, it takes those of all tokens before the window from the first
    forward of this window, and with `dual` those of the masks behind it too: both are approximations, because these
    tokens attend to the window. With `block`, for a model whose tokens attend to no later block, it computes only what
    has changed, and the result is exact.

    `ended` tells whether the text was cut. `full` counts the forwards over the whole canvas, `partial` the shorter
    ones, and `edits` the tokens that were written over others. Raises `Unsupported` if the model fills no masks, or not
    in this mode.
    """

    def __init__(self, session: Session, prompt: Sequence[int], cache: str = "none") -> None:
        settings = session.engine.canvas
        if settings is None:
            raise Unsupported("needs a model that fills masks in any order")
        if cache not in settings.caches:
            raise Unsupported(f"has no cache mode {cache} for this model; give {' or '.join(settings.caches)}")
        if session.logit_warp is not identity:
            raise Unsupported("fills masks in any order: it cannot be combined with a strategy that changes logits by "
                              "the tokens before them")
        self._session, self._settings, self._cache = session, settings, cache
        self._block = settings.blocks(cache)
        self.tokens, self.window = list(prompt), (len(prompt), len(prompt))
        self._open, self._taken, self._filled = set[int](), len(prompt), dict[int, int]()  # by which forward
        self._final, self._fresh = 0, True  # the tokens whose keys never change; whether the window has not been seen
        self.full = self.partial = self.edits = 0
        self.ended = False

    @property
    def open(self) -> list[int]:
        """The places of the window that are not filled."""
        return [place for place in range(*self.window) if place in self._open]

    @property
    def room(self) -> int:
        """The number of masks for which the context of the model has room."""
        return self._session.engine.max_len - len(self.tokens)

    def restart(self, tokens: Sequence[int]) -> None:
        """Take another prompt; the keys of what it shares with the canvas stay."""
        if self._block:  # the tokens of a block have seen all of it
            self._final = min(self._final, shared_start(self.tokens, tokens) // self._block * self._block)
        self.tokens, self.window = list(tokens), (len(tokens), len(tokens))
        self._open, self._taken, self._fresh, self.ended = set(), len(tokens), True, False

    def extend(self, count: int) -> None:
        """Add masks at the end; raises `UserError` if the context of the model has no room for them."""
        size = len(self.tokens) + count
        if count > self.room:
            raise UserError(f"the canvas has {size} tokens but the context of the model is "
                            f"{self._session.engine.max_len}; lower --max-new-tokens.")
        self._open |= set(range(len(self.tokens), size))
        self.tokens += [self._settings.mask] * count

    def advance(self, size: int) -> bool:
        """Move the window to the next `size` places from the first mask on, and return whether there is one.

        A window of a model with blocks ends with its block.
        """
        if not self._open:
            return False
        first = min(self._open)
        last = (first // self._block + 1) * self._block if self._block else first + size
        self.window, self._fresh = (first, min(last, len(self.tokens))), True
        return True

    def look(self) -> Tensor:
        """Return the logits (W, V) of every place of the window, float32, from one forward; that of a mask is −∞."""
        (first, last), shift = self.window, int(self._settings.shift)
        lead = first - shift  # the first token whose logits are wanted
        if self._block:
            order = list(range(last))  # what is behind the block is not seen
            own = first // self._block * self._block
            start = min(self._final, lead) if self._cache == "block" else 0
            self._final = own
        else:  # the window is computed last, so that it is written behind the keys that stay
            order = [*range(lead), *range(last, len(self.tokens)), *range(lead, last)]
            start = 0 if self._fresh else {"none": 0, "prefix": lead, "dual": len(order) - (last - lead)}[self._cache]
        self._fresh = False
        places, engine, rows = order[start:], self._session.engine, last - lead
        mask = block_mask(places[0], last, self._block, engine.dtype, engine.device) if self._block else \
            torch.zeros(len(places), len(places), dtype=engine.dtype, device=engine.device)
        output = self._session.look(ForwardRequest(self._session.row, start, [self.tokens[place] for place in places],
                                                   places, mask, rows))
        self.full, self.partial = self.full + (not start), self.partial + bool(start)
        logits = output.part(len(places) - rows, len(places) - shift).logits.clone()
        logits[:, self._settings.mask:self._settings.mask + 1] = -math.inf  # a draft model's may be cut off
        return logits

    def write(self, tokens: Mapping[int, int]) -> None:
        """Write tokens to places of the window, over masks or over other tokens; the same token is no edit."""
        for place, token in tokens.items():
            if place not in self._open:
                if token == self.tokens[place]:
                    continue
                self.edits += 1
            self.tokens[place] = token
            self._open.discard(place)
            self._filled[place] = self.full + self.partial

    def reopen(self, places: Sequence[int], noise: Stream | None = None) -> None:
        """Open places of the window, again if they were filled, and show the model masks there, or random tokens.

        A place that `take` has returned must not be opened again.
        """
        mask, drawn = self._settings.mask, [0.0] * len(places)
        if noise:
            drawn = noise.uniform(len(places)).tolist()
        for place, uniform in zip(places, drawn, strict=True):
            token = int(uniform * (self._session.engine.vocab - 1))
            self.tokens[place] = token + (token >= mask) if noise else mask
            self._open.add(place)

    def cut(self, place: int) -> None:
        """Drop everything behind a place of the window, where the text ends."""
        self.ended = True
        del self.tokens[place + 1:]
        self.window = self.window[0], place + 1
        self._open = {other for other in self._open if other <= place}

    def take(self) -> list[int]:
        """Return the tokens before the first mask that no earlier call has returned."""
        end = min(self._open, default=len(self.tokens))
        self._session.work.filled += [self._filled[place] for place in range(self._taken, end)]
        new, self._taken = self.tokens[self._taken:end], max(self._taken, end)
        return new


@lru_cache(maxsize=128)
def block_mask(first: int, last: int, block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the additive mask (N, N) of places `first` … `last` − 1: each attends to its own block and earlier ones.
    """
    number = torch.arange(first, last) // block
    return additive(number[:, None] >= number, dtype, device)
