"""EAGLE: a small decoder layer predicts the target's next hidden state from the last one and the next token.

Li et al. 2024 (arXiv 2401.15077). The layer reads the target's hidden state after each token with the embedding of the
token that follows, and the target's own output layer turns its prediction into tokens; drafting goes on from predicted
states. The tree has `nodes` candidates, placed where they were accepted most on held-out answers. Embeddings are scaled
to the size of hidden states (`unit`), without which a small model's are too small to be seen beside them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.heads.layer import Context, DraftLayer, Shape
from harness.heads.network import Network, Recipe, TargetParts
from harness.heads.unrolled import Unrolled, UnrolledSettings
from strategies.drafters.headed import Headed


@dataclass(frozen=True)
class EagleSettings(UnrolledSettings):
    """Those of the layer; `unit` and `bias`, of `fc`."""

    unit: bool = True
    bias: bool = True


class EagleNetwork(Unrolled):
    """fc([embedding; state]), then a decoder layer without input norm."""

    Settings: ClassVar[type] = EagleSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, state=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.fc = nn.Linear(2 * target.hidden, target.hidden, bias=settings.bias)
        self.layer = DraftLayer(Shape.of(target.config, settings.heads, settings.mlp), first=True)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the states after `tokens`."""
        predicted = self.layer(self.fc(torch.cat([self.words(tokens), state], -1)), context, context.caches[0])
        return predicted, predicted


@dataclass(frozen=True)
class Eagle(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2401.15077"
    network: ClassVar[type[Network]] = EagleNetwork
