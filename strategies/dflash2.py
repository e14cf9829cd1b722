"""DFlash2: a block drafter with convolutions inside the block, and a selector of drafts that fit the one before.

Described on a blog only (z-lab, August 2026); read from the code that runs its published weights. To the network of
`dflash` come two parts, which change nothing at first. Convolutions of `kernel` rows are around the attention and the
MLP of each layer: their factors are learned, and shifted, for `group` channels together, by a projection of what the
sublayer reads. The selector adds to the logits of a row's `top` likeliest tokens how well they follow the one before,
⟨A[previous] ⊙ H row, B[token]⟩ with vectors of `rank` numbers (there: 256). All other tokens keep their logits (there
they are never drafted), and the sum is trained as in `dflash` (there the selector has a loss of its own). The chain
has `nodes` tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import UserError
from harness.heads.block import BlockSettings
from harness.heads.layer import Cache, DraftLayer, Shape
from harness.heads.network import Network, TargetParts
from strategies.drafters.headed import Chained
from strategies.dspark import DSparkNetwork


@dataclass(frozen=True)
class DFlash2Settings(BlockSettings):
    """Those of the block, its convolutions and the selector."""

    kernel: Annotated[int, Field(ge=1, le=16)] = 2
    group: Annotated[int, Field(ge=1, le=4096)] = 16
    rank: Annotated[int, Field(ge=1, le=4096)] = 32
    top: Annotated[int, Field(ge=1, le=1024)] = 16


class BlockConvolution(nn.Module):
    """Mixes each of `rows` rows of a block with those before it, before and after a sublayer; the identity at first."""

    def __init__(self, size: int, settings: DFlash2Settings) -> None:
        super().__init__()
        self.rows, self.kernel, self.group = settings.block, settings.kernel, settings.group
        self.base = nn.Parameter(torch.zeros(2, settings.kernel, size))
        self.projection = nn.Linear(size, 2 * settings.kernel * size // settings.group, bias=False)
        with torch.no_grad():
            self.base[:, 0] = 1
        nn.init.zeros_(self.projection.weight)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, Q · rows, D) → (B, Q · rows, D): the sublayer between two convolutions."""
        shift = self.projection(x).view(*x.shape[:2], 2, self.kernel, -1).repeat_interleave(self.group, -1)
        before, after = (self.base + shift).unbind(2)
        return self._mixed(sublayer(self._mixed(x, before)), after)

    def _mixed(self, x: Tensor, factors: Tensor) -> Tensor:
        """Return the sum of a row and those before it in its block, by `factors` (B, Q · rows, kernel, D)."""
        blocks = x.view(len(x), -1, self.rows, x.shape[-1])
        total = torch.zeros_like(x)
        for back in range(min(self.kernel, self.rows)):
            earlier = functional.pad(blocks, (0, 0, back, 0))[:, :, :self.rows]
            total = total + factors[:, :, back] * earlier.reshape(x.shape)
        return total


class ConvolvedLayer(DraftLayer):
    """A layer with convolutions around attention and MLP."""

    def __init__(self, shape: Shape, settings: DFlash2Settings) -> None:
        super().__init__(shape, normed=True)
        self.attention_conv, self.mlp_conv = (BlockConvolution(shape.hidden, settings) for _ in range(2))

    def beside(self, x: Tensor, positions: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """(B, Q · rows, D) → (B, Q · rows, D)."""
        x = x + self.attention_conv(self.input_norm(x), lambda read: self.attended(read, positions, cache, mask))
        result: Tensor = x + self.mlp_conv(self.mlp_norm(x), self.mlp)
        return result


class DFlash2Network(DSparkNetwork):
    """Features are a row of the block and A of the token before; A and B are where `dspark` has W₁ and W₂."""

    Settings: ClassVar[type] = DFlash2Settings

    def __init__(self, target: TargetParts, settings: Any) -> None:
        if target.hidden % settings.group:
            raise UserError(f"The setting 'group' of the head is {settings.group} and must divide the hidden states' "
                            f"{target.hidden} numbers.")
        if settings.draft_vocab:
            raise UserError("The setting 'draft_vocab' of the head must be 0: its selector is for all tokens.")
        super().__init__(target, settings)
        self.selector = nn.Linear(target.hidden, settings.rank, bias=False)

    def layer(self, shape: Shape) -> DraftLayer:
        """Return a new layer."""
        return ConvolvedLayer(shape, self.settings)

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Those of the row, and for the likeliest tokens how well they follow."""
        row = self.aligned(features)
        found = self.target.logits(row)
        likeliest = found.topk(min(self.settings.top, found.shape[-1])).indices
        wanted = features[..., self.target.hidden:] * self.selector(row)
        fit = functional.embedding(likeliest, self.markov_out.weight) @ wanted[..., None]
        return found.scatter_add(-1, likeliest, fit[..., 0])


@dataclass(frozen=True)
class DFlash2(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "z-lab 2026, a blog"
    network: ClassVar[type[Network]] = DFlash2Network
