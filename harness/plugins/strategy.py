"""The contract of a strategy: knobs, a guarantee, requirements, and a method that yields tokens."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.engine.offers import Capability
from harness.errors import Unsupported
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.plugin import Knob, Plugin, knob, per_instance
from harness.plugins.prompt_parts import PLAIN, PromptParts

if TYPE_CHECKING:
    from harness.engine.random_stream import Stream
    from harness.engine.session import Session

__all__ = ["Guarantee", "Need", "Over", "Request", "RequestText", "Strategy", "knob"]

Guarantee = Literal["lossless", "distribution-preserving", "changes-output"]
Need = Literal["draft", "hidden"] | Capability


def _never(sequence: Sequence[int]) -> bool:
    return False


def _none(new: Sequence[int]) -> list[int]:
    return []


@dataclass(frozen=True)
class RequestText:
    """A request as text, for the few strategies that need more than token ids.

    `prompt` is the prompt of the model. `encode` tokenizes a whole prompt, `tokens` a piece of text inside a sequence;
    `decode` returns the text of tokens that follow the prompt. `answer` extracts the final answer that the task scores
    (equal strings are equal answers), None if there is none. The output must contain at least one phrase of every
    clause of `wanted`, and none of `banned`. `schema` is the JSON schema of the answer, empty if the task has none, and
    `tokenizer` that of the model, for methods that need the bytes of every token. `spelled` is `decode` that does not
    end at a stop string. `render` returns the prompt with another last message of the user, given what changes it;
    without it the prompt is no chat. `parts` is what the task knows about the make-up of the prompt.
    """

    prompt: str
    encode: Callable[[str], list[int]]
    tokens: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    answer: Callable[[str], str | None]
    wanted: tuple[tuple[str, ...], ...] = ()
    banned: tuple[str, ...] = ()
    schema: str = ""
    tokenizer: Any = None
    spelled: Callable[[Sequence[int]], str] | None = None
    render: Callable[[Callable[[str], str]], str] | None = None
    parts: PromptParts = PLAIN

    def spell(self, tokens: Sequence[int]) -> str:
        """Return the text of any tokens, stop strings included."""
        return (self.spelled or self.decode)(tokens)

    def edited(self, edit: Callable[[str], str]) -> "RequestText":
        """Return the request with the prompt, or in a chat the last message of the user, replaced by `edit` of it."""
        if render := self.render:
            return replace(self, prompt=render(edit), render=lambda more: render(lambda text: more(edit(text))))
        return replace(self, prompt=edit(self.prompt))


@dataclass(frozen=True)
class Request:
    """A prompt to continue, as token ids, with its limits and random streams.

    `stream` is the random stream of this sample, `shared` one for all samples of the prompt. The runner cuts off what
    a strategy yields after the end, so only searches, which must know where a hypothesis ends, call `ends`. `forced`
    returns the tokens that must follow an answer because a grammar leaves no choice; none without a grammar. The last
    `kept` tokens of `prompt` already belong to the answer, if a strategy lets another one go on behind them. Of a model
    with an encoder, `source` is what the encoder reads, and `prompt` only the tokens with which each answer begins.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stream: "Stream"
    eos: frozenset[int] = frozenset()
    sample: int = 0
    stopped: Callable[[Sequence[int]], bool] = field(default=_never)
    text: RequestText | None = None
    shared: "Stream | None" = None
    forced: Callable[[Sequence[int]], list[int]] = field(default=_none)
    kept: int = 0
    source: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        """Return the index at which the answer begins in the sequence."""
        return len(self.prompt) - self.kept

    @property
    def common(self) -> "Stream":
        """Return the random stream that all samples of this prompt share; a single sample has one stream only."""
        return self.shared or self.stream

    @property
    def as_text(self) -> RequestText:
        """Return the request as text; raises `Unsupported` if only token ids are known."""
        if self.text is None:
            raise Unsupported("needs the prompt as text, but only its token ids are known")
        return self.text

    def ends(self, new: Sequence[int]) -> bool:
        """Return whether the continuation `new` (token ids after the prompt) ends with EOS or a stop string."""
        return new[-1] in self.eos or self.stopped(new)

    def behind(self, new: Sequence[int]) -> "Request":
        """Return the request for the rest of the answer behind the tokens `new`, which then count as kept."""
        if not new:
            return self
        before, text = tuple(new), self.text
        if text is not None:
            decode = text.decode
            text = replace(text, decode=lambda tokens: decode([*before, *tokens]), spelled=text.spell)
        return replace(self, prompt=(*self.prompt, *before), kept=self.kept + len(before), text=text,
                       max_new_tokens=self.max_new_tokens - len(before),
                       stopped=lambda tokens: self.stopped([*before, *tokens]))


