"""Domino: a block drafter whose logits are corrected by a recurrent network over the tokens that were drafted.

Huang et al. 2026 (arXiv 2605.29707). The network is that of `dflash`, in which each row predicts the token behind its
own place. A GRU reads the embeddings of the last token and of each draft; from row `pure` on, a small network adds to
the logits what its state and the row say, which is nothing at first. The block is computed once, and its tokens are
chosen one after the other; the chain has `nodes` tokens. The sizes `gru` and `inner` are for small targets (the paper:
1024 and 256). Only the corrected logits are trained (the paper starts with those of the row, and shifts the weight).
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
class DominoSettings(BlockSettings):
    """Those of the block; sizes of the GRU's state and inside the correction; rows that are not corrected (`pure`)."""

    sample_from_anchor: bool = True
    gru: Annotated[int, Field(ge=1, le=4096)] = 96
    inner: Annotated[int, Field(ge=1, le=4096)] = 32
    pure: Annotated[int, Field(ge=0, le=64)] = 1


class DominoNetwork(BlockNetwork):
    """The block with the GRU, whose state follows the block in a step's state, and the row in its features."""

    Settings: ClassVar[type] = DominoSettings
    free: ClassVar[bool] = False

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.gru = nn.GRUCell(target.hidden, settings.gru, bias=False)
        self.correction = nn.Sequential(nn.Linear(target.hidden + settings.gru, settings.inner, bias=False), nn.SiLU(),
                                        output := nn.Linear(settings.inner, target.vocab, bias=False))
        nn.init.zeros_(output.weight)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The row of the block for this depth, with the GRU's state after the last of `tokens`."""
        size = self.settings.gru
        read, blocks = (tokens, state[..., :-size]) if depth else (
            tokens[:, context.wanted], self.block(state, tokens, context))
        memory = state[..., -size:] if depth else blocks.new_zeros(*read.shape, size)
        words = self.words(read)
        memory = self.gru(words.flatten(0, 1), memory.flatten(0, 1)).view_as(memory)
        return torch.cat([self.row(depth, blocks), memory], -1), torch.cat([blocks, memory], -1)

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Those of the row, and the correction."""
        found = super().logits(depth, features)
        if depth < self.settings.pure:
            return found
        correction: Tensor = self.correction(features)
        return found + correction


@dataclass(frozen=True)
class Domino(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Huang et al. 2026, arXiv 2605.29707"
    network: ClassVar[type[Network]] = DominoNetwork
