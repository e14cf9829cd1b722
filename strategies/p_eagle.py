"""P-EAGLE: the layers of EAGLE-3 draft all tokens in one pass, with learned vectors where states and tokens lack.

Hui et al. 2026 (arXiv 2602.01469). As in EAGLE-3, rows hold the embedding of a token and the target's states before
it, those of several layers (`taps`) joined by `fc`. Behind the last row come rows of a learned embedding and learned
states, which attend to the sequence and to those before them; each predicts one more token. The output layer is the
head's own, or with `own` off the target's. The chain has `nodes` tokens. The network has fewer layers than the paper's
(4). All places of every fourth token are trained; the paper trains all tokens, and of depth i a random share of 0.7ⁱ,
which is the weight of its loss here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.heads.network import Network, Recipe, TargetParts
from harness.heads.own_output import OwnOutput
from harness.heads.parallel import ParallelNetwork, ParallelSettings
from harness.heads.taps import taps
from strategies.drafters.headed import Chained


@dataclass(frozen=True)
class PEagleSettings(ParallelSettings):
    """Those of the layers; `own`: whether there is an output layer of its own, for `draft_vocab` tokens, 0 for all."""

    own: bool = True
    draft_vocab: Annotated[int, Field(ge=0)] = 0


class PEagleNetwork(OwnOutput, ParallelNetwork):
    """The first layer reads [norm(embedding); norm(fc(taps))], the others are ordinary ones."""

    Settings: ClassVar[type] = PEagleSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, decay=0.7)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings, wide=True)
        size, count = target.hidden, len(self.reads)
        self.fc = nn.Linear(count * size, size, bias=False)
        self.mask, self.mask_hidden = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(count * size))
        self.output = self.own_output() if settings.own or settings.draft_vocab else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The taps."""
        return taps(self.target.layers, self.settings.taps)

    def rows(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings and joined states."""
        return torch.cat([self.target.embedding(tokens), self.fc(states)], -1)

    def masks(self, shape: Sequence[int]) -> Tensor:
        """The learned ones."""
        return torch.cat([self.mask, self.fc(self.mask_hidden)]).expand(*shape, -1)

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Those of the output layer."""
        return self.spread(self.output(features) if self.output else self.target.logits(features))


@dataclass(frozen=True)
class PEagle(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Hui et al. 2026, arXiv 2602.01469"
    network: ClassVar[type[Network]] = PEagleNetwork
