"""Trains a model together with its head: low-rank changes of the model's layers, merged into its weights at the end.

Medusa-2 of Cai et al. 2024 (arXiv 2401.10774), §2.2.2: the loss is that of the model itself plus a small weight times
that of the heads, and the heads are warmed up. They are trained alone first (`two-stage`), or their weight rises with a
sine (`sine`), where the loss of the model is its distance from what it was before (§2.3.1, self-distillation). The
changes are those of LoRA (Hu et al. 2021, arXiv 2106.09685); the output layer is left as it is.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.engine.hooks import HIDDEN, replaced
from harness.engine.tree import additive
from harness.engine.windows import Windows
from harness.errors import UserError
from harness.heads.layer import Context
from harness.heads.network import Network, Recipe, TargetParts, product
from harness.laboratory.corpus import Batch, Corpus
from harness.laboratory.training import loss

RANK = 8
SHARE = 0.25  # of the rate of the heads
TWO_STAGE, SINE = "two-stage", "sine"
WEIGHTS = {TWO_STAGE: 0.2, SINE: 0.01}  # of the loss of the heads


class Tuning(NamedTuple):
    """The folder for the tuned model, and the schedule: `TWO_STAGE` or `SINE`."""

    folder: Path
    schedule: str = TWO_STAGE


class Adapters(nn.Module):
    """A change of low rank of each linear layer in a decoder, without effect before it is trained."""

    def __init__(self, decoder: nn.Module, rank: int = RANK) -> None:
        super().__init__()
        self.layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear)]
        if not all(isinstance(getattr(layer, "weight", None), Tensor) for layer in self.layers):
            raise UserError("A model of this size keeps no plain weights on a CPU: tune it with --device cuda.")
        self.down = nn.ParameterList(torch.randn(rank, layer.in_features) / math.sqrt(layer.in_features)
                                     for layer in self.layers)
        self.up = nn.ParameterList(torch.zeros(layer.out_features, rank) for layer in self.layers)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Add the changes until the end of the context."""
        forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {
            layer: partial(self._changed, number) for number, layer in enumerate(self.layers)}
        with replaced(forwards):
            yield

    def _changed(self, number: int, x: Tensor) -> Tensor:
        change = functional.linear(functional.linear(x, self.down[number]), self.up[number])
        return product(self.layers[number], x) + change

    @torch.no_grad()
    def merge(self) -> None:
        """Add the changes to the weights of the model for good."""
        for layer, down, up in zip(self.layers, self.down, self.up, strict=True):
            layer.weight += (up @ down).to(layer.weight.dtype)


def last_states(target: TargetParts, tokens: Tensor) -> Tensor:
    """Return the last hidden states (B, T, D) of sequences (B, T) that are padded on the right, without a KV cache."""
    (batch, length), model = tokens.shape, target.parts.model
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    mask = additive(causal, target.head.weight.dtype, tokens.device).expand(batch, 1, -1, -1)
    found: Tensor = model.get_decoder()(input_ids=tokens, attention_mask=Windows(model).masks(mask),
                                        use_cache=False).last_hidden_state
    return found


class Tuned(Network):
    """A head together with the model below it: it computes the hidden states itself, from the tokens."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.target, network.settings)
        if network.reads != (HIDDEN,) or network.stride > 1:
            raise UserError("Only heads that read the last hidden states alone, such as medusa, hydra and blockwise, "
                            "can be trained together with the model: leave --tune out.")
        self.network = network
        self.adapters = Adapters(network.target.parts.model.get_decoder()).to(network.target.head.weight.device)

    def groups(self) -> list[dict[str, Any]]:
        """The head, and the changes of the model at a lower rate."""
        return [*self.network.groups(), {"params": list(self.adapters.parameters()), "share": SHARE}]

    @property
    def recipe(self) -> Recipe:
        """That of the head."""
        return self.network.recipe

    @property
    def depth(self) -> int:
        """That of the head."""
        return self.network.depth

    def states(self, tokens: Tensor) -> Tensor:
        """Return the last hidden states (B, T, D), as `HIDDEN`, of sequences that are padded on the right."""
        with self.adapters.applied():
            return last_states(self.target, tokens)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """That of the head."""
        return self.network.step(depth, state, tokens, context)

    def forward(self, states: Tensor, tokens: Tensor, first: int = 0) -> list[Tensor]:
        """Return the features of the head after the model's states as they are now; `states` are those of before."""
        found: list[Tensor] = self.network(self.states(tokens).to(states.dtype), tokens, first)
        return found

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Those of the head."""
        return self.network.logits(depth, features)

    def objective(self, schedule: str, batch: Batch, progress: float) -> Tensor:
        """Return the loss of model and head after a share `progress` of all steps."""
        states = self.states(batch.tokens).to(batch.states.dtype)
        heads = loss(self.network, batch._replace(states=states, hidden=states.detach()))
        before, weight = functional.pad(batch.answer[:, 1:], (0, 1)), WEIGHTS[schedule]
        logits = self.target.logits(states[before])
        if schedule == SINE:
            own = functional.cross_entropy(logits, self.network.law(batch.hidden[before]))
            return own + weight * math.sin(math.pi / 2 * progress) * heads
        return functional.cross_entropy(logits, batch.tokens[batch.answer]) + weight * heads

    @torch.no_grad()
    def perplexity(self, data: Corpus, size: int = 64) -> float:
        """Return the model's perplexity of answers."""
        total, count = 0.0, 0
        for start in range(0, len(data), size):
            batch = data.batch(range(start, min(start + size, len(data))), self.adapters.up[0].device)
            before = functional.pad(batch.answer[:, 1:], (0, 1))
            logits = self.target.logits(self.states(batch.tokens)[before])
            wanted = batch.tokens[batch.answer]
            total += functional.cross_entropy(logits.float(), wanted, reduction="sum").item()
            count += len(wanted)
        return math.exp(total / count)
