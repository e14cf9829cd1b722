"""FSPAD: the head of EAGLE in which the token selects parts of the state, and which predicts tokens and states apart.

Gui et al. 2024 (arXiv 2408.15562). To the mix of embedding and state, a gated MLP adds what the token lets through: its
gate sees the embedding alone ("feature sampling"). The MLP of the decoder layer has two outputs, one for tokens and one
for the next state, so that only the latter must come near the target's ("partial alignment"). The tree is that of
`eagle2`.
"""


from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.layer import Attention, Context, Mlp, Shape
from harness.heads.network import Network, Recipe, TargetParts
from harness.heads.unrolled import Unrolled
from strategies.drafters.headed import Grown
from strategies.eagle import EagleSettings


class FspadNetwork(Unrolled):
    """Features are [for tokens; next state]."""

    Settings: ClassVar[type] = EagleSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, state=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        shape = Shape.of(target.config, settings.heads, settings.mlp)
        self.fc = nn.Linear(2 * target.hidden, target.hidden, bias=settings.bias)
        self.sampler_norm, self.sampler = nn.RMSNorm(target.hidden, shape.eps), Mlp(shape)
        self.attention = Attention(shape)
        self.mlp_norm, self.mlp = nn.RMSNorm(target.hidden, shape.eps), Mlp(shape, 2 * target.hidden)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the tokens after `tokens` and the states there."""
        words = self.words(tokens)
        x = self.fc(torch.cat([words, state], -1))
        x = x + self.sampler.down(functional.silu(self.sampler.gate(words)) * self.sampler.up(self.sampler_norm(x)))
        x = x + self.attention(x, context, context.caches[0])
        both = torch.cat([x, x], -1) + self.mlp(self.mlp_norm(x))
        return both, self.aligned(both)

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of the first half."""
        return self.target.logits(features[..., :self.target.hidden])

    def aligned(self, features: Tensor) -> Tensor:
        """The second half."""
        return features[..., self.target.hidden:]


@dataclass(frozen=True)
class Fspad(Grown):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Gui et al. 2024, arXiv 2408.15562"
    network: ClassVar[type[Network]] = FspadNetwork
