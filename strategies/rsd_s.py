"""RSD-S: a draft tree from stochastic beam search, which draws the likeliest paths without replacement.

Jeon et al. 2024, recursive speculative decoding (arXiv 2402.14160, §3.2.2), with the search of Kool et al. 2019 (arXiv
1903.06059). Each of `depth` levels keeps the `width` paths of the highest perturbed log q, so branches that are likely
for the draft model get more of the nodes. At temperature 0 it is beam search. `temperature` and `p` set the
distribution, which is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection_without_replacement
from harness.decoding.verified import Verified
from harness.engine.random_stream import Stream, gumbel, truncated
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.tree import Child, LevelTree


@dataclass(frozen=True)
class RsdS(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    width: int = knob(3, "paths kept at each level", low=1, high=64, sweep=(2, 3, 4, 6))
    depth: int = knob(4, "levels", low=1, high=64, sweep=(2, 3, 4, 5))

    paper: ClassVar[str] = "Jeon et al. 2024, arXiv 2402.14160"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> LevelTree:
        """Return the draft model, one forward a level."""
        stream = self.draws(request)
        return LevelTree(session.draft, self.depth, self.logit_warp(), stream, StochasticBeam(self.width, stream).pick)

    def rule(self) -> Accept:
        """Recursive rejection: rejected tokens are removed from q as well."""
        return rejection_without_replacement


class StochasticBeam:
    """Stochastic beam search: `log_q` and `height`, log q plus Gumbel noise, of each live path (Kool et al.)."""

    def __init__(self, width: int, stream: Stream | None) -> None:
        self.width, self.stream = width, stream
        self.log_q = self.height = torch.zeros(1, dtype=torch.float64)

    def pick(self, level: int, depth: int, q: Tensor) -> list[Child]:
        """Return the paths of the next level, highest first, which is the order in which siblings are sampled."""
        if level == 0:
            self.log_q = self.height = q.new_zeros(1)
        log_q = self.log_q[:, None] + q.log()
        heights = log_q if self.stream is None else truncated(
            log_q + gumbel(self.stream, q.numel(), q.device).view_as(q), self.height)
        best = heights.flatten().topk(min(self.width, q.numel()))
        pairs = torch.stack([best.values, best.indices.double()], 1).tolist()
        children = [(*divmod(int(index), q.shape[1]), True) for height, index in pairs if height > -torch.inf]
        self.log_q, self.height = log_q.flatten()[best.indices[:len(children)]], best.values[:len(children)]
        return children
