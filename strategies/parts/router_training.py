"""The training of the routers of `first`, and of low-rank changes of the model after them."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.engine.hooks import replaced, states_in, states_of, with_states
from harness.heads.network import TargetParts, product
from harness.laboratory.corpus import Answer
from harness.laboratory.training import CLIP, rate_at
from harness.laboratory.tuning import Adapters, last_states
from harness.models.loading import Model
from strategies.parts.routers import keep_chances

KEEPS = 2.0  # bias of an untrained router, which keeps its layer
RATE, TUNE_RATE = 1e-3, 1e-3


class Passed(NamedTuple):
    """The loss (tokens,) of the answers in a batch, and what the routers said about each prompt (B, L)."""

    loss: Tensor
    kept: Tensor


class Gates(nn.Module):
    """A router for each layer of a model."""

    def __init__(self, target: TargetParts) -> None:
        super().__init__()
        self.target = target
        self.weight = nn.Parameter(torch.zeros(target.layers, target.hidden))
        self.bias = nn.Parameter(torch.full((target.layers,), KEEPS))

    def over(self, target: TargetParts) -> "Gates":
        """Return the same routers over another model of the same size."""
        gates = Gates(target).to(self.bias.device)
        gates.load_state_dict(self.state_dict())
        return gates

    def passed(self, found: Sequence[Answer], hard: bool, threshold: float = 0.5) -> Passed:
        """Compute answers with each layer weighted by its router; with `hard`, by whether it reaches `threshold`."""
        tokens, answer = batch(found, self.bias.device)
        prompt, kept = answer.cumsum(1) == 0, list[Tensor]()

        def layer(number: int, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            before, result = states_in(args, kwargs), own(*args, **kwargs)
            said = keep_chances(before, self.weight[number], self.bias[number])
            kept.append((said * prompt).sum(1) / prompt.sum(1))
            share = (kept[-1] >= threshold).to(said.dtype) if hard else kept[-1]
            gate = torch.where(answer, share[:, None], 1.0)[..., None].to(before.dtype)
            return with_states(result, before + gate * (states_of(result) - before))
        with replaced({one.whole: partial(layer, number, one.whole.forward)
                       for number, one in enumerate(self.target.parts.layers)}):
            states = last_states(self.target, tokens)
        logits = self.target.logits(states[functional.pad(answer[:, 1:], (0, 1))]).float()
        return Passed(functional.cross_entropy(logits, tokens[answer], reduction="none"), torch.stack(kept, 1))


def batch(found: Sequence[Answer], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return prompts with answers (B, T), padded on the right, and which tokens are of answers."""
    rows = [torch.tensor([*one.prompt, *one.tokens]) for one in found]
    marks = [torch.tensor([False] * len(one.prompt) + [True] * len(one.tokens)) for one in found]
    return tuple(nn.utils.rnn.pad_sequence(each, batch_first=True).to(device)  # type: ignore[return-value]
                 for each in (rows, marks))


@contextmanager
def differentiable(target: TargetParts) -> Iterator[None]:
    """Let gradients flow through the products of the frozen model."""
    linear: dict[nn.Module, Callable[[Tensor], Tensor]] = {
        one: partial(product, one) for one in target.parts.model.modules() if isinstance(one, nn.Linear)}
    with replaced(linear):
        yield


def descend(found: Sequence[Answer], weights: Sequence[nn.Parameter], loss: Callable[[Sequence[Answer]], Tensor],
            steps: int, rate: float, size: int, seed: int, say: Callable[[str], None]) -> None:
    """Train `weights` for `steps` batches of `size` answers."""
    optimizer, rng = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0), random.Random(seed)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_at(step, steps)
        value = loss(rng.sample(found, min(size, len(found))))
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        if step % 50 == 0 or step == steps:
            say(f"step {step} of {steps}: loss {value.item():.3f}")


def train(model: Model, found: Sequence[Answer], steps: int, weight: float, say: Callable[[str], None], size: int = 8,
          seed: int = 0, tune_steps: int = 0) -> Gates:
    """Train the routers, and with `tune_steps` the model after them, whose weights are changed for good."""
    target = TargetParts.of(model.engine)
    gates = Gates(target).to(model.engine.device)

    def loss(some: Sequence[Answer], hard: bool, context: AbstractContextManager[None]) -> Tensor:
        with context:
            passed = gates.passed(some, hard)
        return passed.loss.mean() + (0.0 if hard else weight * passed.kept.mean())
    descend(found, list(gates.parameters()), lambda some: loss(some, False, differentiable(target)), steps, RATE, size,
            seed, say)
    if tune_steps:
        torch.manual_seed(seed)
        adapters = Adapters(target.parts.model.get_decoder()).to(model.engine.device)
        gates.requires_grad_(False)
        descend(found, list(adapters.parameters()), lambda some: loss(some, True, adapters.applied()), tune_steps,
                TUNE_RATE, size, seed, say)
        adapters.merge()
    return gates
