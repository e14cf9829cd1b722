"""Base class of strategies whose drafter is a trained head of the target."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.heads.expander import Expander, HeadExpander
from harness.heads.network import Network
from harness.plugins.strategy import Need

if TYPE_CHECKING:
    from harness.models.trained_head import Head


@dataclass(frozen=True)
class Trained(Verified):
    """A method that drafts with a head, a `network` that was trained for the target.

    Its `expander` asks the network. A class that drafts with the head of another strategy names it as `head_kind`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})
    network: ClassVar[type[Network]]
    expander: ClassVar[type[Expander]] = HeadExpander

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "head_kind" not in cls.__dict__:
            cls.head_kind = cls.name

    def head(self, session: Session) -> "Head":
        """Return the head of the session's model; raises `Unsupported` if none was given."""
        head: Head | None = session.engine.heads.get(self.head_kind)
        if head is None:
            raise Unsupported(f"needs a trained head: give one with --head, or train one with 'decodebench train-head "
                              f"{self.head_kind}'")
        return head

    def steps(self, session: Session) -> Expander:
        """Return what asks the head's network for tokens."""
        return self.expander(session, self.head(session).network)
