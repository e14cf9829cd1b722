r"""DRY: penalise the token that would extend a repeat, the more the longer the repeat is, in any strategy.

p-e-w 2024 (oobabooga/text-generation-webui, pull request 5677). Where the last ℓ ≥ `allowed` tokens of the sequence
also occur earlier in it, the token that followed there loses `multiplier` · `base`^(ℓ − `allowed`) of its logit. The
prompt counts. `last` is how many tokens are searched: all in the original, 64 in recent llama.cpp.

No repeat reaches back over a breaker, such as the line ends and colons of a chat; `breakers` are strings separated by
`;`, or none. They are found in the text, where koboldcpp looks for their tokens. A token that contains a breaker is
never penalised. The default list has not been checked against the original. Tasks that copy are hurt on purpose. A
loop shorter than `allowed` tokens begins unpunished. Written `top_p+dry:multiplier=0.8`; alone it is over greedy.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import penalty
from harness.decoding.penalty import Penalty
from harness.engine.logit_warps import Warp
from harness.errors import Unsupported
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Request, knob
from strategies.parts.phrases import Breakers, inline


@dataclass(frozen=True)
class Dry(Penalty):
    """Identity: `multiplier=0`, or an `allowed` that no repeat reaches, is the other strategy.

    With `base=1`, no breakers and a huge `multiplier`, `allowed=n-1` is `no_repeat_ngram:n`.
    """

    multiplier: float = knob(0.8, "penalty of a repeat of allowed tokens; 0 changes nothing", low=0, high=1e9,
                             sweep=(0.4, 0.8, 1.6))
    base: float = knob(1.75, "factor for each further token of the repeat", low=1, high=100, sweep=(1.5, 1.75, 2.0))
    allowed: int = knob(2, "shortest repeat that counts, in tokens", low=1, high=10000, sweep=(2, 3, 4))
    last: int = knob(0, "tokens at the end of the sequence that are searched; 0 for all", low=0, high=10**6,
                     sweep=(64, 0))
    breakers: str | None = knob('\\n;:;";*', "strings that no repeat reaches over, with ; between them, or none")

    paper: ClassVar[str] = "p-e-w 2024, github.com/oobabooga/text-generation-webui/pull/5677"

    def __post_init__(self) -> None:
        """Raise `UserError` for an escape in `breakers` that does not exist."""
        super().__post_init__()
        inline(self.breakers)

    def warp(self, start: int) -> Warp:
        """Return the logit warp without breakers."""
        return penalty.dry(self.multiplier, self.base, self.allowed, self.last)

    def request_warp(self, request: Request) -> Warp:
        """Return the logit warp with the breakers, which need the text of tokens."""
        strings = inline(self.breakers)
        if not strings or not self.multiplier:
            return self.warp(request.start)
        return penalty.dry(self.multiplier, self.base, self.allowed, self.last,
                           Breakers(strings, request.as_text.spell))

    def native(self, options: NativeOptions) -> NativeCall:
        """Run the logit warp in the engine, which has no text of tokens for breakers."""
        if inline(self.breakers):
            raise Unsupported("the breakers of dry need the text of tokens, which vLLM does not give: set "
                              "breakers=none, or run it with --backend transformers")
        return super().native(options)
