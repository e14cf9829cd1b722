"""Jacobi decoding: guess a block, verify it in one forward, and replace every guess by the model's prediction.

Santilli et al. 2023 (arXiv 2305.10427). What the model confirms is committed and the block slides on; the other guesses
are better ones for the next step. `block` guesses are in flight; `init` fills places that have none yet with the last
token, with the prompt's tokens in order, or with tokens drawn from the prompt. `temperature` and `p` set the
distribution, which chosen guesses preserve exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Request, knob


class Guesses:
    """Drafts what the model predicted in the last step after each guess that was not accepted."""

    def __init__(self, block: int, init: str, request: Request) -> None:
        self.block, self.init, self.request, self.likeliest = block, init, request, 1

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of at most `limit` guesses."""
        count = min(self.block, limit)
        guesses = last.best[len(last.path) + 1:]  # the row before these gave the committed token
        guesses += [self._first(text, place) for place in range(len(guesses), count)]
        return TokenTree.chain(guesses[:count])

    def _first(self, text: Sequence[int], place: int) -> int:
        """The first guess for the token at `place` + 1 after the sequence."""
        prompt = self.request.prompt
        if self.init == "last":
            return text[-1]
        if self.init == "prompt":
            return prompt[(len(text) - len(prompt) + place) % len(prompt)]
        return prompt[self.request.stream.choose(torch.ones(len(prompt)))]


@dataclass(frozen=True)
class Jacobi(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    block: int = knob(16, "guesses per step", low=1, high=256, sweep=(8, 16, 32))
    init: str = knob("last", "initial guess for each position", choices=("last", "prompt", "random"),
                     sweep=("last", "prompt", "random"))

    paper: ClassVar[str] = "Santilli et al. 2023, arXiv 2305.10427"

    def drafter(self, session: Session, request: Request) -> Guesses:
        """The model itself, one iteration ago."""
        return Guesses(self.block, self.init, request)
