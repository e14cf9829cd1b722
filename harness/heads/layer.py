"""One decoder layer of a drafter, with its own KV cache: for training over many positions, and for drafting a tree."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: states of `hidden` numbers, `heads` of attention, `mlp` numbers inside."""

    hidden: int
    heads: int
    mlp: int
    eps: float = 1e-6
    theta: float = 10000.0

    @property
    def head(self) -> int:
        """Numbers of a head."""
        return self.hidden // self.heads


class Cache:
    """Keys and values (B, H, T, D) of the positions that were read."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return all of them."""
        if self._held:
            keys, values = (torch.cat(pair, 2) for pair in zip(self._held, (keys, values), strict=True))
        self._held = keys, values
        return keys, values

    def cut(self, length: int) -> None:
        """Keep the first `length` positions."""
        if self._held:
            self._held = self._held[0][:, :, :length], self._held[1][:, :, :length]


class DraftLayer(nn.Module):
    """Attention, whose input is not normed, and a gated MLP, with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, size = shape, shape.hidden
        self.q, self.k, self.v, self.o = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.mlp_norm = nn.RMSNorm(size, shape.eps)
        self.gate, self.up = (nn.Linear(size, shape.mlp, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.mlp, size, bias=False)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Return the states (B, Q, D) after `x` (B, Q, D), whose keys and values are appended to `cache`.

        `positions` are (Q,), and `mask` (Q, T + Q) is True where a query attends to one of all T + Q positions.
        """
        q, k, v = (self._split(linear(x)) for linear in (self.q, self.k, self.v))
        cos, sin = self._angles(positions)
        keys, values = cache.add(_rotated(k, cos, sin), v)
        mixed = functional.scaled_dot_product_attention(_rotated(q, cos, sin), keys, values, mask)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.mlp_norm(x)
        result: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return result

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.shape.head).transpose(1, 2)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.arange(0, self.shape.head, 2, device=positions.device) / self.shape.head
        angles = positions[:, None].float() * self.shape.theta ** -half.float()
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(self.o.weight.dtype), angles.sin().to(self.o.weight.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, Q, D) by the angles (Q, D): the first half of the numbers with the second."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
