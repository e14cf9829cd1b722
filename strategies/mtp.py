"""MTP: a module for multi-token prediction as DeepSeek's models have it, which drafts recursively.

DeepSeek-AI 2024 (arXiv 2412.19437), §2.2; Cai et al. 2025, "FastMTP" (arXiv 2509.18362). A whole decoder layer reads a
projection of [norm(embedding of the next token); norm(state)]; the target's own output layer turns its normed output
into tokens. One module drafts all `nodes` tokens of a chain: it goes on from its own outputs, before their norm, and is
trained so for `unroll` steps, of which step k counts 0.6ᵏ (FastMTP).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.heads.layer import Context, DraftLayer, Shape
from harness.heads.network import Network, Recipe, TargetParts
from harness.heads.unrolled import Unrolled, UnrolledSettings
from harness.plugins.strategy import knob
from strategies.drafters.headed import Chained


@dataclass(frozen=True)
class MtpSettings(UnrolledSettings):
    """Those of the layer; `normed` is of its queries and keys."""

    unroll: Annotated[int, Field(ge=1, le=16)] = 3
    normed: bool = False


class MtpNetwork(Unrolled):
    """fc([norm(embedding); norm(state)]), then a decoder layer and a norm; with `normed`, also of queries and keys."""

    Settings: ClassVar[type] = MtpSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, decay=0.6)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        shape = Shape.of(target.config, settings.heads, settings.mlp)
        self.word_norm, self.state_norm, self.norm = (nn.RMSNorm(target.hidden, shape.eps) for _ in range(3))
        self.fc = nn.Linear(2 * target.hidden, target.hidden, bias=False)
        self.layer = DraftLayer(shape, normed=settings.normed)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the normed states after `tokens`."""
        both = torch.cat([self.word_norm(self.target.embedding(tokens)), self.state_norm(state)], -1)
        x = self.layer(self.fc(both), context, context.caches[0])
        return self.norm(x), x


@dataclass(frozen=True)
class Mtp(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(3, "tokens drafted, one after the other", low=1, high=64, sweep=(1, 2, 3, 5))

    paper: ClassVar[str] = "DeepSeek-AI 2024, arXiv 2412.19437"
    network: ClassVar[type[Network]] = MtpNetwork
    recurrent: ClassVar[bool] = True
