"""L2 adaptive computation: layers that hardly change the norm of a token's state are void, and can be left out.

"Void in language models" (arXiv 2505.14467). The change of a layer is the norm of its output less that of its input. A
layer is void if its change is below `alpha` times the range, largest less smallest, of the changes of the layers below
it; the range of no change or of one is 0.

- `mode=exit` is what the authors' code does: all layers run, and a token's prediction is made of the output of its last
  layer that is not void. Nothing is spared, and all keys are complete.
- `mode=prompt` skips, in the whole answer, the layers that were void for more than half of the tokens of the prompt.
  Answer tokens have no keys and values in them, and no later token asks for these.

A token whose layers are all void keeps the output of the last layer. Decoding is greedy, where the paper samples.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.decoding.hooked import forget, greedily
from harness.engine.hooks import ForwardHook, ModelParts, Skip, replaced, states_in, states_of, with_states
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


def active(norms: Tensor, alpha: float) -> Tensor:
    """Return which of L layers are not void, (…, L), by the norms (…, L + 1) of their states, the first one's input
    before them.
    """
    change = norms.diff(dim=-1)
    spread = change.cummax(-1).values - change.cummin(-1).values                    # of a layer and those below it
    below = torch.cat([torch.zeros_like(spread[..., :1]), spread[..., :-1]], -1)
    return change >= alpha * below


@dataclass(frozen=True)
class LastActive:
    """Predicts each token from the output of its last layer that is not void."""

    alpha: float

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Exchange the output of the last layer of one forward."""
        last = len(parts.layers) - 1

        def chosen(states: list[Tensor]) -> Tensor:
            every = torch.stack(states, -2)                                                          # (B, W, L + 1, D)
            runs = active(every.float().norm(dim=-1), self.alpha)
            place = torch.where(runs, torch.arange(1, last + 2, device=runs.device), 0).amax(-1)
            place = place.masked_fill(place == 0, last + 1)
            return every.gather(-2, place[..., None, None].expand(*place.shape, 1, every.shape[-1])).squeeze(-2)
        states = list[Tensor]()
        with replaced({layer.whole: partial(_layer, states, number == last, chosen, layer.whole.forward)
                       for number, layer in enumerate(parts.layers)}):
            yield


@dataclass(frozen=True, eq=False)
class Survey:
    """Counts the tokens of one sequence, and for how many of them each layer is void."""

    alpha: float
    void: list[Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Count in one forward."""
        states, last = list[Tensor](), len(parts.layers) - 1
        with replaced({layer.whole: partial(_layer, states, number == last, self._count, layer.whole.forward)
                       for number, layer in enumerate(parts.layers)}):
            yield

    def majority(self) -> frozenset[int]:
        """Return the layers that were void for more than half of the tokens."""
        shares = torch.stack(self.void).sum(0) / sum(self.tokens)
        return frozenset((shares > 0.5).nonzero().view(-1).tolist())

    def _count(self, states: list[Tensor]) -> Tensor:
        norms = torch.stack([each.float().norm(dim=-1) for each in states], -1)
        self.void.append((~active(norms, self.alpha)).flatten(0, 1).sum(0))
        self.tokens.append(norms[..., 0].numel())
        return states[-1]


def _layer(states: list[Tensor], last: bool, chosen: Callable[[list[Tensor]], Tensor], own: Callable[..., Any],
           *args: Any, **kwargs: Any) -> Any:
    """Run a layer and keep its states; after the last one, return those that were chosen."""
    if not states:
        states.append(states_in(args, kwargs))
    result = own(*args, **kwargs)
    states.append(states_of(result))
    return with_states(result, chosen(states)) if last else result


@dataclass(frozen=True)
class LacSkip(Strategy):
    """`alpha=-1e9` is `greedy`: there only the first two layers can be void."""

    alpha: float = knob(0.8, "share of the range of changes below which a layer is void", low=-1e9, high=1e9,
                        sweep=(0.0, 0.05, 0.1, 0.2, 0.8))
    mode: str = knob("exit", "predict from the last active layer, or skip what was void in the prompt",
                     choices=("exit", "prompt"), sweep=("exit", "prompt"))

    paper: ClassVar[str] = "arXiv 2505.14467"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        if self.mode == "exit":
            return greedily(session, request, lambda step: LastActive(self.alpha))
        forget(session)  # every token of a prompt counts, and the answer before it lacks keys
        return greedily(session, request, self._skips())

    def _skips(self) -> Callable[[int], ForwardHook]:
        survey, skip = Survey(self.alpha), list[Skip]()

        def hook(step: int) -> ForwardHook:
            if not step:
                return survey
            if not skip:
                void = survey.majority()
                skip.append(Skip(void, void))
            return skip[0]
        return hook
