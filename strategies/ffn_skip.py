"""FFN-SkipLLM: skip the MLPs of the layers after one that hardly changed the token's hidden state.

Jaiswal et al. 2024 (arXiv 2404.03865). Nothing is skipped in the first and last layers (`cold`), in the prompt or in
the first `warm_up` tokens. In between, once a layer's MLP hardly changes the residual stream (cosine at least
`threshold`), the MLPs of the next layers are skipped, until `share` of the model's have been. Attention always runs,
so that every token has its keys and values. Decoding is greedy.

`order=random` is the control: as many MLPs, drawn for each step from the same layers. With `threshold=-1` they are
always the first ones. The paper skips 25 to 30 % of the MLPs; its layers, threshold and warm-up are not checked here.

Every token of a forward decides for itself. An MLP is not run if all of them skip it, as with a single sequence.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from harness.decoding.hooked import greedily
from harness.engine.hooks import Captured, ForwardHook, ModelParts, Skip, replaced
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class SkipAlike:
    """After the first MLP whose input and output have a cosine of `threshold`, skip `share` of the MLPs.

    `cold` is the share of the layers at either end that run in full. `spared:mlp` is recorded.
    """

    threshold: float
    share: float
    cold: float

    def middle(self, layers: int) -> tuple[range, int]:
        """Return the layers that are not at the ends, and how many MLPs a token may skip."""
        cold = rounded(self.cold * layers)
        return range(cold, layers - cold), rounded(self.share * layers)

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Watch the middle layers of one forward."""
        layers = parts.layers
        middle, most = self.middle(len(layers))
        watch, forwards = Watch(self.threshold, most), dict[nn.Module, Callable[..., Any]]()
        for whole, _, (*inner, last) in layers[middle.start:middle.stop]:
            forwards |= {module: partial(watch.inner, module.forward) for module in inner}
            forwards[last] = partial(watch.last, last.forward)
            forwards[whole] = partial(watch.whole, whole.forward)
        captured = dict[str, Tensor]()
        with replaced(forwards):
            yield captured
        if watch.skipped is not None:
            captured["spared:mlp"] = watch.skipped


class Watch:
    """The state of one forward: `skips` (B, Q) marks tokens that skip the next MLP, `all_skip` if all of them do."""

    def __init__(self, threshold: float, max_skips: int) -> None:
        self.threshold, self.left, self.all_skip = threshold, torch.tensor(max_skips), False
        self.skips: Tensor | None = None
        self.skipped: Tensor | None = None  # (B, Q): MLPs that each token has skipped
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
            self.skipped = self.skips.long() if self.skipped is None else self.skipped + self.skips
            alike |= self.skips
        self.skips = alike & (self.left.to(alike.device) > 0)
        self.all_skip = bool(self.skips.all())
        return out


@dataclass(frozen=True)
class FfnSkip(Strategy):
    """`threshold` above 1 is `greedy`."""

    threshold: float = knob(0.98, "minimum cosine of an MLP's input and output for skipping the next ones",
                            low=-1, high=2, sweep=(0.95, 0.98, 0.99))
    share: float = knob(0.25, "share of the MLPs that a token may skip", low=0, high=1, sweep=(0.1, 0.25, 0.35, 0.5))
    cold: float = knob(0.125, "share of the layers at either end that run in full", low=0, high=0.5,
                       sweep=(0.0, 0.125, 0.25))
    warm_up: int = knob(25, "tokens generated before any MLP is skipped", low=0, high=100000, sweep=(10, 25, 50))

    order: str = knob("alike", "alike: after an MLP that changed little; random: any of the middle, a control",
                      choices=("alike", "random"), sweep=("alike", "random"))

    paper: ClassVar[str] = "Jaiswal et al. 2024, arXiv 2404.03865"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"
    scores_given: ClassVar[bool] = True

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        rule = SkipAlike(self.threshold, self.share, self.cold)
        middle, size = rule.middle(len(session.engine.parts.layers))

        def hook(step: int) -> ForwardHook | None:
            if step <= self.warm_up:
                return None
            return rule if self.order == "alike" else drawn(middle, size, request)
        return greedily(session, request, hook)


def drawn(middle: range, size: int, request: Request) -> Skip:
    """Draw `size` MLPs of the middle layers; the first layer is never among them."""
    order = request.stream.uniform(len(middle)).argsort().tolist()
    return Skip(mlp=frozenset([middle[i] for i in order if middle[i]][:size]))


def rounded(number: float) -> int:
    """Return the nearest whole number, the upper one for a half."""
    return int(number + 0.5)
