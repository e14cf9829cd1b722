"""Loop breaker: end the answer, or leave the loop, when its last tokens are one block several times over.

As `repetition_detection` in vLLM (pull request 35451), over any strategy. The answer, without the prompt, is in a loop
when it ends with `min_count` copies of a block of `min_pattern` to `max_pattern` tokens; each token is checked, short
blocks first. vLLM has no defaults; these are ours. `then` says what happens: stop ends the answer there; cut ends it
after the first copy; escape goes back to the end of the first copy, bans the token that began the second one at that
place, and goes on, at most `tries` times, then cuts. vLLM only stops.

Cut and escape hold back what repeats the text before it until it is clear whether it is a loop.
Written `speculative+loop_breaker:then=cut`; alone it is over greedy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.rewind import Verdict, Watched
from harness.errors import UserError
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class LoopBreaker(Watched):
    """Identity: `max_pattern=0` is the other strategy."""

    max_pattern: int = knob(32, "longest block, in tokens; 0 finds nothing", low=0, high=1024, sweep=(8, 32, 64))
    min_pattern: int = knob(1, "shortest block, in tokens", low=1, high=1024, sweep=(1, 4))
    min_count: int = knob(4, "copies that make a loop", low=2, high=100, sweep=(3, 4, 8))
    then: str = knob("stop", "what happens at a loop", choices=("stop", "cut", "escape"),
                     sweep=("stop", "cut", "escape"))
    tries: int = knob(8, "escapes from loops in an answer; the next loop is cut", low=0, high=10000, sweep=(1, 8, 32))

    paper: ClassVar[str] = "github.com/vllm-project/vllm/pull/35451"
    family: ClassVar[str] = "anti-repetition"

    def __post_init__(self) -> None:
        """Refuse settings that find no loop, or that find one in any doubled token."""
        super().__post_init__()
        if not self.max_pattern:
            return
        if self.min_pattern > self.max_pattern:
            raise UserError(f"loop_breaker: min_pattern={self.min_pattern} is longer than "
                            f"max_pattern={self.max_pattern}: lower it.")
        if self.min_pattern == 1 and self.min_count == 2:
            raise UserError("loop_breaker: min_pattern=1,min_count=2 would end a text at any doubled token, such as "
                            "two equal digits: raise one of them.")

    def watcher(self, request: Request) -> "Loops | None":
        """Return the watcher of one answer."""
        return Loops(self, self.tries) if self.max_pattern else None


class Loops:
    """Finds the loops of one answer; `left` is how many of them may still be escaped."""

    def __init__(self, knobs: LoopBreaker, left: int) -> None:
        self.knobs, self.left = knobs, left
        self.repeats = dict[int, int]()  # of each size, the tokens at the end that equal those so many places before

    def read(self, answer: Sequence[int]) -> list[int]:
        """Return where the second copies of what may become a loop begin; an answer that is only ended has none."""
        self.repeats = sizes(answer, self.knobs.max_pattern, self.knobs.min_pattern, self.knobs.min_count)
        return [] if self.knobs.then == "stop" else [len(answer) - count for count in self.repeats.values()]

    def verdict(self, answer: Sequence[int]) -> Verdict | None:
        """Return what to do when the answer ends in a loop."""
        size = loop(self.repeats, self.knobs.min_count)
        if size is None:
            return None
        if self.knobs.then == "stop":
            return Verdict(len(answer))
        kept = len(answer) - self.repeats[size]
        if self.knobs.then == "escape" and self.left:
            self.left -= 1
            return Verdict(kept, {kept: answer[kept]})
        return Verdict(kept)

    def cut(self, count: int) -> None:
        """Nothing is remembered of tokens."""


def sizes(tokens: Sequence[int], longest: int, shortest: int, copies: int) -> dict[int, int]:
    """Return how many tokens at the end equal the one `size` places before, for each size for which any does.

    At most those of `copies` − 1 blocks of this size are counted.
    """
    counts = {size: repeated(tokens, size, size * (copies - 1)) for size in range(shortest, longest + 1)}
    return {size: count for size, count in counts.items() if count}


def loop(repeats: Mapping[int, int], copies: int) -> int | None:
    """Return the smallest of the `sizes` whose block comes `copies` times at the end, None if there is none."""
    return next((size for size, count in repeats.items() if count == size * (copies - 1)), None)


def repeated(tokens: Sequence[int], size: int, limit: int) -> int:
    """Return how many tokens at the end, up to `limit`, equal the one `size` places before them."""
    count, place = 0, len(tokens) - 1
    while count < limit and place >= size and tokens[place] == tokens[place - size]:
        count, place = count + 1, place - 1
    return count
