"""A diffusion language model drafts: one forward fills a window of masks behind the text, and the target verifies it.

The pair is that of `LinearSpec` in SGLang, which has one set of weights for both; here they are two models with the
same tokenizer. The draft is a chain of the likeliest token of each mask, `gamma` at most, up to the first whose
probability is below `least`. A draft model with blocks fills the rest of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness.decoding.canvas import Canvas
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.offers import Capability
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Need, Request, knob


class Window:
    """Drafts the likeliest tokens of a window of masks."""

    def __init__(self, session: Session, gamma: int, least: float) -> None:
        settings = session.engine.canvas
        self.canvas = Canvas(session, (), "block" if settings and settings.block else "none")
        self.gamma, self.least = gamma, least

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens below `sequence`."""
        self.canvas.restart(sequence)
        self.canvas.extend(min(self.gamma, limit, self.canvas.room))
        if not self.canvas.advance(self.gamma):
            return TokenTree.chain([])
        best = self.canvas.look().softmax(-1).max(-1)
        chances, tokens = torch.stack([best.values.double(), best.indices]).tolist()  # one wait for the device
        low = [place for place, chance in enumerate(chances) if chance < self.least]
        return TokenTree.chain([int(token) for token in tokens[:min(low, default=self.gamma)]])


@dataclass(frozen=True)
class CanvasDraft(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    gamma: int = knob(16, "masks of a window", low=1, high=128, sweep=(4, 8, 16, 32))
    least: float = knob(0.3, "probability below which a draft ends", low=0, high=1, sweep=(0.0, 0.3, 0.6))

    paper: ClassVar[str] = "LinearSpec, SGLang 2026"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})
    drafts_with: ClassVar[Capability] = "canvas"

    def drafter(self, session: Session, request: Request) -> Window:
        """Return the drafter with the draft model."""
        return Window(session.draft, self.gamma, self.least)
