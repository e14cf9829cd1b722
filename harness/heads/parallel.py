"""Networks that read a sequence as a small transformer does, and predict several tokens in one pass from mask rows."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.heads.block import block_mask
from harness.heads.layer import Context, DraftLayer, Shape
from harness.heads.network import Network, TargetParts


@dataclass(frozen=True)
class ParallelSettings:
    """`block` tokens are predicted; sizes of the `layers`, 0 for the target's.

    `taps` are layers of the target as in "2-5-7".
    """

    block: Annotated[int, Field(ge=2, le=64)] = 8
    layers: Annotated[int, Field(ge=1, le=32)] = 2
    heads: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    taps: str = ""


class ParallelNetwork(Network):
    """A causal transformer: the last row of the sequence predicts the next token, masks behind it the further ones.

    The rows of the sequence stay in the caches, masks do not. The state of a step is the whole block of normed outputs,
    which the first step computes. `wide` is that of the first layer.
    """

    free: ClassVar[bool] = True
    stride: ClassVar[int] = 4

    def __init__(self, target: TargetParts, settings: Any, wide: bool = False) -> None:
        super().__init__(target, settings)
        shape = Shape.of(target.config, settings.heads, settings.mlp)
        self.layers = nn.ModuleList(DraftLayer(shape, wide=wide and not place) for place in range(settings.layers))
        self.norm = nn.RMSNorm(target.hidden, shape.eps)

    @abstractmethod
    def rows(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return what the first layer reads (B, Q, …) of the target's `states` and the `tokens` (B, Q) that follow."""

    @abstractmethod
    def masks(self, shape: Sequence[int]) -> Tensor:
        """Return what the first layer reads (*`shape`, …) of mask rows."""

    @property
    def depth(self) -> int:
        """The tokens of a block."""
        return int(self.settings.block)

    @property
    def caches(self) -> int:
        """One a layer."""
        return int(self.settings.layers)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The row of the block for this depth; the first step computes the block."""
        size, state = self.target.hidden, state if depth else self.block(state, tokens, context)
        return state[..., depth * size:(depth + 1) * size], state

    def block(self, states: Tensor, tokens: Tensor, context: Context) -> Tensor:
        """Return the blocks (B, Q', rows · D) behind the rows wanted, and append to the caches."""
        x, count, size = self.rows(states, tokens), self.depth - 1, self.target.hidden
        places = context.positions[context.wanted, None] + 1 + torch.arange(count, device=tokens.device)
        y, mask = self.masks((len(x), places.numel())), block_mask(context.mask[context.wanted], count, causal=True)
        for layer, cache in zip(cast(Iterable[DraftLayer], self.layers), context.caches, strict=True):
            x = layer(x, context, cache)
            y = layer.beside(y, places.flatten(), cache, mask)
        both = torch.cat([x[:, context.wanted, None], y.view(len(y), -1, count, size)], 2)
        found: Tensor = self.norm(both).flatten(2)
        return found
