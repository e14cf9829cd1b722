"""Instructive decoding: contrast the logits with those after a prompt with a wrong instruction.

Kim et al. 2023 (arXiv 2311.00233). The scores are the logits after the prompt minus `epsilon` times those after a
prompt with a noisy instruction; the same tokens follow both. `noise` is none (no instruction), shuffled (its words
without the share `dropped`, in a random order), random (an unrelated word) or opposite (asks for the opposite). The
instruction is the first paragraph of a prompt, else its first line, else all of it. When the authors' code samples, it
appends different tokens to the two prompts; here both get the same.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.contrast import Contrast, Scorer, away
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.parts.second_prompt import NOISES, against, second


@dataclass(frozen=True)
class Instructive(Contrast):
    """`epsilon=0` is `greedy`; at temperature 0 it is `guidance` with `scale` 1 / (1 − `epsilon`)."""

    epsilon: float = knob(0.3, "weight of the noisy instruction; 0 is greedy", low=0, high=0.99,
                          sweep=(0.1, 0.2, 0.3, 0.4, 0.5))
    noise: str = knob("opposite", "replacement of the instruction", choices=NOISES, sweep=NOISES)
    dropped: float = knob(0.6, "share of the words that noise=shuffled leaves out", low=0, high=1)

    paper: ClassVar[str] = "Kim et al. 2023, arXiv 2311.00233"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence after both prompts."""
        prompt = second(request, self.noise, self.dropped, session.engine.max_len)
        return against(session, request, prompt, lambda plus, minus: away(plus, minus, self.epsilon))
