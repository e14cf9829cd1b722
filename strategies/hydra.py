"""Hydra: Medusa's heads, each of which also reads the tokens that were drafted before its own.

Ankner et al. 2024 (arXiv 2402.05109), §3. Head i maps the target's last hidden state and the embeddings of the i + 1
tokens after it to a state, with a residual block and `layers` − 1 further ones, and has an output layer of its own.
Hydra++ (§4) is `layers=4,prefix=true`: the heads read the target's states through a decoder layer of their own over all
of the sequence, and learn the target's distribution instead of its tokens. The tree has `nodes` candidates, placed
where they were accepted most on held-out answers. Embeddings are scaled to the size of hidden states (`unit`, not in
the paper), without which a small model's are too small to be seen beside them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.blocks import Residual, output_like
from harness.heads.layer import Context, DraftLayer, Shape
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import knob
from strategies.drafters.headed import Headed


@dataclass(frozen=True)
class HydraSettings:
    """`prefix`: whether there is a decoder layer before the heads. Hydra++ trains with a `dropout` of 0.2."""

    heads: Annotated[int, Field(ge=1, le=16)] = 4
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    prefix: bool = False
    unit: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class HydraHeads(Network):
    """The heads; head i predicts token t + 2 + i."""

    Settings: ClassVar[type] = HydraSettings

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        size, shape = target.hidden, Shape.of(target.config)
        self.blocks = nn.ModuleList(
            nn.Sequential(Residual(size, (head + 2) * size, settings.dropout),
                          *(Residual(size, dropout=settings.dropout) for _ in range(1, settings.layers)))
            for head in range(settings.heads))
        self.outputs = nn.ModuleList(output_like(target, bias=True) for _ in range(settings.heads))
        self.prefix = DraftLayer(shape) if settings.prefix else None
        self.norm = nn.RMSNorm(size, shape.eps) if settings.prefix else nn.Identity()

    @property
    def recipe(self) -> Recipe:
        """Hydra learns the tokens, and Hydra++ the target's distribution."""
        return Recipe(text=0.0, target=1.0) if self.prefix else Recipe()

    @property
    def depth(self) -> int:
        """One token a head."""
        return len(self.blocks)

    @property
    def caches(self) -> int:
        """That of the layer before the heads."""
        return int(self.prefix is not None)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The output of the blocks of a head; the state holds the vectors that the next one reads beside its token."""
        if self.prefix is not None and not depth:
            state = self.norm(self.prefix(state, context, context.caches[0]))
        state = torch.cat([state, self.words(tokens)], -1)
        return functional.dropout(self.blocks[depth](state), self.settings.dropout, self.training), state

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of a head."""
        found: Tensor = self.outputs[depth](features)
        return found


@dataclass(frozen=True)
class Hydra(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(63, "candidates in the tree", low=1, high=512, sweep=(4, 10, 25, 63))

    paper: ClassVar[str] = "Ankner et al. 2024, arXiv 2402.05109"
    network: ClassVar[type[Network]] = HydraHeads
