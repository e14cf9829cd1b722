"""DFlash: one pass over the last token and masks drafts a whole block, with the target's hidden states as context.

Chen et al. 2026 (arXiv 2602.06036). States of several layers of the target (`taps`), joined by a linear map and normed,
are keys and values of every layer of the drafter; the rows of a block see each other and all of them. The target's
embedding and output layer are used as they are. The chain has `nodes` tokens, each from its own row: they do not see
each other, so above temperature 0 each is drawn from its own distribution. The network is smaller than the paper's
(5 layers, blocks of 16 tokens), the mask is a learned vector, and it learns the target's distribution with weights
e^(−k/4) by place (the paper: its tokens), behind every fourth token.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.heads.block import BlockNetwork
from harness.heads.network import Network
from strategies.drafters.headed import Chained


@dataclass(frozen=True)
class DFlash(Chained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Chen et al. 2026, arXiv 2602.06036"
    network: ClassVar[type[Network]] = BlockNetwork
