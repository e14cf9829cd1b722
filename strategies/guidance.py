"""Classifier-free guidance: favour tokens that the prompt makes likelier than a second, weaker prompt does.

Sanchez et al. 2023 (arXiv 2306.17806). The scores are log q + `scale`·(log p − log q), p after the prompt and q after a
second one; the same tokens follow both. `negative` is that second prompt: last (the last token of the prompt,
as in the paper and in transformers), or the prompt with noise for an instruction as in `instructive`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.contrast import Contrast, Scorer, away
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.parts.second_prompt import NOISES, against, second


@dataclass(frozen=True)
class Guidance(Contrast):
    """`scale=1` is `greedy`; at temperature 0 it is `instructive` with `epsilon` 1 − 1 / `scale`."""

    scale: float = knob(1.5, "guidance scale; 1 is greedy", low=0, high=100, sweep=(1.1, 1.25, 1.5, 2.0, 3.0),
                        also="guidance_scale")
    negative: str = knob("last", "the second prompt", choices=("last", *NOISES), sweep=("last", *NOISES))
    dropped: float = knob(0.6, "share of the words that negative=shuffled leaves out", low=0, high=1)

    paper: ClassVar[str] = "Sanchez et al. 2023, arXiv 2306.17806"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})

    def scores(self, plus: Tensor, minus: Tensor) -> Tensor:
        """Compute (V,) scores from the logits after either prompt."""
        return away(plus.log_softmax(-1), minus.log_softmax(-1), self.scale - 1, self.scale)

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence after both prompts."""
        prompt = request.prompt[:request.start][-1:] if self.negative == "last" else \
            second(request, self.negative, self.dropped, session.engine.max_len)
        return against(session, request, prompt, self.scores)
