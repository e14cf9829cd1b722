"""Early exit: a token leaves the model after the first layer whose prediction is confident enough.

CALM, Schuster et al. 2022 (arXiv 2207.07061). After layer `first`, and every `every` layers from there on, the
confidence is the probability of the likeliest token (`probe=softmax`), its lead over the second one (`gap`), or the
cosine of the layer's input and output (`state`). At `lam` or above, the layer's output goes through the final norm and
the output layer at once. With `decay`, the threshold falls along the answer: lam · (0.9 + 0.1 · exp(-decay · t / N)) at
token t of N, as in the authors' code. The paper calibrates `lam` for a bound on the loss of quality; here it is given.

Later tokens need keys and values of the layers above: `keys=fill` projects the exit state in each of them. With
`keys=full` the layers above run all the same and only the prediction is the earlier one: nothing is spared, and every
key is exact, as if the layers were computed once a later token needs them. The prompt is computed in full.

A probe is not free: `softmax` and `gap` cost a row of logits each, which is as much as several layers of a small model.
Every token of a forward exits for itself; the authors' code lets a batch exit together.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from harness.decoding.hooked import greedily
from harness.engine.hooks import Captured, ForwardHook, ModelParts, replaced, states_in, states_of, with_states
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class Exit:
    """Lets each token exit once its confidence is `lam`; records the number of layers that it ran as `exit` (B, W)."""

    lam: float
    probe: str
    first: int
    every: int
    fill: bool

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Probe the layers of one forward."""
        tokens, forwards = _Tokens(self, parts), dict[nn.Module, Callable[..., Any]]()
        for number, layer in enumerate(parts.layers, 1):
            forwards |= {module: partial(tokens.mlp, module.forward) for module in layer.mlp}
            forwards[layer.whole] = partial(tokens.layer, number, layer.whole.forward)
        with replaced(forwards):
            yield tokens.captured


class _Tokens:
    """The tokens (B, W) of one forward: `done` marks those that have exited, with their `states` (B, W, D)."""

    def __init__(self, rule: Exit, parts: ModelParts) -> None:
        self.rule, self.parts, self.all_done, self.captured = rule, parts, False, dict[str, Tensor]()
        self.states = self.done = self.depth = self.probes = torch.empty(0)

    def mlp(self, own: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """Run a module of an MLP, unless all tokens have exited."""
        return torch.zeros_like(hidden) if self.all_done and self.rule.fill else own(hidden)

    def layer(self, number: int, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a layer; tokens that have exited only get its keys and values, made of their exit states."""
        result, last = own(*args, **kwargs), len(self.parts.layers)
        states = states_of(result)
        if number == 1:
            self.states, self.probes = states, torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
            self.done, self.depth = self.probes.bool(), self.probes + last
        elif self.rule.fill or number == last:
            states = torch.where(self.done[..., None], self.states, states)
        beyond = number - self.rule.first
        if number < last and beyond >= 0 and not beyond % self.rule.every and not self.all_done:
            self._probe(number, states_in(args, kwargs), states)
        if number == last:
            self._record(last)
        return with_states(result, states)

    def _probe(self, number: int, before: Tensor, states: Tensor) -> None:
        sure = ~self.done & (self._confidence(before, states) >= self.rule.lam)
        self.probes = self.probes + ~self.done
        self.states = torch.where(sure[..., None], states, self.states)
        self.depth = self.depth.masked_fill(sure, number)
        self.done = self.done | sure
        self.all_done = bool(self.done.all())

    def _confidence(self, before: Tensor, states: Tensor) -> Tensor:
        if self.rule.probe == "state":
            return cosine_similarity(before.float(), states.float(), dim=-1)
        best: Tensor = self.parts.head(self.parts.norm(states)).float().softmax(-1).topk(2).values
        return best[..., 0] - best[..., 1] * (self.rule.probe == "gap")

    def _record(self, last: int) -> None:
        """Record what was spared and added: the last probe of a token that exits has its logits."""
        self.captured["exit"] = self.depth
        if self.rule.fill:
            self.captured |= dict.fromkeys(("spared:attention", "spared:mlp", "added:fills"), last - self.depth)
        if self.rule.probe != "state":
            self.captured["added:logits"] = self.probes - self.done.long()


@dataclass(frozen=True)
class EarlyExit(Strategy):
    """`lam` above 1 is `greedy`, with `decay` from 1.12 on; a low one runs `first` layers for every token."""

    lam: float = knob(0.9, "confidence for an exit; above 1 is greedy", low=-1, high=2,
                      sweep=(0.5, 0.7, 0.9, 0.95, 0.99, 1.1))
    probe: str = knob("softmax", "confidence: softmax, gap or state", choices=("softmax", "gap", "state"),
                      sweep=("softmax", "gap", "state"))
    first: int = knob(1, "layers before the first probe", low=1, high=1000, sweep=(1, 2))
    every: int = knob(1, "layers between probes", low=1, high=1000, sweep=(1, 2, 4))
    decay: float = knob(0.0, "speed at which the threshold falls along the answer", low=0, high=1000, sweep=(0.0, 4.0))
    keys: str = knob("fill", "keys above an exit: from the exit state, or exact ones that spare nothing",
                     choices=("fill", "full"), sweep=("fill", "full"))

    paper: ClassVar[str] = "Schuster et al. 2022, arXiv 2207.07061"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def threshold(self, token: int, most: int) -> float:
        """Return the threshold of a token of the answer, from 0, which has `most` at most."""
        return self.lam * (0.9 + 0.1 * exp(-self.decay * token / most)) if self.decay else self.lam

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        def hook(step: int) -> ForwardHook | None:
            lam = self.threshold(step, request.max_new_tokens)
            return Exit(lam, self.probe, self.first, self.every, self.keys == "fill") if step else None
        return greedily(session, request, hook)
