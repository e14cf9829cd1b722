"""Contrastive decoding: a large model's log p minus a small model's, among the large one's likely tokens.

Li et al. 2022 (arXiv 2210.15097); `variant` "cd2" is O'Brien and Lewis 2023 (arXiv 2309.09117). The draft model is the
amateur. Only tokens with at least `alpha` times the expert's highest probability count; their score is
log p − `beta`·log q, q being the amateur at temperature `tau`, and a beam of `width` looks for the highest sum (1:
one token a step). With `context` "last" the amateur sees only the prompt's last token, as in the paper.

"official" is the authors' code: log q is divided by `tau` and not normalised again; `alpha` is ignored at `width` 1
and temperature 0; a beam keeps at least two tokens and chooses among the 2·`width` likeliest next tokens of all its
hypotheses. Their sequences have a fixed length; here EOS must be plausible like any token. "cd2" scores
(1 + `beta`)·log p − `beta`·log q; its authors use `beta` .5, `tau` 1, `width` 1 and `context` "all".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

from torch import Tensor

from harness.decoding.contrast import Contrast, Scored, Scorer, away, plausible
from harness.decoding.search import Beams, Hypothesis, best, divisor, walk
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Need, Request, knob

VARIANTS = ("paper", "official", "cd2")


@dataclass(frozen=True)
class ContrastiveDecoding(Contrast):
    """`beta=0,width=1` is `greedy`, and so is `alpha=1,width=1` except for "official", which ignores that `alpha`."""

    width: int = knob(5, "beams; 1 takes one token a step", low=1, high=256, sweep=(1, 5), also="num_beams")
    alpha: float = knob(0.1, "share of the highest probability that a token needs", low=0, high=1,
                        sweep=(0.05, 0.1, 0.2))
    beta: float = knob(1.0, "weight of the amateur; 0 is the expert alone", low=0, high=10, sweep=(0.25, 0.5, 1.0))
    tau: float = knob(0.5, "the amateur's temperature", low=0.01, high=100, sweep=(0.5, 1.0, 1.5))
    context: str = knob("last", "how much of the prompt the amateur sees: the last token, or all", choices=(
        "last", "all"), sweep=("last", "all"))
    variant: str = knob("paper", "whose formula", choices=VARIANTS, sweep=VARIANTS)

    paper: ClassVar[str] = "Li et al. 2022, arXiv 2210.15097"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        """Refuse to sample in a beam."""
        super().__post_init__()
        if self.width > 1 and self.temperature:
            raise UserError("contrastive_decoding: beam search cannot sample; for a temperature above 0 set width=1.")

    def scores(self, expert: Tensor, amateur: Tensor) -> Tensor:
        """Compute (…, V) scores from the logits of both; −∞ where a token is too unlikely for the expert."""
        p, official = expert.double().log_softmax(-1), self.variant == "official"
        q = amateur.double().log_softmax(-1) / self.tau
        if not official:
            q = q.log_softmax(-1)
        alpha = 0.0 if official and self.width == 1 and not self.temperature else self.alpha
        scores = away(p, q, self.beta, 1 + self.beta if self.variant == "cd2" else 1)
        return scores.masked_fill(~plausible(p, alpha, 1 + (official and self.width > 1)), -inf)

    def seen(self, sequence: Sequence[int], request: Request) -> Sequence[int]:
        """Return the part of a sequence that the amateur sees."""
        return sequence if self.context == "all" else sequence[request.start - 1:]

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scores of one sequence after a forward pass of both models."""
        def scored(sequence: Sequence[int]) -> Scored:
            session.draft.follow(self.seen(sequence, request))
            amateur = session.draft.read().logits[0]
            session.follow(sequence)
            expert = session.read().logits[0]
            return Scored(self.scores(expert, amateur), expert)
        return scored

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield one token a step, or the result of a beam search all at once."""
        if self.width == 1:
            yield from super().generate(session, request)
            return
        beams = _Beams(self.width, divisor("none", 1), "false", request, method=self, amateur=session.draft)
        walk(session, [beams])
        yield beams.pool[min(request.sample, len(beams.pool) - 1)].tokens

    def max_samples(self) -> int | None:
        """One a beam."""
        return self.width if self.width > 1 else None


@dataclass
class _Beams(Beams):
    """Beams over summed scores; the state of a hypothesis is its node in the amateur's session."""

    method: ContrastiveDecoding = field(kw_only=True)
    amateur: Session = field(kw_only=True)
    nodes: int = 0                         # nodes in the amateur's session
    step: Tensor = field(init=False)       # (b, V) scores of the next tokens of the live beams …
    plain: Tensor = field(init=False)      # … and the expert's log p of them

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Run the amateur on the tokens that the expert has just seen, and extend the beams."""
        if self.live[0].tokens:
            logits = self.amateur.grow([h.tokens[-1] for h in self.live], [h.state for h in self.live]).logits[1:]
            self.live = [h._replace(state=node) for node, h in enumerate(self.live, self.nodes)]
            self.nodes += len(self.live)
        else:
            self.amateur.follow(self.method.seen(self.request.prompt, self.request))
            logits = self.amateur.read().logits
            self.live = [h._replace(state=-1) for h in self.live]
        self.step, self.plain = self.method.scores(log_p, logits), log_p
        super().advance(log_p, hidden)
        self.amateur.retain(sorted({h.state for h in self.live} - {-1}))

    def scored(self, log_p: Tensor) -> Tensor:
        """Return (b, V) sums of scores."""
        return self.step + self.step.new_tensor([h.score for h in self.live])[:, None]

    def chosen(self, scores: Tensor, count: int) -> Tensor:
        """Return the indices in (b·V,) of the highest sums; in "official" only among the likeliest next tokens."""
        if self.method.variant != "official" or not self.live[0].tokens:
            return best(scores, count)
        indices = best(self.plain.flatten().masked_fill(scores == -inf, -inf), count).sort().values
        return indices[scores[indices].argsort(descending=True, stable=True)]

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """Return the hypothesis with one token more; its state is the parent's node until the amateur's forward."""
        return super().child(row, token, score, log_p)._replace(state=self.live[row].state)
