"""Diverse beam search: groups of beams, each pushed away from what earlier groups chose.

Vijayakumar et al. 2016 (arXiv 1610.02424). `width` beams in `groups` groups; `diversity` is subtracted from a token's
score for each earlier beam that is similar. `distance` "hamming" counts the beams that chose the token at this step;
"cumulative" counts each of them once more for every earlier step at which the two groups agreed, weighted by
`discount`^age (fairseq; `discount=0` is "hamming"); "ngram" counts how often earlier beams contain the n-gram that the
token would complete. Inside a group the penalised score ranks, as in the paper. `variant` "paper" counts the token that
ends a hypothesis like any other and ranks the final list by raw log p; "official" follows transformers 4.49 (the last
release that had it): endings are not counted, the penalised score ranks. Sample i of a prompt is the i-th hypothesis of
the final list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar, cast

from torch import Tensor

from harness.decoding.search import Beams, EarlyStopping, Hypothesis, Search, divisor, walk
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class DiverseBeam(Search):
    """`groups=1` is `beam`; `diversity=0` is that many copies of the beam of one group, and group 1 always is."""

    width: int = knob(4, "beams in all", low=1, high=256, sweep=(4, 8), also="num_beams")
    groups: int = knob(2, "groups; must divide width", low=1, high=256, sweep=(2, 4), also="num_beam_groups")
    diversity: float = knob(0.5, "penalty for each similar earlier beam", low=0, high=100,
                            sweep=(0.2, 0.5, 0.8, 1.0), also="diversity_penalty")
    length_penalty: float = knob(1.0, "log p is divided by length to this power", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0, 2.0))
    early_stopping: str = knob("false", "when a full pool ends a group", choices=("false", "true", "never"),
                               sweep=("false", "true", "never"))
    variant: str = knob("paper", "whose rules", choices=("paper", "official"))
    distance: str = knob("hamming", "similarity to an earlier beam", choices=("hamming", "cumulative", "ngram"),
                         sweep=("hamming", "cumulative", "ngram"))
    discount: float = knob(1.0, "weight of an agreement one step ago, cumulative", low=0, high=1,
                           sweep=(0.0, 0.5, 1.0))
    ngram: int = knob(2, "tokens compared, ngram", low=1, high=16, sweep=(1, 2, 3))

    paper: ClassVar[str] = "Vijayakumar et al. 2016, arXiv 1610.02424"

    def __post_init__(self) -> None:
        """Refuse a width that the groups do not divide."""
        super().__post_init__()
        if self.width % self.groups:
            raise UserError(f"diverse_beam: {self.groups} groups do not divide a width of {self.width}.")

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Return the final list of all groups, best first."""
        official = self.variant == "official"
        rule, hypotheses = divisor("power", self.length_penalty), list[Hypothesis]()
        for group in self.grouped(session, request):
            hypotheses += group.pool
        return sorted(hypotheses, reverse=True, key=lambda h: (h.score if official else h.log_p) / rule(len(h.tokens)))

    def grouped(self, session: Session, request: Request) -> "list[Group]":
        """Return the groups after the search."""
        groups, rule = list[Group](), divisor("power", self.length_penalty)
        for _ in range(self.groups):
            groups.append(Group(self.width // self.groups, rule, cast(EarlyStopping, self.early_stopping), request,
                                self.variant == "official", knobs=self, earlier=tuple(groups)))
        walk(session, groups)
        return groups


@dataclass
class Group(Beams):
    """Beams that are penalised for tokens that earlier groups chose at this step."""

    knobs: DiverseBeam = field(default_factory=DiverseBeam)
    earlier: "Sequence[Group]" = ()
    ended: list[Hypothesis] = field(default_factory=list)  # the candidates of the last step that ended
    taken: list[Hypothesis] = field(default_factory=list)  # the best `width` candidates of the last step
    agreed: dict[int, float] = field(default_factory=dict)  # with each earlier group, the discounted count of steps

    def scored(self, log_p: Tensor) -> Tensor:
        """Return log p minus the penalty of each token; only in "ngram" does the penalty depend on the prefix."""
        scores = super().scored(log_p)
        if not self.knobs.diversity:
            return scores
        if self.knobs.distance == "ngram":
            seen = self._ngrams()
            penalties = [seen.get(h.tokens[len(h.tokens) + 1 - self.knobs.ngram:], {})
                         if len(h.tokens) + 1 >= self.knobs.ngram else {} for h in self.live]
        else:
            penalties = [self._chosen()] * len(self.live)
        for row, penalty in zip(scores, penalties, strict=True):
            if penalty:
                row[list(penalty)] -= self.knobs.diversity * row.new_tensor(list(penalty.values()))
        return scores

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token."""
        self.ended, step = [], len(self.live[0].tokens) + 1
        super().advance(log_p, hidden)
        chosen = self.newest(step)
        for i, group in enumerate(self.earlier):
            pairs = list(product(chosen, group.newest(step)))
            same = sum(a.tokens[-1] == b.tokens[-1] for a, b in pairs) / max(1, len(pairs))
            self.agreed[i] = self.knobs.discount * (self.agreed.get(i, 0.0) + same)

    def candidates(self, log_p: Tensor, count: int) -> list[Hypothesis]:
        """Return the best children; a group that stops at this step takes the first `width`."""
        children = super().candidates(log_p, count)
        self.taken = children[:self.width]
        return children

    def newest(self, step: int) -> list[Hypothesis]:
        """Return the hypotheses chosen at `step` if it was the last one; transformers leaves out the ended ones."""
        chosen = self.live if self.legacy else self.taken if self.done else self.live + self.ended
        return [h for h in chosen if len(h.tokens) == step]

    def finish(self, child: Hypothesis) -> None:
        """Put a hypothesis into the pool."""
        super().finish(child)
        if self.request.ends(child.tokens):
            self.ended.append(child)

    def _chosen(self) -> dict[int, float]:
        """Return the weight of each token that earlier groups chose at this step."""
        more = self.agreed if self.knobs.distance == "cumulative" else {}
        weights = dict[int, float]()
        for i, group in enumerate(self.earlier):
            for h in group.newest(len(self.live[0].tokens) + 1):
                weights[h.tokens[-1]] = weights.get(h.tokens[-1], 0.0) + 1 + more.get(i, 0.0)
        return weights

    def _ngrams(self) -> dict[tuple[int, ...], dict[int, float]]:
        """Count how often each token follows each n − 1 tokens in the earlier groups' hypotheses."""
        size, followers = self.knobs.ngram, dict[tuple[int, ...], dict[int, float]]()
        for group in self.earlier:
            for h in group.newest(len(self.live[0].tokens) + 1):
                for gram in zip(*(h.tokens[i:] for i in range(size)), strict=False):
                    counts = followers.setdefault(gram[:-1], {})
                    counts[gram[-1]] = counts.get(gram[-1], 0.0) + 1
        return followers
