"""Dynamic evaluation: adapt the weights to the prompt by gradient steps, then decode with them.

Krause et al. 2017 (arXiv 1709.07432). The prompt is cut into segments of `segment` tokens. The loss of each is taken
with the weights learnt from those before it, and then a step is made on its gradient: W ← W + λ·Δ·(W0 − W) −
η·g/(MS + ε), η = `rate`, λ = `decay`, where W0 are the model's weights. With `rule=sgd` MS and Δ are 1 and ε is 0.
With `rule=rms` MS is the root mean square of each weight's gradient on other text, the lines of the file
`statistics`, and Δ is MS over its mean, at most 1/λ; the paper's values for that are `rate=5e-5,decay=0.002,segment=5`.

The paper adapts recurrent models, and its gradients end where a segment begins. Here a segment is read together with
the `context` tokens before it. The prompt is then prefilled anew, as keys and values of other weights are stale. With
`own` the answer is learnt too, after each `own` tokens of it, and the sequence is prefilled again. `parts` are the
weights that are adapted. Each sequence has a copy of them, so the model itself never changes. Forwards of gradient
steps are counted, the backward passes are not: they take about twice as long. `temperature` and `p` set the
distribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import UserError
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob
from strategies.parts.learner import PARTS, Learner, Rule, root_mean_squares


@dataclass(frozen=True)
class DynamicEvaluation(Strategy):
    """Identity: `rate=0` is `top_p` with the same knobs."""

    rate: float = knob(0.01, "learning rate", low=0, high=10, sweep=(0.0, 1e-3, 1e-2, 3e-2))
    decay: float = knob(0.0, "rate at which weights return to the model's", low=0, high=1, sweep=(0.0, 0.02))
    segment: int = knob(64, "tokens learnt in one step", low=1, high=4096, sweep=(16, 32, 64))
    context: int = knob(256, "tokens before a segment that are read with it", low=1, high=100000, sweep=(64, 256))
    own: int = knob(0, "tokens of the answer learnt in one step; 0 for none", low=0, high=4096, sweep=(0, 16))
    parts: str = knob("all", "the weights that are adapted: all, those of the last two layers, or norms",
                      choices=PARTS, sweep=PARTS)
    rule: str = knob("sgd", "how a step is scaled", choices=("sgd", "rms"))
    statistics: str = knob("", "file of texts, one a line, for rule=rms", file=True)
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "Krause et al. 2017, arXiv 1709.07432"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})
    family: ClassVar[str] = "memory"
    guarantee: ClassVar[Guarantee] = "changes-output"
    scores_given: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse `rule=rms` without text for its statistics."""
        super().__post_init__()
        if self.rule == "rms" and not self.statistics:
            raise UserError("dynamic_evaluation: rule=rms needs statistics=…, a file of texts, one a line.")

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        warp, accept = logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p)), at(self.temperature)
        if not self.rate:
            yield from one_by_one(session, accept, request, warp)
            return
        learner = self.learner(session, request)
        for _ in learner.learn(request.prompt[:request.start], 1, self.segment):
            pass
        adapted, sequence, learnt = session.new_sequence(), list(request.prompt), request.start
        adapted.shares_prefixes = False
        while True:
            if self.own and len(sequence) - learnt >= self.own:
                whole = len(sequence) - (len(sequence) - learnt) % self.own
                for _ in learner.learn(sequence[:whole], learnt, self.own):
                    adapted.follow([])
                learnt = whole
            adapted.follow(sequence)
            logits = warp(adapted.read(EMPTY, learner.hook).logits, [sequence])
            sequence.append(accept(EMPTY, logits, request.stream)[1])
            yield sequence[-1:]

    def learner(self, session: Session, request: Request) -> Learner:
        """Return the learner of one sequence, which has the weights of the model."""
        scale = root_mean_squares(session.engine, self.parts, self.segment, self.context, self.statistics,
                                  request.as_text.encode) if self.rule == "rms" else None
        return Learner(session, self.parts, self.context, Rule(self.rate, self.decay, scale))
