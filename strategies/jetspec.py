"""JetSpec: a block drafter whose rows see only those before them drafts a tree in one pass.

Hu et al. 2026 (arXiv 2606.18394). The network is that of `dflash` with a causal mask inside the block, which learns the
target's distribution with equal weights for all places. The value of a path is the sum of the log-probabilities of its
places, as in `ddtree`; the `nodes` best ones are verified. Blocks are as long as those of `dflash` (the paper's:
16 tokens), and the hidden size is the target's.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.heads.block import BlockNetwork, BlockSettings
from harness.heads.network import Network, Recipe
from harness.plugins.strategy import knob
from strategies.drafters.headed import Marginal


@dataclass(frozen=True)
class JetSpecSettings(BlockSettings):
    """Those of a block that is causal."""

    causal: bool = True


class JetSpecNetwork(BlockNetwork):
    """The block, with the losses of JetSpec."""

    Settings: ClassVar[type] = JetSpecSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, decay=1.0)


@dataclass(frozen=True)
class JetSpec(Marginal):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(128, "candidates that are verified", low=1, high=512, sweep=(16, 64, 128))

    paper: ClassVar[str] = "Hu et al. 2026, arXiv 2606.18394"
    network: ClassVar[type[Network]] = JetSpecNetwork
