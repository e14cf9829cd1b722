"""The contract of a strategy: knobs, what it promises, what it needs, and one method that yields tokens."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.plugin import Plugin, knob

if TYPE_CHECKING:
    from harness.decoding.draw import Stream
    from harness.decoding.session import Session

__all__ = ["Guarantee", "Need", "Request", "Strategy", "knob"]

Guarantee = Literal["lossless", "exact-law", "changes-output"]
Need = Literal["draft", "hidden"]


def _never(text: Sequence[int]) -> bool:
    return False


@dataclass(frozen=True)
class Request:
    """One text to continue.

    `prompt` holds token ids. `stream` is the randomness of this sample alone. A strategy may yield past the end:
    the runner cuts. Only a search that must know where a hypothesis ends asks `ends`.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stream: "Stream"
    eos: frozenset[int] = frozenset()
    sample: int = 0
    stopped: Callable[[Sequence[int]], bool] = field(default=_never)

    def ends(self, new: Sequence[int]) -> bool:
        """Whether the continuation `new` (token ids after the prompt) ends with EOS or a stop string."""
        return new[-1] in self.eos or self.stopped(new)


@dataclass(frozen=True)
class Strategy(Plugin):
    """Turns next-token distributions into text.

    `paper` is where it comes from, `family` groups it in reports, `guarantee` is what it promises about the output,
    `needs` what the set-up must provide, and `stateful` whether it learns across prompts.
    """

    paper: ClassVar[str]
    family: ClassVar[str]
    guarantee: ClassVar[Guarantee]
    needs: ClassVar[frozenset[Need]] = frozenset()
    stateful: ClassVar[bool] = False

    @abstractmethod
    def generate(self, session: "Session", request: Request) -> Iterator[Sequence[int]]:
        """Yield the token ids committed at each step, for as long as the caller asks."""

    def most_samples(self) -> int | None:
        """How many different samples one prompt can give (a beam's width); None when there is no limit."""
        return None
