"""ADED: draft by a tree search over the trigrams of the sequence, and verify the most visited paths.

Liu et al. 2024 (arXiv 2407.12021). Chances come from the trigrams of this sequence (`warm`: earlier ones too); those of
the last `window` tokens gain `bump` a step, up to 3. A tree search of `iterations` rounds, `depth` tokens deep, picks
successors by PUCT; its reward is the chance of the path (the official code reads the wrong token and gets nearly
always 1). The `choices` most visited paths, each with its likeliest next token, make a tree of at most `budget` nodes.
`temperature` and `p` set the distribution, which is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.drafters.trigrams import Search, Size, Trigrams


@dataclass(frozen=True)
class Aded(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    iterations: int = knob(150, "rounds of the search", low=1, high=10_000, sweep=(50, 150, 500))
    depth: int = knob(4, "tokens of lookahead", low=1, high=32, sweep=(2, 4, 8))
    choices: int = knob(24, "paths drafted", low=1, high=1024, sweep=(8, 24, 64))
    budget: int = knob(64, "nodes of the tree", low=1, high=1024, sweep=(16, 32, 64))
    window: int = knob(16, "last tokens whose trigrams gain weight", low=3, high=1024, sweep=(8, 16, 64))
    bump: float = knob(0.04, "added weight per step", low=0, high=3, sweep=(0.0, 0.04, 0.2))
    warm: bool = knob(False, "keep statistics of earlier prompts", sweep=(False, True))

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2407.12021"
    stateful: ClassVar[bool] = True

    def drafter(self, session: Session, request: Request) -> Search:
        """Return the search over the trigrams of this sequence, and of earlier ones when `warm`."""
        trigrams = session.engine.learnt.setdefault(self.spec(), Trigrams()) if self.warm else Trigrams()
        size = Size(self.iterations, self.depth, self.choices, self.budget, self.window, self.bump)
        return Search(size, trigrams, request.stream)
