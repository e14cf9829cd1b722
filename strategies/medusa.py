"""Medusa: heads on the target's last hidden state each predict one of the next tokens; their candidates form a tree.

Cai et al. 2024 (arXiv 2401.10774), §2.1 and 2.3. Head i is a residual block with an output layer of its own, which
starts as the target's (`own`; without it the target's is shared). The tree has `nodes` candidates, placed where they
were accepted most on held-out answers (§2.3.3). Heads do not see each other's tokens, so one product drafts all.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from harness.heads.blocks import Residual, output_like
from harness.heads.layer import Context
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import knob
from strategies.drafters.headed import Headed


@dataclass(frozen=True)
class MedusaSettings:
    """`own`: whether each head has an output layer of its own."""

    heads: Annotated[int, Field(ge=1, le=16)] = 4
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    own: bool = True


class MedusaHeads(Network):
    """The heads; head i predicts token t + 2 + i."""

    Settings: ClassVar[type] = MedusaSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, decay=0.8)
    free: ClassVar[bool] = True

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.blocks = nn.ModuleList(nn.Sequential(*(Residual(target.hidden) for _ in range(settings.layers)))
                                    for _ in range(settings.heads))
        self.outputs = nn.ModuleList(output_like(target) for _ in range(settings.heads if settings.own else 0))

    @property
    def depth(self) -> int:
        """One token a head."""
        return len(self.blocks)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The output of the block of a head."""
        return self.blocks[depth](state), state

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of a head."""
        found: Tensor = self.outputs[depth](features) if self.outputs else self.target.logits(features)
        return found


@dataclass(frozen=True)
class Medusa(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(63, "candidates in the tree", low=1, high=512, sweep=(4, 10, 25, 63))

    paper: ClassVar[str] = "Cai et al. 2024, arXiv 2401.10774"
    network: ClassVar[type[Network]] = MedusaHeads
