"""One decoder layer of a drafter, with its own KV cache: for training over many positions, and for drafting a tree."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: states of `hidden` numbers; attention may read `inputs` numbers a position instead."""

    hidden: int
    heads: int
    kv_heads: int
    mlp: int
    inputs: int = 0
    eps: float = 1e-6
    theta: float = 10000.0

    @property
    def head(self) -> int:
        """Numbers of a head."""
        return self.hidden // self.heads


@dataclass
class Cache:
    """Keys and values (B, H, T, D) of the positions that were read."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return all of them."""
        self.keys = [torch.cat([*self.keys, keys], 2)]
        self.values = [torch.cat([*self.values, values], 2)]
        return self.keys[0], self.values[0]

    def cut(self, length: int) -> None:
        """Keep the first `length` positions."""
        self.keys = [one[:, :, :length] for one in self.keys]
        self.values = [one[:, :, :length] for one in self.values]

    def __len__(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0


class DraftLayer(nn.Module):
    """Attention and a gated MLP, with rotary positions; `normed` tells whether the input of attention is normed."""

    def __init__(self, shape: Shape, normed: bool = True) -> None:
        super().__init__()
        self.shape, inputs = shape, shape.inputs or shape.hidden
        self.input_norm = nn.RMSNorm(inputs, shape.eps) if normed else nn.Identity()
        self.q = nn.Linear(inputs, shape.heads * shape.head, bias=False)
        self.k = nn.Linear(inputs, shape.kv_heads * shape.head, bias=False)
        self.v = nn.Linear(inputs, shape.kv_heads * shape.head, bias=False)
        self.o = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)
        self.mlp_norm = nn.RMSNorm(shape.hidden, shape.eps)
        self.gate = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.up = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.down = nn.Linear(shape.mlp, shape.hidden, bias=False)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, cache: Cache, residual: Tensor | None = None
                ) -> Tensor:
        """Return the states (B, Q, D) after `x` (B, Q, …), whose keys and values are appended to `cache`.

        `positions` are (Q,), and `mask` (Q, T + Q) is True where a query attends to one of all T + Q positions.
        `residual` (B, Q, D) is what the layer adds to, by default `x`.
        """
        y = self.input_norm(x)
        q, k, v = (self._split(linear(y)) for linear in (self.q, self.k, self.v))
        cos, sin = self._angles(positions)
        keys, values = cache.add(_rotated(k, cos, sin), v)
        mixed = functional.scaled_dot_product_attention(_rotated(q, cos, sin), keys, values, mask,
                                                        enable_gqa=self.shape.heads != self.shape.kv_heads)
        x = (x if residual is None else residual) + self.o(mixed.transpose(1, 2).flatten(2))
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
