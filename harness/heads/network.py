"""The network of a trained drafter: it reads the hidden states of a frozen target and predicts further tokens."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from harness.engine.engine import Engine
from harness.errors import Unsupported, UserError


@dataclass(frozen=True)
class TargetParts:
    """The parts of a target that a network uses without training them: hidden states have D numbers, logits V."""

    hidden: int
    vocab: int
    embedding: nn.Module
    head: nn.Linear

    @classmethod
    def of(cls, engine: Engine) -> "TargetParts":
        """Return the parts of a loaded model; raises `Unsupported` if they cannot be found."""
        parts = engine.parts
        if not isinstance(parts.head, nn.Linear):
            raise Unsupported(f"the output layer of {type(engine.model).__name__} is no linear layer")
        return cls(parts.head.in_features, engine.vocab, parts.embedding, parts.head)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (…, V) of states (…, D) after the final norm; gradients flow through the states."""
        if torch.is_inference_mode_enabled():
            found: Tensor = self.head(states)
            return found
        return functional.linear(states, self.head.weight, self.head.bias)  # the fast product of an engine has none


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: peak learning rate, and the weights of the losses.

    The loss of depth i counts `decay`ⁱ times the sum of three: `text` · cross-entropy with the token, `target` ·
    cross-entropy with the target's distribution, and `state` · smooth L1 distance of features from the target's states.
    """

    rate: float = 1e-3
    text: float = 1.0
    target: float = 0.0
    state: float = 0.0
    decay: float = 0.8


class Network(nn.Module):
    """Predicts, from the hidden state after token t, the tokens t + 2, t + 3, … as the target would write them.

    `settings` is an instance of the class attribute `Settings`. The parts of the target are no parameters of the
    network.
    """

    Settings: ClassVar[type]
    recipe: ClassVar[Recipe] = Recipe()

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__()
        self.target, self.settings = target, settings

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of tokens that are predicted."""

    @abstractmethod
    def forward(self, hidden: Tensor, tokens: Tensor) -> Sequence[Tensor]:
        """Return features (B, T, F) for each depth i from 0: those of token t + 2 + i, for every t.

        `hidden` (B, T, D) are the target's states after `tokens` (B, T), which are the true ones.
        """

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Return the logits (…, V) of features (…, F) of a depth; by default, features are states of the target."""
        return self.target.logits(features)


def settings_of(network: type[Network], given: Mapping[str, Any]) -> Any:
    """Return the settings of a network from values or texts; raises `UserError` for an unknown or invalid one."""
    if unknown := given.keys() - {field.name for field in fields(network.Settings)}:
        known = [field.name for field in fields(network.Settings)]
        raise UserError(f"A head of this kind has no setting '{min(unknown)}', only {', '.join(known)}.")
    try:
        return TypeAdapter(network.Settings).validate_python(dict(given))
    except ValidationError as error:
        place = error.errors()[0]
        raise UserError(f"The setting '{place['loc'][0]}' of the head is {place['input']!r}: {place['msg']}.") from None
