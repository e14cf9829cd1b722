"""The output of a session's forward pass, and the cost of its forward passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from harness.engine.compute import Compute
from harness.engine.forward import ForwardRows
from harness.engine.hooks import ModelParts


@dataclass
class Work:
    """The cost of one sequence: its forward passes, their tokens, and the tree nodes computed and accepted.

    `whole` counts the accepted paths that ended at a leaf of the tree, `shared` the tokens of the prompt that were
    copied from a shared prefix instead of computed. `compute` is what the forwards computed. `encodings` are the
    forwards of an encoder, and `encoded` the tokens of the source in them. `filled` has, for each new token of a
    canvas, the number of the forward from which it came.
    """

    forwards: int = 0
    positions: int = 0
    drafted: int = 0
    accepted: int = 0
    whole: int = 0
    shared: int = 0
    encodings: int = 0
    encoded: int = 0
    compute: Compute = field(default_factory=Compute)
    filled: list[int] = field(default_factory=list)


class Reading:
    """The model's output: row 0 is after the sequence, row 1 + i after the i-th node that this call computed.

    `warp` changes its logits (1 + N, V).
    """

    def __init__(self, parts: Sequence[ForwardRows], warp: Callable[[Tensor], Tensor] | None = None) -> None:
        self._parts, self._warp = parts, warp

    @cached_property
    def logits(self) -> Tensor:
        """The logits (1 + N, V) in float32."""
        return self._warp(self._unwarped()) if self._warp else self._unwarped()

    @cached_property
    def hidden(self) -> Tensor:
        """The hidden states (1 + N, D) of the last layer after the final norm."""
        return _joined([part.hidden for part in self._parts])

    @property
    def best(self) -> list[int]:
        """The most likely next token of every row; cheaper than `logits.argmax` when sequences share a forward."""
        if self._warp:
            best: list[int] = self.logits.argmax(-1).tolist()
            return best
        return self._parts[0].best if len(self._parts) == 1 else [t for part in self._parts for t in part.best]

    def ranks(self, rows: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """Return the rank of each of `tokens` in its row by the model's logits before any warp, 1 for the likeliest.

        Equal logits share a rank. `rows` are as many as `tokens`.
        """
        logits = self._unwarped()[list(rows)]
        own = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])
        ranks: list[int] = (1 + (logits > own).sum(-1)).tolist()
        return ranks

    def _unwarped(self) -> Tensor:
        return _joined([part.logits for part in self._parts])

    def captured(self, name: str) -> Tensor:
        """Return the tensor (1 + N, …) that the hook recorded under `name`; raises `KeyError` if there is none."""
        return _joined([part.captured(name) for part in self._parts])

    def exits(self, names: Sequence[str], parts: ModelParts, norm: bool) -> Tensor:
        """Return the early-exit logits (J, V) in float32 after the last row's token, of J hidden states by their names.

        The hook recorded them (`Watch`); they go through the final norm if `norm`. All sequences that share the forward
        share one product. Raises `KeyError` for a name that was not recorded.
        """
        return self._parts[-1].exits(names, parts, norm)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
