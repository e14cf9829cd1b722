"""Networks of one layer that go on from their own predictions."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from harness.heads.network import Network


@dataclass(frozen=True)
class UnrolledSettings:
    """`unroll` steps are predicted from predicted states while training; sizes of the layer, 0 for the target's."""

    unroll: Annotated[int, Field(ge=1, le=16)] = 4
    heads: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0


class Unrolled(Network):
    """Has a layer with one cache, and `UnrolledSettings`."""

    @property
    def depth(self) -> int:
        """The depth of the training; drafts may be deeper."""
        return int(self.settings.unroll)

    @property
    def caches(self) -> int:
        """That of the layer."""
        return 1
