"""FFN-SkipLLM: leave out the MLPs of the layers that follow one which changed the token little.

Jaiswal et al. 2024 (arXiv 2404.03865). The first and last `cold` layers are never touched, nor the prompt and the
first `warm_up` tokens. In between, once a layer's MLP leaves the residual stream as it was (cosine at least
`threshold`), the MLPs of the next layers are left out, until `share` of the model's have been. Attention always runs,
so that every token has its keys and values. The greedy token is taken.

Every token of a forward decides for itself; an MLP is spared where all of them leave it out, as one text alone does.
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
    """After the first MLP whose input and output have a cosine of `threshold`, leave out `share` of the MLPs.

    The first and last `cold` layers stay as they are.
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
    """One forward: `skips` (B, Q) marks the tokens that leave out the next MLP, `spared` that all of them do."""

    def __init__(self, threshold: float, most: int) -> None:
        self.threshold, self.left, self.spared = threshold, torch.tensor(most), False
        self.skips: Tensor | None = None
        self.added = torch.empty(0)

    def inner(self, own: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """What an MLP of several modules computes on the way."""
        return hidden if self.spared else own(hidden)

    def last(self, own: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """What the MLP adds to the residual stream (…, D): nothing for the tokens that leave it out."""
        self.added = torch.zeros_like(hidden) if self.spared else own(hidden)
        if self.skips is not None and not self.spared:
            self.added = self.added.masked_fill(self.skips.view(*self.added.shape[:-1], 1), 0)
        return self.added

    def whole(self, own: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """The layer, after which every token decides what happens in the next one."""
        out = own(*args, **kwargs)
        after = (out[0] if isinstance(out, tuple) else out).float()                                  # (B, Q, D)
        alike = cosine_similarity(after - self.added.view_as(after).float(), after, dim=-1) >= self.threshold
        if self.skips is not None:
            self.left = self.left - self.skips.long()
            alike |= self.skips
        self.skips = alike & (self.left.to(alike.device) > 0)
        self.spared = bool(self.skips.all())
        return out


@dataclass(frozen=True)
class FfnSkip(Strategy):
    """Greedy's tokens when the threshold is above 1, else nearly those."""

    threshold: float = knob(0.98, "cosine of an MLP's input and output from which on the next ones are left out",
                            low=-1, high=2, sweep=(0.95, 0.98, 0.99))
    share: float = knob(0.25, "of the model's MLPs that a token may leave out", low=0, high=1, sweep=(0.15, 0.25, 0.35))
    cold: int = knob(4, "layers at either end that are never touched", low=0, high=256, sweep=(4, 8))
    warm_up: int = knob(25, "tokens written before any MLP is left out", low=0, high=100000, sweep=(10, 25, 50))

    paper: ClassVar[str] = "Jaiswal et al. 2024, arXiv 2404.03865"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        text, hook = list(request.prompt), SkipAlike(self.threshold, self.share, self.cold)
        for step in count():
            session.follow(text)
            text += session.read(EMPTY, hook if step > self.warm_up else None).best
            yield text[-1:]
