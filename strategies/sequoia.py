"""Sequoia: a draft tree whose shape is optimised for acceptance rates by rank, with a dynamic program.

Chen et al. 2024 (arXiv 2402.12374). `rates` says how often the first, second, … sibling is the one accepted; of all
trees of at most `nodes` nodes and `depth` levels the one with the most expected tokens is drafted, siblings without
replacement (at temperature 0 the likeliest tokens). `temperature` and `p` set the distribution, which is exact. The
default rates were counted with `nano` and `nano-draft`: how often greedy's token is the draft's first, second, …
choice, over 797 tokens of the six embedded tasks. `python -m strategies.tools.sequoia_size` measures rates, finds the
size that pays with other models or on another machine, and prints the knobs.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from torch import Tensor

from harness.decoding.accept import Accept, rejection_without_replacement
from harness.decoding.verified import Verified
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.sequoia_plan import plan
from strategies.drafters.tree import Child, LevelTree, distinct


@dataclass(frozen=True)
class Sequoia(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(64, "maximum nodes of a tree", low=1, high=512, sweep=(8, 16, 32, 64, 128))
    depth: int = knob(10, "maximum levels", low=1, high=64, sweep=(2, 4, 6, 10))
    rates: str = knob("0.89-0.056-0.011-0.006-0.004-0.003", "probability that the first, second, … sibling is accepted",
                      sweep=("0.89-0.056-0.011-0.006-0.004-0.003", "0.6-0.2-0.1"))

    paper: ClassVar[str] = "Chen et al. 2024, arXiv 2402.12374"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        """Raise `UserError` if `rates` are not probabilities."""
        super().__post_init__()
        self.chances()

    def chances(self) -> tuple[float, ...]:
        """The rates as numbers; raises `UserError` unless they are probabilities with a sum of at most 1."""
        try:
            found = tuple(float(part) for part in self.rates.split("-"))
        except ValueError:
            raise UserError(f"sequoia: rates is {self.rates!r} and must be numbers such as 0.6-0.2-0.1.") from None
        if not all(rate > 0 for rate in found) or sum(found) > 1 + 1e-9:
            raise UserError(f"sequoia: rates is {self.rates!r}; each must be above 0, and all together at most 1.")
        return found

    def drafter(self, session: Session, request: Request) -> LevelTree:
        """The draft model, one forward a level."""
        stream = self.draws(request)
        pick = _Planned(self.nodes, self.chances(), stream).pick
        return LevelTree(session.draft, self.depth, self.logit_warp(), stream, pick)

    def rule(self) -> Accept:
        """Recursive rejection: rejected tokens are removed from q as well."""
        return rejection_without_replacement


class _Planned:
    """Follows the plan; `live` lists the nodes of the present level, by their place in it, that may have children."""

    def __init__(self, nodes: int, rates: tuple[float, ...], stream: Stream | None) -> None:
        self.nodes, self.rates, self.stream = nodes, rates, stream
        self.live = [0]

    def pick(self, level: int, depth: int, q: Tensor) -> list[Child]:
        """As many children as the plan says, or as many as q leaves to draw."""
        shape, _ = plan(self.rates, self.nodes, depth)
        live, self.live = self.live if level else [0], []
        firsts = [0, *accumulate(shape[level])]
        fertile = shape[level + 1] if level + 1 < len(shape) else (0,) * firsts[-1]
        found = list[Child]()
        tokens = distinct(q, [shape[level][place] for place in live], self.stream)
        for row, place in enumerate(live):
            for child, token in enumerate(tokens[row], firsts[place]):
                found.append((row, token, fertile[child] > 0))
                self.live += [child] if fertile[child] else []
        return found
