"""Sliding windows: in some layers of some models, a token attends only to the last tokens before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError

FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers, as transformers names them
STATELESS = frozenset({"mlp", "moe"})                  # and those that look at no other token
Masks = Tensor | dict[str, Tensor]
"""One additive mask for all layers, or one for each kind of layer."""


class Windows:
    """The kinds of layers of a model, and the `size` of the window of those that slide, in tokens (0: none slides).

    Raises `UserError` for a model with layers that neither attend to all tokens nor slide, nor are of kinds `others`.
    """

    def __init__(self, model: Any, others: frozenset[str] = frozenset()) -> None:
        self._config = model.config.get_text_config()
        size = getattr(self._config, "sliding_window", None) or 0
        slides = size and getattr(self._config, "use_sliding_window", True)
        self.layers = list(getattr(self._config, "layer_types", None) or [SLIDING if slides else FULL])
        self.kinds = set(self.layers) - others
        if unknown := self.kinds - {FULL, SLIDING}:
            raise UserError(f"{type(model).__name__} has layers that cannot be rolled back "
                            f"({', '.join(sorted(unknown))}); give a model whose layers all use full or sliding "
                            "attention.")
        self.size = int(size) if SLIDING in self.kinds else 0

    def sliding(self, layers: int) -> int:
        """Return how many of the model's `layers` have a window."""
        return layers * (self.kinds == {SLIDING}) if len(set(self.layers)) == 1 else self.layers.count(SLIDING)

    def masks(self, full: Tensor) -> Masks:
        """Return what the model takes as its mask: `full`, additive (B, 1, Q, S), and what is left of it in a window.

        A window holds the last `size` slots that a token attends to, its own among them.
        """
        if SLIDING not in self.kinds:
            return full
        narrow = narrowed(full, self.size)
        return narrow if self.kinds == {SLIDING} else {FULL: full, SLIDING: narrow}

    @contextmanager
    def of_size(self, size: int) -> Iterator[None]:
        """Make the windows of the model this small until the end of the context, if it has any."""
        before = self.size
        if before:
            self.size = self._config.sliding_window = size
        try:
            yield
        finally:
            if before:
                self.size = self._config.sliding_window = before


def narrowed(mask: Tensor, size: int, first: int = 0) -> Tensor:
    """Return what an additive mask (B, 1, Q, S) leaves of the last `size` slots that a token attends to.

    The `first` slots stay as they are.
    """
    if mask.shape[-1] <= size + first:
        return mask
    attended = mask == 0
    after = attended.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)  # slots from here on, for each slot
    left_out = attended & (after > size)
    left_out[..., :first] = False
    return mask.masked_fill(left_out, torch.finfo(mask.dtype).min)
