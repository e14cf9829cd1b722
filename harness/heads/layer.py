"""The parts of a small transformer that drafts, with KV caches of its own: for training, and for drafting a tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: states of `hidden` numbers, `heads` of attention with `head` numbers, `mlp` numbers inside.

    Positions are rotated by powers of `theta`, or by `speeds` (head / 2,) and then stretched by `stretch`.
    """

    hidden: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    eps: float = 1e-6
    theta: float = 10000.0
    speeds: tuple[float, ...] = ()
    stretch: float = 1.0

    @classmethod
    def of(cls, config: Any, heads: int = 0, mlp: int = 0) -> "Shape":
        """Return the sizes of a target's layers by its transformers configuration, or with other `heads` and `mlp`.

        Raises `UserError` if states cannot be split into so many heads.
        """
        size = int(config.hidden_size)
        own = heads or int(config.num_attention_heads)
        head = 0 if heads else int(getattr(config, "head_dim", None) or 0)
        if not head and size % (2 * own):
            raise UserError(f"{own} attention heads do not divide hidden states of {size} numbers into even parts.")
        shared = 0 if heads else getattr(config, "num_key_value_heads", None)
        rope = getattr(config, "rope_parameters", None) or {}
        inside = mlp or getattr(config, "intermediate_size", None) or 4 * size
        speeds, stretch = _scaled(config, rope) if not heads else ((), 1.0)
        return cls(size, own, int(shared or own), head or size // own, int(inside),
                   float(getattr(config, "rms_norm_eps", None) or 1e-6), float(rope.get("rope_theta") or 10000.0),
                   speeds, stretch)


def _scaled(config: Any, rope: Mapping[str, Any]) -> tuple[tuple[float, ...], float]:
    """Return the speeds and the stretch of a target whose positions are scaled for long texts."""
    if rope.get("rope_type") not in ("linear", "llama3", "yarn"):
        return (), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    speeds, stretch = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
    return tuple(speeds.tolist()), float(stretch)


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

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """All keys and values, of one position at least."""
        assert self._held is not None
        return self._held

    def cut(self, length: int) -> None:
        """Keep the first `length` positions."""
        if self._held:
            self._held = self._held[0][:, :, :length], self._held[1][:, :, :length]


class Context(NamedTuple):
    """What Q rows of a step can see, whose hidden states are at `positions` (Q,).

    `mask` (Q, T + Q) is True where a row attends to one of the T rows that were read before, whose keys and values are
    in `caches`, or to one of the Q rows. A block drafter predicts behind the rows `wanted` only.
    """

    positions: Tensor
    mask: Tensor
    caches: Sequence[Cache] = ()
    wanted: slice = slice(None)


class Attention(nn.Module):
    """Attention with rotary positions; queries, keys and values are read from vectors of `inputs` numbers.

    With `normed`, queries and keys are normed in each head.
    """

    def __init__(self, shape: Shape, inputs: int = 0, normed: bool = False) -> None:
        super().__init__()
        self.shape, inputs = shape, inputs or shape.hidden
        self.q = nn.Linear(inputs, shape.heads * shape.head, bias=False)
        self.k, self.v = (nn.Linear(inputs, shape.kv_heads * shape.head, bias=False) for _ in range(2))
        self.o = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(shape.head, shape.eps) if normed else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, context: Context, cache: Cache) -> Tensor:
        """(B, Q, `inputs`) → (B, Q, D); the keys and values are appended to `cache`."""
        return self.attend(x, context.positions, *cache.add(*self.keys(x, context.positions)), context.mask)

    def keys(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys, rotated to `positions` (Q,), and the values (B, H, Q, head) of `x` (B, Q, `inputs`)."""
        return self._rotated(self.k_norm(self._split(self.k(x))), positions), self._split(self.v(x))

    def attend(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return (B, Q, D) for the queries of `x` at `positions` over keys that `mask` (Q, T) shows."""
        queries = self._rotated(self.q_norm(self._split(self.q(x))), positions)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, mask,
                                                        enable_gqa=self.shape.heads != self.shape.kv_heads)
        found: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return found

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.shape.head).transpose(1, 2)

    def _rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate (B, H, Q, head): the first half of the numbers with the second."""
        half = torch.arange(0, self.shape.head, 2, device=positions.device) / self.shape.head
        speeds = positions.new_tensor(self.shape.speeds, dtype=torch.float) if self.shape.speeds else (
            self.shape.theta ** -half.float())
        angles = positions[:, None].float() * speeds
        angles = torch.cat([angles, angles], -1)
        cos, sin = (self.shape.stretch * wave for wave in (angles.cos(), angles.sin()))
        first, second = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


class Mlp(nn.Module):
    """The gated MLP of Llama, with `outputs` numbers (by default as many as inputs)."""

    def __init__(self, shape: Shape, outputs: int = 0) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(shape.hidden, shape.mlp, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.mlp, outputs or shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, `outputs`)."""
        found: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return found


class Pair(nn.Module):
    """Norms two vectors that are side by side, each by itself: (…, 2 D) → (…, 2 D)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(size, eps), nn.RMSNorm(size, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Norm both halves."""
        first, second = x.chunk(2, -1)
        return torch.cat([self.first(first), self.second(second)], -1)


class DraftLayer(nn.Module):
    """A decoder layer; the input of its attention is normed unless `first`.

    A `wide` one reads an embedding and a state side by side (2 D) and adds to the state, as that of EAGLE-3 does.
    """

    def __init__(self, shape: Shape, first: bool = False, normed: bool = False, wide: bool = False) -> None:
        super().__init__()
        size = shape.hidden
        self.size = size
        self.input_norm = nn.Identity() if first else Pair(size, shape.eps) if wide else nn.RMSNorm(size, shape.eps)
        self.attention = Attention(shape, 2 * size if wide else 0, normed)
        self.mlp_norm, self.mlp = nn.RMSNorm(size, shape.eps), Mlp(shape)

    def forward(self, x: Tensor, context: Context, cache: Cache) -> Tensor:
        """(B, Q, D) → (B, Q, D); the keys and values are appended to `cache`."""
        x = x[..., -self.size:] + self.attention(self.input_norm(x), context, cache)
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result

    def beside(self, x: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """(B, Q, D) → (B, Q, D) for rows that are not appended to `cache`, which has T; `mask` is (Q, T + Q)."""
        x = x[..., -self.size:] + self.attended(self.input_norm(x), positions, cache, mask)
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result

    def attended(self, x: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """The attention of `beside`, of rows that are normed."""
        pairs = zip(cache.held, self.attention.keys(x, positions), strict=True)
        keys, values = (torch.cat(pair, 2) for pair in pairs)
        return self.attention.attend(x, positions, keys, values, mask)


def unit(x: Tensor) -> Tensor:
    """Scale vectors (…, D) to a mean square of one."""
    return x * x.float().pow(2).mean(-1, keepdim=True).clamp_min(1e-12).rsqrt().to(x.dtype)
