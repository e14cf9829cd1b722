"""DDTree: the rows of a block drafter become a tree, whose paths have the highest products of probabilities.

Ringel and Romano 2026 (arXiv 2604.12989). One pass of the head of `dflash` gives a distribution for each place of the
block. As places do not see each other's tokens, a path's probability is the product of those on it: of all paths the
`nodes` best ones are verified, found with a heap from which the best is taken and its next sibling and first child put
back. Branches cost the drafter nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.heads.block import BlockNetwork
from harness.heads.network import Network
from strategies.drafters.headed import Marginal


@dataclass(frozen=True)
class DDTree(Marginal):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Ringel and Romano 2026, arXiv 2604.12989"
    network: ClassVar[type[Network]] = BlockNetwork
    head_kind: ClassVar[str] = "dflash"
