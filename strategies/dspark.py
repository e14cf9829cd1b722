"""DSpark: a block drafter whose logits get a bias by the token before, so that drafts fit each other.

Cheng et al. 2026 (arXiv 2607.05147). The network is that of `dflash`, in which each row predicts the token behind its
own place. To its logits the Markov head adds W₂ W₁[previous token], a product of `rank`, which is zero at first; the
block is computed once, and its tokens are chosen one after the other. The chain has `nodes` tokens. `rank` is small
because the usual targets here are (the paper: 256). Left out: the head that tells how sure a draft is, and the gated
and recurrent variants of the bias. The loss is that of `dflash` (the paper: cross-entropy and distance of
distributions).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.heads.block import BlockNetwork, BlockSettings
from harness.heads.layer import Context
from harness.heads.network import Network, TargetParts
from strategies.drafters.headed import Chained


@dataclass(frozen=True)
class DSparkSettings(BlockSettings):
    """Those of the block, and the `rank` of the bias."""

    block: Annotated[int, Field(ge=2, le=64)] = 7
    sample_from_anchor: bool = True
    rank: Annotated[int, Field(ge=1, le=4096)] = 32


class DSparkNetwork(BlockNetwork):
    """The block with the Markov head. Features are a row of the block and W₁ of the token before."""

    Settings: ClassVar[type] = DSparkSettings
    free: ClassVar[bool] = False

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.markov_in = nn.Embedding(target.vocab, settings.rank)
        self.markov_out = nn.Linear(settings.rank, settings.draft_vocab or target.vocab, bias=False)
        nn.init.zeros_(self.markov_out.weight)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The row of the block for this depth, with W₁ of the last of `tokens`."""
        row, state = super().step(depth, state, tokens, context)
        previous = tokens if depth else tokens[:, context.wanted]
        return torch.cat([row, self.markov_in(previous)], -1), state

    def drafted(self, features: Tensor) -> Tensor:
        """Those of the row, and the bias."""
        bias: Tensor = self.markov_out(features[..., self.target.hidden:])
        return super().drafted(features) + bias


@dataclass(frozen=True)
class DSpark(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Cheng et al. 2026, arXiv 2607.05147"
    network: ClassVar[type[Network]] = DSparkNetwork
