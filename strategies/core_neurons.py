"""CoreInfer: decode a whole answer with the MLP neurons that were most often active in the prompt.

Wang et al. 2024 (arXiv 2410.18311). The core of a token are the largest `alpha` of the positive activations of an MLP
(rounded down, at least one). The core of the prompt are the `beta` of all neurons that are in most cores of its tokens;
of equal ones, the first. The answer uses only these neurons, in all layers but the first `first`. The defaults are the
paper's; its code has alpha 0.2, beta 0.4, and leaves 6 of 32 layers at the start and 5 at the end whole. Decoding is
greedy, and the prompt is computed in full.

An activation is the number that goes into the last matrix of the MLP: gate times up where there is a gate. The others
are set to zero, so that time is not saved; the counts are those of matrices without them. The paper takes the core of
a short prompt from a group of known texts, which is left out here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.decoding.hooked import forget, greedily
from harness.engine.hooks import Captured, ForwardHook, Layer, ModelParts, recording, replaced
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


def token_cores(activations: Tensor, alpha: float) -> Tensor:
    """Return which of N neurons are in the core of each token, by their activations (…, N)."""
    order = activations.argsort(dim=-1, descending=True, stable=True)
    places = order.argsort(dim=-1)
    positive = activations > 0
    size = (alpha * positive.sum(-1, keepdim=True)).long().clamp_min(1)
    return (places < size) & positive


def core(counts: Tensor, beta: float) -> Tensor:
    """Return a mask (N,) of the share `beta` of neurons with the highest counts, the first of equal ones."""
    places = counts.argsort(descending=True, stable=True).argsort()
    return places < size_of(len(counts), beta)


def size_of(neurons: int, beta: float) -> int:
    """Return the number of neurons in a core: at least one."""
    return max(1, int(beta * neurons + 0.5))


@dataclass(frozen=True, eq=False)
class Census:
    """Counts, for each layer from `first` on, the tokens of one sequence that have each neuron in their core."""

    alpha: float
    first: int
    counts: dict[int, Tensor] = field(default_factory=dict)

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Count in one forward."""
        with _before_last(parts, {number: partial(self._count, number)
                                  for number in range(self.first, len(parts.layers))}):
            yield

    def _count(self, number: int, activations: Tensor) -> Tensor:
        found = token_cores(activations.float(), self.alpha).flatten(0, -2).sum(0)
        self.counts[number] = self.counts[number] + found if number in self.counts else found
        return activations


@dataclass(frozen=True, eq=False)
class OnlyCore:
    """Uses only the neurons of these masks, by layer; `spared:mlp` is the share of the others."""

    masks: Mapping[int, Tensor]
    spared: float

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Mask the neurons in one forward."""
        captured = dict[str, Tensor]()
        with (_before_last(parts, {number: partial(torch.mul, mask) for number, mask in self.masks.items()}),
              recording(parts, captured, {"spared:mlp": self.spared})):
            yield captured


@contextmanager
def _before_last(parts: ModelParts, change: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Change what goes into the last matrix of the MLPs of these layers."""
    last = {number: _last_matrix(parts.layers[number]) for number in change}
    with replaced({last[number]: partial(_changed, last[number].forward, function)
                   for number, function in change.items()}):
        yield


def _last_matrix(layer: Layer) -> nn.Module:
    return [module for module in layer.mlp[-1].modules()
            if any(weight.dim() == 2 for weight in module.parameters(recurse=False))][-1]


def _changed(own: Callable[[Tensor], Tensor], change: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    return own(change(activations))


@dataclass(frozen=True)
class CoreNeurons(Strategy):
    """`beta=1` is `greedy`."""

    alpha: float = knob(0.4, "share of a token's positive activations in its core", low=0, high=1,
                        sweep=(0.2, 0.4, 0.6))
    beta: float = knob(0.25, "share of the neurons that the answer uses; 1 is greedy", low=0, high=1,
                       sweep=(0.1, 0.25, 0.5, 0.75, 1.0))
    first: int = knob(1, "layers at the start that use all neurons", low=0, high=1000, sweep=(1, 2))

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2410.18311"
    family: ClassVar[str] = "adaptive-compute"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        forget(session)  # every token of the prompt counts
        census, chosen = Census(self.alpha, self.first), list[OnlyCore]()

        def hook(step: int) -> ForwardHook:
            if not step:
                return census
            if not chosen:
                masks = {number: core(counts, self.beta) for number, counts in census.counts.items()}
                chosen.append(OnlyCore(masks, sum(1 - size_of(len(mask), self.beta) / len(mask)
                                                  for mask in masks.values())))
            return chosen[0]
        return greedily(session, request, hook)
