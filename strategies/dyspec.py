"""DySpec: a draft tree that grows where the draft model is confident, rebuilt at each step.

Xiong et al. 2024 (arXiv 2410.11744). The chance that a slot of the tree is reached and accepted is estimated by the
draft model's own probabilities. `variant` "greedy" always fills the best slot, until there are `nodes` nodes, with a
forward of the draft model for each node that gets children; "threshold" fills all slots of at least `theta` level by
level, one forward each (`theta` 0 stands for 1 / `nodes`). `depth` caps the levels. At temperature 0 children are the
likeliest tokens. `temperature` and `p` set the distribution, which is exact.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from torch import Tensor

from harness.decoding.accept import Accept, rejection_without_replacement
from harness.decoding.loop import Drafter, Step
from harness.decoding.verified import Verified
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.tree import Grown


@dataclass(frozen=True)
class DySpec(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    variant: str = knob("threshold", "how the tree grows", choices=("greedy", "threshold"),
                        sweep=("greedy", "threshold"))
    nodes: int = knob(64, "maximum nodes of a tree", low=1, high=1024, sweep=(8, 16, 32, 64, 256))
    theta: float = knob(0.0, "minimum probability of a filled slot; 0 is 1 / nodes", low=0, high=1,
                        sweep=(0.0, 0.001, 0.01, 0.05))
    depth: int = knob(16, "maximum levels", low=1, high=64, sweep=(4, 8, 16, 32))

    paper: ClassVar[str] = "Xiong et al. 2024, arXiv 2410.11744"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> Drafter:
        """Return the drafter that grows a tree by `variant`."""
        stream = self.draws(request)
        kind = _Greedy if self.variant == "greedy" else _Threshold
        return kind(self, Grown(session.draft, self.logit_warp(), stream), stream)

    def rule(self) -> Accept:
        """Recursive rejection: rejected tokens are removed from q as well."""
        return rejection_without_replacement


class _Slots:
    """The open slot below a node; `rest` (V,), on the host, is q without the tokens already drafted there."""

    def __init__(self, node: int, rest: Tensor, stream: Stream | None) -> None:
        self.node, self.rest, self.stream = node, rest, stream

    def fill(self, grown: Grown) -> tuple[int, float]:
        """Add a child, and return it with its share of the remaining probability."""
        token = int(self.rest.argmax()) if self.stream is None else self.stream.choose(self.rest)
        share = float(self.rest[token] / self.rest.sum())
        self.rest[token] = 0
        return grown.add(self.node, token), share

    def empty(self) -> bool:
        """Return whether no token is left."""
        return not bool(self.rest.any())


class _Greedy:
    """Fills always the best slot, whose value must not depend on the child that will fill it."""

    def __init__(self, owner: DySpec, grown: Grown, stream: Stream | None) -> None:
        self.nodes, self.threshold, self.depth = owner.nodes, owner.theta, owner.depth
        self.grown, self.stream = grown, stream

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels below `sequence`."""
        grown, levels, order = self.grown, min(self.depth, limit), count()
        root = _Slots(ROOT, grown.start(sequence, last).to("cpu", copy=True), self.stream)
        heap: list[tuple[float, int, int, int, _Slots | None]] = [(-1.0, next(order), 0, ROOT, root)]
        while heap and len(grown) < self.nodes and -heap[0][0] >= self.threshold:
            value, _, level, node, slots = heapq.heappop(heap)
            slots = slots or _Slots(node, grown.read([node])[0].to("cpu", copy=True), self.stream)
            child, share = slots.fill(grown)
            if level + 1 < levels:
                heapq.heappush(heap, (value * share, next(order), level + 1, child, None))
            if not slots.empty():
                heapq.heappush(heap, (value * (1 - share), next(order), level, node, slots))
        return grown.done()


class _Threshold:
    """Fills all slots of a value of at least `threshold`, level by level."""

    def __init__(self, owner: DySpec, grown: Grown, stream: Stream | None) -> None:
        self.nodes, self.threshold, self.depth = owner.nodes, owner.theta or 1 / owner.nodes, owner.depth
        self.grown, self.stream = grown, stream

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels below `sequence`."""
        grown, levels = self.grown, min(self.depth, limit)
        live, rows = [(1.0, ROOT)], grown.start(sequence, last)[None]
        for level in range(levels):
            below = list[tuple[float, int]]()
            for (value, node), rest in zip(live, rows.to("cpu", copy=True), strict=True):
                slots = _Slots(node, rest, self.stream)
                while value >= self.threshold and len(grown) < self.nodes and not slots.empty():
                    child, share = slots.fill(grown)
                    below += [(value * share, child)] if value * share >= self.threshold else []
                    value *= 1 - share
            live = sorted(below, key=lambda slot: -slot[0])  # the best first, in case the nodes run out
            if not live or level + 1 == levels or len(grown) == self.nodes:
                break
            rows = grown.read([node for _, node in live])
        return grown.done()
