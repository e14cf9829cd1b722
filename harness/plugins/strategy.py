"""The contract of a strategy: knobs, what it promises, what it needs, and one method that yields tokens."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.errors import Unsupported
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.plugin import Knob, Plugin, decided, knob

if TYPE_CHECKING:
    from harness.engine.random_stream import Stream
    from harness.engine.session import Session

__all__ = ["Guarantee", "Need", "Over", "Request", "RequestText", "Strategy", "knob"]

Guarantee = Literal["lossless", "distribution-preserving", "changes-output"]
Need = Literal["draft", "hidden"]


def _never(text: Sequence[int]) -> bool:
    return False


@dataclass(frozen=True)
class RequestText:
    """A request as text, for the few strategies that must read it.

    `prompt` is what the model reads. `encode` gives the token ids of another prompt, `tokens` those of text in the
    middle, `decode` the text of tokens that follow the prompt. `answer` is what the task reads off an answer (equal
    strings are one answer), None when it reads nothing. Of every clause of `wanted` at least one phrase must occur,
    and none of `banned`.
    """

    prompt: str
    encode: Callable[[str], list[int]]
    tokens: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    answer: Callable[[str], str | None]
    wanted: tuple[tuple[str, ...], ...] = ()
    banned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One text to continue.

    `prompt` holds token ids. `stream` is the randomness of this sample alone, `common` what all samples of the prompt
    share, for a strategy that draws them together. A strategy may yield past the end: the runner cuts. Only a search
    that must know where a hypothesis ends asks `ends`, and only one that cannot do with token ids asks for `as_text`.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stream: "Stream"
    eos: frozenset[int] = frozenset()
    sample: int = 0
    stopped: Callable[[Sequence[int]], bool] = field(default=_never)
    text: RequestText | None = None
    shared: "Stream | None" = None

    @property
    def common(self) -> "Stream":
        """The randomness that all samples of this prompt share; that of the sample where it is the only one."""
        return self.shared or self.stream

    @property
    def as_text(self) -> RequestText:
        """The request as text; raises `Unsupported` where there is none."""
        if self.text is None:
            raise Unsupported("needs the prompt as text, and is given token ids only")
        return self.text

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

    def at(self, temperature: float) -> "Strategy":
        """What answers where the task sets a temperature: this strategy, unless it is plain sampling left as it is."""
        return self

    def most_samples(self) -> int | None:
        """How many different samples one prompt can give (a beam's width); None when there is no limit."""
        return None

    def native(self, options: NativeOptions) -> NativeCall:
        """How another engine does the same, from the `options` that it has; raises `Unsupported` with the reason."""
        if call := options(self):
            return call
        raise Unsupported("vLLM has nothing like it; run it with --backend transformers")


@dataclass(frozen=True)
class Over(Strategy):
    """A strategy that works on what another one, `over`, does; written `OTHER:k=v+NAME:k=v`.

    `usual` is the other one's spec where none is named. The two together need what each needs.
    """

    over: Strategy = field(kw_only=True)

    usual: ClassVar[str] = "greedy"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        needs, stateful = cls.needs, cls.stateful
        cls.needs = decided(needs, lambda self: needs | self.over.needs)
        cls.stateful = decided(stateful, lambda self: stateful or self.over.stateful)

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Its own knobs, without those of the other strategy."""
        return {name: about for name, about in super().knobs().items() if name != "over"}

    def spec(self) -> str:
        """Both identities, the other one's first."""
        return f"{self.over.spec()}+{super().spec()}"

    def files(self) -> dict[str, Path]:
        """Those of both, the other one's under its name."""
        return {f"{self.over.name}.{key}": path for key, path in self.over.files().items()} | super().files()

    def most_samples(self) -> int | None:
        """As many as the other strategy gives."""
        return self.over.most_samples()
