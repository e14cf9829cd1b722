"""EAGLE: a small decoder layer predicts the target's next hidden state from the last one and the next token.

Li et al. 2024 (arXiv 2401.15077). The layer reads the target's hidden state after each token with the embedding of the
token that follows, and the target's own output layer turns its prediction into tokens; drafting goes on from predicted
states. The tree has `nodes` candidates, placed where they were accepted most on held-out answers. Embeddings are scaled
to the size of hidden states (`unit`), without which a small model's are too small to be seen beside them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.heads.layer import Context, DraftLayer, Shape, unit
from harness.heads.network import Network, Recipe, TargetParts
from strategies.drafters.headed import Headed


@dataclass(frozen=True)
class EagleSettings:
    """`unroll` steps are predicted from predicted states while training; sizes of the layer, 0 for the target's."""

    unroll: Annotated[int, Field(ge=1, le=16)] = 4
    heads: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    unit: bool = True
    bias: bool = True


class EagleNetwork(Network):
    """fc([embedding; state]), then a decoder layer without input norm."""

    Settings: ClassVar[type] = EagleSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, state=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.fc = nn.Linear(2 * target.hidden, target.hidden, bias=settings.bias)
        self.layer = DraftLayer(Shape.of(target.config, settings.heads, settings.mlp), first=True)

    @property
    def depth(self) -> int:
        """The depth of the training; drafts may be deeper."""
        return int(self.settings.unroll)

    @property
    def caches(self) -> int:
        """That of the layer."""
        return 1

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the states after `tokens`."""
        words = self.target.embedding(tokens)
        both = torch.cat([unit(words) if self.settings.unit else words, state], -1)
        predicted = self.layer(self.fc(both), context, context.caches[0])
        return predicted, predicted


@dataclass(frozen=True)
class Eagle(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2401.15077"
    network: ClassVar[type[Network]] = EagleNetwork
