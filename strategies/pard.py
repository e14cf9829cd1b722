"""PARD: a small language model drafts several tokens in one pass, from mask tokens behind the text.

An et al. 2025 (arXiv 2504.18583). The drafter is a transformer with embeddings and an output layer of its own, which
start as the target's. Behind the text come rows of a learned mask, which attend to the text and to the masks before
them; each predicts one more token. It reads no states of the target, and learns tokens. With `states` it is that of
PARD-2 (arXiv 2605.08632): a projection of states of several layers (`taps`), times 0.02, is added to the embeddings
(there they are left out of one text in five while training, so that the drafter works without a target too, and it
learns distributions). The chain has `nodes` tokens. The first token of the text is not read. All places of every
fourth token are trained; the paper trains all tokens, and of depth i a random share of 0.7ⁱ, which is the weight of
its loss here. Published weights of PARD are ordinary models of other sizes than the target's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.engine.hooks import HIDDEN
from harness.heads.blocks import output_like
from harness.heads.network import Network, Recipe, TargetParts
from harness.heads.parallel import ParallelNetwork, ParallelSettings
from harness.heads.taps import taps
from strategies.drafters.headed import Chained

SHARE = 0.02  # of the projected states


@dataclass(frozen=True)
class PardSettings(ParallelSettings):
    """Those of the layers; `states`: whether states of the target are read."""

    states: bool = False


class PardNetwork(ParallelNetwork):
    """A transformer of ordinary layers."""

    Settings: ClassVar[type] = PardSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, target=0.0, decay=0.7)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        size = target.hidden
        self.embedding, self.output = nn.Embedding(target.vocab, size), output_like(target)
        self.projection = nn.Linear(len(self.reads) * size, size, bias=False) if settings.states else None
        with torch.no_grad():
            self.embedding.weight.copy_(target.embedding(torch.arange(target.vocab, device=target.head.weight.device)))
            self.mask = nn.Parameter(torch.randn(size) * self.embedding.weight.float().std())

    @property
    def reads(self) -> tuple[str, ...]:
        """The taps; without `states` the last states, which are not used."""
        return taps(self.target.layers, self.settings.taps) if self.settings.states else (HIDDEN,)

    def rows(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings, and with a projection a little of the states."""
        words: Tensor = self.embedding(tokens)
        return words if self.projection is None else words + SHARE * self.projection(states)

    def masks(self, shape: Sequence[int]) -> Tensor:
        """The learned one."""
        return self.mask.expand(*shape, -1)

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Those of the own output layer."""
        found: Tensor = self.output(features)
        return found


@dataclass(frozen=True)
class Pard(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "An et al. 2025, arXiv 2504.18583"
    network: ClassVar[type[Network]] = PardNetwork
