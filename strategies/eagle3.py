"""EAGLE-3: the layer of EAGLE reads low, middle and high states of the target, and learns tokens alone, not states.

Li et al. 2025 (arXiv 2503.01840). The states of three layers (`taps`) are joined by `fc`; attention reads them side by
side with the embedding of the token that follows, both normed, and drafting goes on from the layer's own outputs. While
training, each of `unroll` steps attends to the true sequence and to the earlier steps at its own place, as in drafting
("training-time test"). The output layer is the head's own, over `draft_vocab` tokens if that is not 0: the first ones,
or those that a loaded head lists. The tree is that of `eagle2`, two levels deeper. EAGLE-3.1 norms each tap (`fc_norm`)
and goes on from normed outputs (`norm_output`). Where the likeliest token is never drafted, the authors do not train;
here the distribution over the drafted ones is learnt.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.errors import UserError
from harness.heads.layer import Attention, Context, Mlp, Shape
from harness.heads.network import Network, Recipe, TargetParts
from harness.heads.own_output import OwnOutput
from harness.heads.taps import taps
from harness.heads.unrolled import Unrolled, UnrolledSettings
from harness.plugins.strategy import knob
from strategies.drafters.headed import Grown


@dataclass(frozen=True)
class Eagle3Settings(UnrolledSettings):
    """Those of the layer; `draft_vocab` tokens, 0 for all.

    `taps` are layers as in "2-5-7". Norms: of queries and keys (`normed`), of each tap (`fc_norm`) or of all together
    (`norm_before_fc`), of the states that steps go on from (`norm_output`) and of those that the attention's result is
    added to (`norm_before_residual`).
    """

    unroll: Annotated[int, Field(ge=1, le=16)] = 7
    draft_vocab: Annotated[int, Field(ge=0)] = 0
    taps: str = ""
    normed: bool = False
    fc_norm: bool = False
    norm_before_fc: bool = False
    norm_output: bool = False
    norm_before_residual: bool = False


class Eagle3Network(OwnOutput, Unrolled):
    """fc(taps), then a decoder layer whose attention reads [norm(embedding); norm(state)]."""

    Settings: ClassVar[type] = Eagle3Settings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        if settings.fc_norm and settings.norm_before_fc:
            raise UserError("The settings 'fc_norm' and 'norm_before_fc' of the head exclude each other.")
        shape, size, count = Shape.of(target.config, settings.heads, settings.mlp), target.hidden, len(self.reads)
        self.fc_norm = nn.ModuleList(nn.RMSNorm(size, shape.eps) for _ in range(count if settings.fc_norm else 0))
        self.before_norm = nn.RMSNorm(count * size, shape.eps) if settings.norm_before_fc else nn.Identity()
        self.fc = nn.Linear(count * size, size, bias=False)
        self.word_norm, self.state_norm, self.mlp_norm, self.norm = (nn.RMSNorm(size, shape.eps) for _ in range(4))
        self.attention, self.mlp = Attention(shape, 2 * size, settings.normed), Mlp(shape)
        self.output = self.own_output()

    @property
    def reads(self) -> tuple[str, ...]:
        """The taps."""
        return taps(self.target.layers, self.settings.taps)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the normed states after `tokens`."""
        state = state if depth else self._joined(state)
        normed = self.state_norm(state)
        read = torch.cat([self.word_norm(self.target.embedding(tokens)), normed], -1)
        x = (normed if self.settings.norm_before_residual else state) + self.attention(read, context, context.caches[0])
        x = x + self.mlp(self.mlp_norm(x))
        features = self.norm(x)
        return features, features if self.settings.norm_output else x

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of all tokens; those that are not drafted get the lowest number."""
        return self.spread(self.output(features))

    def _joined(self, states: Tensor) -> Tensor:
        """(B, Q, n · D) → (B, Q, D)."""
        if self.fc_norm:
            parts = states.chunk(len(self.fc_norm), -1)
            states = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], -1)
        found: Tensor = self.fc(self.before_norm(states))
        return found


@dataclass(frozen=True)
class Eagle3(Grown):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    depth: int = knob(8, "levels of the tree", low=1, high=32, sweep=(3, 6, 8))

    paper: ClassVar[str] = "Li et al. 2025, arXiv 2503.01840"
    network: ClassVar[type[Network]] = Eagle3Network
