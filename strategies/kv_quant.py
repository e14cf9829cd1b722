"""KIVI: round the KV cache to a few bits, except for the last tokens, whatever strategy decodes.

Liu et al. 2024 (arXiv 2402.02750, §3). Keys have a few channels with large numbers, values have none. So each channel
of the keys is rounded in groups of `group` tokens, and each token of the values in groups of `group` channels, to
2^`bits` equal steps from the lowest to the highest number of the group. The last tokens stay exact: keys leave this
part together, `residual` at a time in whole groups, and values one by one. A prompt is read with exact keys and values.

What has been rounded is never rounded again. A real cache holds bits + 32/`group` bits a number, with the lowest number
and the step of each group in half precision, and these are the bytes that tables show. Here the slots hold the numbers
that these bits stand for: the quality is that of a rounded cache, and no memory is saved. With `keys` "token" keys are
rounded as values are, for comparison; with `rotated` off they are rounded as they are before the rotation by their
position, as in KVQuant (arXiv 2401.18079). Drafts see what was exact when their verification began, and the branches of
a beam search stay exact: only its prompt is rounded.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.decoding.governed import GovernedCache
from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import CachedSequence
from harness.engine.hooks import View
from harness.engine.rounded_weights import UNROUNDED, rounded
from harness.plugins.strategy import knob

SCALES = 32  # bits of the lowest number and of the step of a group


class Done(NamedTuple):
    """The slots, from the first on, whose keys and whose values have been rounded, and what of their bytes is spared.

    Of a key and its value, a rounded key spares the part `of_key` and a rounded value the part `of_value`.
    """

    keys: int = 0
    values: int = 0
    of_key: float = 0
    of_value: float = 0


@dataclass(frozen=True)
class Rounding(CachePolicy):
    """Rounds what is no longer among the last tokens."""

    bits: int
    group: int
    residual: int
    by_channel: bool

    def settle(self, sequence: CachedSequence) -> None:
        """Round the keys and values that have left the exact part since the last forward."""
        if self.bits >= UNROUNDED:
            return
        done: Done = sequence.row.state or Done()
        values, keys = max(sequence.start - self.residual, done.values), done.keys
        if self.by_channel:
            block = -(-max(self.residual, 1) // self.group) * self.group
            keys = max(sequence.start // block * block, keys)
        else:
            keys = values
        self._round_keys(sequence, done.keys, keys)
        sequence.change(done.values, values, values=lambda layer, states: self.of_tokens(states))
        sequence.row.state = Done(keys, values, *self.spared(sequence.engine.cache.keys(sequence.row.index, 1)[0]))

    def spared(self, keys: Tensor) -> tuple[float, float]:
        """Return which parts of the bytes of a key and its value are spared by rounding the key, and the value.

        `keys` (G, N, D) are those of one layer in full precision.
        """
        size, full = keys.shape[2], 8 * keys.dtype.itemsize
        by_token = self.bits + SCALES * -(-size // self.group) / size
        by_key = self.bits + SCALES / self.group if self.by_channel else by_token
        return (1 - by_key / full) / 2, (1 - by_token / full) / 2

    def shorter(self, view: View) -> Tensor | None:
        """Return what the rounded keys and values that tokens attend to spare."""
        if not any(row.state for row in view.rows):
            return None
        done = torch.tensor([row.state or Done() for row in view.rows], dtype=torch.float64, device=view.slots.device)
        keys, values, of_key, of_value = done.T[..., None].unbind()
        visible = view.positions + 1
        return of_key * view.depth.of_first(keys, visible) + of_value * view.depth.of_first(values, visible)

    def of_keys(self, keys: Tensor) -> Tensor:
        """Return keys (1, G, N, D) after rounding."""
        return self.of_tokens(keys.transpose(2, 3)).transpose(2, 3) if self.by_channel else self.of_tokens(keys)

    def of_tokens(self, states: Tensor) -> Tensor:
        """Return numbers (…, N) after rounding in groups of neighbours."""
        flat = states.reshape(-1, states.shape[-1])
        return rounded(flat, self.bits, self.group).values.to(states.dtype).view_as(states)

    def _round_keys(self, sequence: CachedSequence, first: int, last: int) -> None:
        sequence.change(first, last, keys=lambda layer, keys: self.of_keys(keys))


@dataclass(frozen=True)
class UnrotatedRounding(Rounding):
    """Rounds keys as they are before the rotation by their position."""

    rotates: ClassVar[bool] = True

    def _round_keys(self, sequence: CachedSequence, first: int, last: int) -> None:
        places, turned = torch.arange(first, last, device=sequence.engine.device)[None], sequence.engine.rotary.turned
        sequence.change(first, last, keys=lambda layer, keys: turned(
            layer, self.of_keys(turned(layer, keys, -places)), places))


@dataclass(frozen=True)
class KvQuant(GovernedCache):
    """Identities: `bits=16`, or a `residual` that the sequence does not reach, is the other strategy."""

    bits: int = knob(2, "bits of each number; 16 rounds nothing", choices=(2, 3, 4, 8, 16), sweep=(2, 4, 8))
    group: int = knob(32, "numbers that are rounded together", low=1, high=1024, sweep=(16, 32, 64))
    residual: int = knob(128, "last tokens that stay exact", low=0, high=1000000, sweep=(0, 32, 128))
    keys: str = knob("channel", "round the keys by channel or by token", choices=("channel", "token"),
                     sweep=("channel", "token"))
    rotated: bool = knob(True, "round keys after their rotation", sweep=(True, False))

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2402.02750"

    def policy(self) -> CachePolicy:
        """Round to this precision."""
        kind = Rounding if self.rotated else UnrotatedRounding
        return kind(self.bits, self.group, self.residual, self.keys == "channel")