@dataclass(frozen=True)
class Strategy(Plugin):
    """A decoding strategy: chooses the next tokens from the model's distributions.

    `paper` is its source, `family` its group in reports, and `guarantee` what holds for its output. `needs` lists what
    the set-up must provide. A `stateful` strategy learns across prompts. `head_kind` is the kind of the trained head
    that it drafts with, if it does, and `drafts_with` what a draft model must offer. A strategy that `translates` can
    draft with a model of another vocabulary. One that `scores_given` chooses each token by the distribution after the
    tokens before it, without drafts, so that a given text can take the place of its choices.
    """

    paper: ClassVar[str]
    family: ClassVar[str]
    guarantee: ClassVar[Guarantee]
    needs: ClassVar[frozenset[Need]] = frozenset()
    stateful: ClassVar[bool] = False
    head_kind: ClassVar[str] = ""
    drafts_with: ClassVar[Capability] = "causal"
    translates: ClassVar[bool] = False
    scores_given: ClassVar[bool] = False

    @abstractmethod
    def generate(self, session: "Session", request: Request) -> Iterator[Sequence[int]]:
        """Yield the token ids committed at each step, without end: the caller stops."""

    def at(self, temperature: float) -> "Strategy":
        """Return the strategy for an example with a temperature of its own; only plain sampling obeys it."""
        return self

    def max_samples(self) -> int | None:
        """Return the maximum number of different samples of a prompt (the width of a beam), None without a limit."""
        return None

    def native(self, options: NativeOptions) -> NativeCall:
        """Return the call that makes an engine decode in the same way; raises `Unsupported` if there is none."""
        if call := options(self):
            return call
        raise Unsupported("vLLM has no equivalent; run it with --backend transformers")


@dataclass(frozen=True)
class Over(Strategy):
    """A strategy that wraps another one, `over`; its spec is `OTHER:k=v+NAME:k=v`.

    `default_over` is the spec of the wrapped strategy if none is given. The pair needs what either needs.
    """

    over: Strategy = field(kw_only=True)

    default_over: ClassVar[str] = "greedy"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        needs, stateful, kind = cls.needs, cls.stateful, cls.head_kind
        cls.needs = per_instance(needs, lambda self: needs | self.over.needs)
        cls.stateful = per_instance(stateful, lambda self: stateful or self.over.stateful)
        cls.head_kind = per_instance(kind, lambda self: kind or self.over.head_kind)
        cls.translates = per_instance(False, lambda self: self.over.translates)
        cls.drafts_with = per_instance(cls.drafts_with, lambda self: self.over.drafts_with)

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Return the knobs of this strategy, without those of the wrapped one."""
        return {name: about for name, about in super().knobs().items() if name != "over"}

    def spec(self) -> str:
        """Return the spec of both strategies, the wrapped one first."""
        return f"{self.over.spec()}+{super().spec()}"

    def files(self) -> dict[str, Path]:
        """Return the files of both strategies; those of the wrapped one have its name as prefix."""
        return {f"{self.over.name}.{key}": path for key, path in self.over.files().items()} | super().files()

    def max_samples(self) -> int | None:
        """Return the maximum of the wrapped strategy."""
        return self.over.max_samples()
