"""Weights of a sequence's own, in place of the model's, and their gradients; the model itself is never changed."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from harness.engine.engine import Engine
from harness.engine.hooks import ModelParts, replaced
from harness.engine.tree import additive
from harness.errors import Unsupported


class Gradient(NamedTuple):
    """−log p (N,) of each token in float32, and the gradient of their mean by the name of each weight."""

    losses: Tensor
    by_name: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class OwnWeights:
    """A hook for forwards with these weights, by the names of the model's parameters.

    Keys and values computed with other weights are stale.
    """

    weights: Mapping[str, Tensor]

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Put the weights in place in one forward pass; tied ones everywhere."""
        model = parts.model
        new = {id(weight): self.weights[name] for name, weight in model.named_parameters() if name in self.weights}
        places = [(module._parameters, key, weight) for module in model.modules()
                  for key, weight in module._parameters.items() if id(weight) in new]
        plain: dict[nn.Module, Callable[[Tensor], Tensor]] = {
            layer: partial(_product, layer) for layer in model.modules() if isinstance(layer, nn.Linear)}
        try:
            for owner, key, weight in places:
                owner[key] = new[id(weight)]
            with replaced(plain):  # the fast products have copies of the weights, and no gradients
                yield
        finally:
            for owner, key, weight in places:
                owner[key] = weight


def weights_of(engine: Engine, modules: Collection[nn.Module] | None = None) -> dict[str, Tensor]:
    """Return the model's weights by name, or only those of some modules.

    Raises `Unsupported` where the model keeps none that can be trained, is on several devices, or reads images.
    """
    if "images" in engine.offers:
        raise Unsupported("computes gradients of the model, which one that reads images does not give here")
    wanted = None if modules is None else {id(weight) for module in modules for weight in module.parameters()}
    engine.on_one_device()
    found = {name: weight.detach() for name, weight in engine.model.named_parameters()
             if wanted is None or id(weight) in wanted}
    if not found or any(weight.is_meta or not weight.is_floating_point() for weight in found.values()):
        raise Unsupported("needs weights that can be trained, which a model of this size or format does not keep here")
    return found


def gradient(engine: Engine, weights: Mapping[str, Tensor], tokens: Sequence[int], first: int) -> Gradient:
    """Return the losses of the tokens from index `first` ≥ 1 on, each given those before it, and the gradient.

    One forward without the KV cache, which the engine counts, and one backward, which it does not.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        ids = torch.tensor([list(tokens)], device=engine.device)
        size = len(tokens)
        causal = additive(torch.ones(size, size, dtype=torch.bool).tril(), engine.dtype, engine.device)
        with OwnWeights(leaves).applied_to(engine.parts):
            logits: Any = engine.model(
                input_ids=ids, attention_mask=engine.windows.masks(causal[None, None]), use_cache=False,
                position_ids=torch.arange(size, device=engine.device)[None],
                logits_to_keep=size - first + 1).logits[0, :-1]
            losses = functional.cross_entropy(logits.float(), ids[0, first:], reduction="none")
            found = torch.autograd.grad(losses.mean(), list(leaves.values()))
    engine.forwards += 1
    engine.positions += size
    return Gradient(losses.detach(), dict(zip(leaves, found, strict=True)))


def state_gradient(engine: Engine, states: Sequence[tuple[Tensor, Tensor]], first: int, tokens: Sequence[int]
                   ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return −log p (N − 1,) of N ≥ 2 tokens but the first, and a gradient for each layer.

    `states` are the keys and values (heads, T, dim) of the T tokens before them. The gradients are those of the mean
    loss by the keys and values from number `first` on. One forward and one backward, counted as in `gradient`. Raises
    `Unsupported` as `weights_of` does.
    """
    with torch.inference_mode(False), torch.enable_grad():
        cache, leaves = DynamicCache(), list[Tensor]()
        for number, pair in enumerate(states):
            own = [states[:, first:].clone().requires_grad_() for states in pair]
            keys, values = (torch.cat([states[:, :first].clone(), leaf], 1)[None]
                            for states, leaf in zip(pair, own, strict=True))
            cache.update(keys, values, number)
            leaves += own
        count, size = states[0][0].shape[1], len(tokens)
        ids = torch.tensor([list(tokens)], device=engine.device)
        causal = additive(torch.ones(size, count + size, dtype=torch.bool).tril(count), engine.dtype, engine.device)
        fixed = {name: weight.clone() for name, weight in weights_of(engine).items() if weight.is_inference()}
        with OwnWeights(fixed).applied_to(engine.parts):
            logits: Any = engine.model(
                input_ids=ids, attention_mask=engine.windows.masks(causal[None, None]), use_cache=True,
                position_ids=torch.arange(count, count + size, device=engine.device)[None],
                **{engine.cache_argument: cache}).logits[0, :-1]
            losses = functional.cross_entropy(logits.float(), ids[0, 1:], reduction="none")
            found = torch.autograd.grad(losses.mean(), leaves)
    engine.forwards += 1
    engine.positions += size
    return losses.detach(), list(zip(found[::2], found[1::2], strict=True))


def _product(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)
