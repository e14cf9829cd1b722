"""Extended decoding: the prompt ends in a queue of tokens, which is read from the front and written at the end.

Schuurmans et al. 2024 (arXiv 2410.03170, extended autoregressive decoding). Each step reads the first `window` tokens
of the queue, after the rest of the prompt and before the text `arrow`; what the model answers is appended to the queue,
from whose front `advance` tokens are then dropped. With a window of two tokens this is a Lag system (Wang 1963), which
can compute everything; decoding within a context window alone cannot.

The queue is the last line of the prompt, one token a symbol; the lines before it, which may state rules such as
`01->0`, are read at every step. The answer of a step goes up to EOS or a stop string, which are not appended, and has
at most `longest` tokens. The output is all that was appended. It ends when fewer than `window` tokens are left, or
after `steps` steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from harness.decoding.samples import whole
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.strategy import Need, Over, Request, knob
from strategies.parts.own_prompt import check_last


@dataclass(frozen=True)
class ExtendedDecoding(Over):
    """Identity: `window=0,advance=0,longest=1` is the other strategy if that is greedy."""

    window: int = knob(2, "tokens of the queue that a step reads; 0 for all", low=0, high=100000, sweep=(0, 2, 3))
    advance: int = knob(1, "tokens that a step drops", low=0, high=100000, sweep=(0, 1, 2))
    longest: int = knob(8, "tokens that a step appends at most", low=1, high=100000, sweep=(1, 2, 8))
    steps: int = knob(10000, "steps at most", low=1, high=10**7)
    arrow: str = knob("", "text between the window and the answer, such as ->")

    paper: ClassVar[str] = "Schuurmans et al. 2024, arXiv 2410.03170"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})
    family: ClassVar[str] = "memory"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield what each step appends; nothing where the answer is empty."""
        check_last(session, self.name)
        rest, queue = parted(request)
        arrow = request.as_text.tokens(self.arrow) if self.arrow else []
        for _ in range(self.steps):
            if len(queue) < max(1, self.window):
                return
            prompt = (*rest, *(queue[:self.window] if self.window else queue), *arrow)
            limit = max(1, min(self.longest, session.engine.max_len - len(prompt)))
            answer = whole(session, replace(request, prompt=prompt, max_new_tokens=limit), self.over)
            new = answer[:-1] if request.ends(answer) else answer
            if not new and not self.advance:
                yield answer  # the queue would stay as it is: the answer ends, as it does in plain decoding
                return
            queue = [*queue, *new][self.advance:]
            yield new


def parted(request: Request) -> tuple[list[int], list[int]]:
    """Return the token ids before the last line of the prompt, and those of that line.

    Raises `Unsupported` where the tokens of the queue are not the end of the prompt.
    """
    if request.kept:
        raise Unsupported("cannot go on behind a part of an answer, whose queue is not known: put it first in the spec")
    prompt, text = list(request.prompt), request.as_text
    if text.edited(lambda message: f"{message}\n").prompt != f"{text.prompt}\n":
        raise Unsupported("needs a prompt that ends in the queue, and this chat does not end in the user's message")
    before = text.prompt[:text.prompt.rfind("\n") + 1]
    rest = text.encode(before) if before else []
    if prompt[:len(rest)] != rest or len(prompt) == len(rest):
        raise Unsupported("needs a prompt whose last line is the queue, in tokens of its own")
    return rest, prompt[len(rest):]
