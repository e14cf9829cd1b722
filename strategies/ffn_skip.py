"""FFN-SkipLLM: skip the MLPs of the layers after one that hardly changed the token's hidden state.

Jaiswal et al. 2024 (arXiv 2404.03865). Nothing is skipped in the first and last `cold` layers, in the prompt or in the
first `warm_up` tokens. In between, once a layer's MLP hardly changes the residual stream (cosine at least
`threshold`), the MLPs of the next layers are skipped, until `share` of the model's have been. Attention always runs,
so that every token has its keys and values. Decoding is greedy.

Every token of a forward decides for itself. An MLP is not run if all of them skip it, as with a single sequence.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from harness.engine.hooks import ModelParts, replaced
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class SkipAlike:
    """After the first MLP whose input and output have a cosine of `threshold`, skip `share` of the MLPs.

    The first and last `cold` layers run in full.
    """

    threshold: float
    share: float
    cold: int

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Watch the middle layers of one forward."""
        layers = parts.layers
        watch, forwards = Watch(self.threshold, int(self.share * len(layers))), dict[nn.Module, Callable[..., Any]]()
        for whole, _, (*inner, last) in layers[self.cold:len(layers) - self.cold]:
            forwards |= {module: partial(watch.inner, module.forward) for module in inner}
            forwards[last] = partial(watch.last, last.forward)
            forwards[whole] = partial(watch.whole, whole.forward)
        with replaced(forwards):
            yield


class Watch:
    """The state of one forward: `skips` (B, Q) marks tokens that skip the next MLP, `all_skip` if all of them do."""

    def __init__(self, threshold: float, max_skips: int) -> None:
        self.threshold, self.left, self.all_skip = threshold, torch.tensor(max_skips), False
        self.skips: Tensor | None = None
        self.added = torch.empty(0)

    def inner(self, own: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """Run an inner module of an MLP, unless all tokens skip it."""
        return hidden if self.all_skip else own(hidden)

    def last(self, own: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """Return the MLP's contribution to the residual stream (…, D): zeros for the tokens that skip it."""
        self.added = torch.zeros_like(hidden) if self.all_skip else own(hidden)
        if self.skips is not None and not self.all_skip:
            self.added = self.added.masked_fill(self.skips.view(*self.added.shape[:-1], 1), 0)
        return self.added

    def whole(self, own: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """Run the layer, then decide for every token whether it skips the next MLP."""
        out = own(*args, **kwargs)
        after = (out[0] if isinstance(out, tuple) else out).float()                                  # (B, Q, D)
        alike = cosine_similarity(after - self.added.view_as(after).float(), after, dim=-1) >= self.threshold
        if self.skips is not None:
            self.left = self.left - self.skips.long()
            alike |= self.skips
        self.skips = alike & (self.left.to(alike.device) > 0)
        self.all_skip = bool(self.skips.all())
        return out


@dataclass(frozen=True)
class FfnSkip(Strategy):
    """`threshold` above 1 is `greedy`."""

    threshold: float = knob(0.98, "minimum cosine of an MLP's input and output for skipping the next ones",
                            low=-1, high=2, sweep=(0.95, 0.98, 0.99))
    share: float = knob(0.25, "share of the MLPs that a token may skip", low=0, high=1, sweep=(0.15, 0.25, 0.35))
    cold: int = knob(4, "layers at either end that run in full", low=0, high=256, sweep=(4, 8))
    warm_up: int = knob(25, "tokens generated before any MLP is skipped", low=0, high=100000, sweep=(10, 25, 50))

    paper: ClassVar[str] = "Jaiswal et al. 2024, arXiv 2404.03865"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        sequence, hook = list(request.prompt), SkipAlike(self.threshold, self.share, self.cold)
        for step in count():
            session.follow(sequence)
            sequence += session.read(EMPTY, hook if step > self.warm_up else None).best
            yield sequence[-1:]
