"""The network of a trained drafter: it reads the hidden states of a frozen target and predicts further tokens."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from harness.engine.engine import Engine
from harness.engine.hooks import HIDDEN, ModelParts
from harness.errors import Unsupported, UserError
from harness.heads.layer import Cache, Context, unit


@dataclass(frozen=True)
class TargetParts:
    """The parts of a target that a network uses without training them: hidden states have D numbers, logits V.

    `config` is the target's transformers configuration, and `layers` the number of its layers.
    """

    hidden: int
    vocab: int
    layers: int
    config: Any
    embedding: nn.Module
    head: nn.Linear
    parts: ModelParts

    @classmethod
    def of(cls, engine: Engine) -> "TargetParts":
        """Return the parts of a loaded model; raises `Unsupported` if they cannot be found."""
        parts, config = engine.parts, engine.model.config.get_text_config()
        if not isinstance(parts.head, nn.Linear):
            raise Unsupported(f"the output layer of {type(engine.model).__name__} is no linear layer")
        return cls(parts.head.in_features, engine.vocab, int(config.num_hidden_layers), config, parts.embedding,
                   parts.head, parts)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (…, V) of states (…, D) after the final norm; gradients flow through the states."""
        if torch.is_inference_mode_enabled():
            found: Tensor = self.head(states)
            return found
        return product(self.head, states)


def product(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the product of a frozen layer, through which gradients flow to `x`; the fast one of an engine has none."""
    return functional.linear(x, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


WIDTH = 192  # numbers of a hidden state


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: the peak learning rate for a model of width `WIDTH`, and the weights of the losses.

    The loss of depth i counts `decay`ⁱ times the sum of three: `text` · cross-entropy with the token, `target` ·
    cross-entropy with the target's distribution, and `state` · smooth L1 distance of features from the target's states.
    """

    rate: float = 3e-3
    text: float = 1.0
    target: float = 0.0
    state: float = 0.0
    decay: float = 0.8


class Network(nn.Module):
    """Predicts, from the target's hidden state after token t, the tokens t + 2, t + 3, … that the target would write.

    It goes on step by step: a step reads the state that the step before left, and the token that follows it.
    `settings` is an instance of the class attribute `Settings`. The parts of the target are no parameters of the
    network. With `free`, a step does not depend on its token, so that one path of steps serves a whole tree. A network
    that predicts whole blocks is trained behind every `stride`-th token.
    """

    Settings: ClassVar[type]
    free: ClassVar[bool] = False
    stride: ClassVar[int] = 1

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__()
        self.target, self.settings = target, settings

    @property
    def recipe(self) -> Recipe:
        """How it is trained; most networks have one recipe as an attribute of the class."""
        return Recipe()

    def groups(self) -> list[dict[str, Any]]:
        """Return the weights to train, with their share of the learning rate."""
        return [{"params": list(self.parameters()), "share": 1.0}]

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of tokens that are predicted while training."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the target's hidden states that the first step reads side by side: `HIDDEN`, or of `Watch`."""
        return (HIDDEN,)

    @property
    def caches(self) -> int:
        """The number of KV caches; without one, the first step needs the last hidden state only."""
        return 0

    @abstractmethod
    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return features (B, Q, F) of the tokens after `tokens` (B, Q), and the state (B, Q, S) of the next step.

        `state` is what the step before returned, and at `depth` 0 the hidden states of `reads`. If `stride` is more
        than one, the first step returns rows for `context.wanted` only.
        """

    def forward(self, states: Tensor, tokens: Tensor, first: int = 0) -> list[Tensor]:
        """Return features (B, T', F) for each depth i: of token t + 2 + i, for every `stride`-th t from `first` on.

        `states` (B, T, …) are the target's after `tokens` (B, T), which are the true ones.
        """
        length, device = tokens.shape[1], tokens.device
        positions, wanted = torch.arange(length, device=device), slice(first, None, self.stride)
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        caches = [Cache() for _ in range(self.caches)]
        features, state = self.step(0, states, tokens.roll(-1, 1), Context(positions, mask, caches, wanted))
        if self.stride == 1:
            features, state = features[:, wanted], state[:, wanted]
        found, positions, mask = [features], positions[wanted], mask[wanted]
        own = torch.eye(len(positions), dtype=torch.bool, device=device)
        for depth in range(1, self.depth):
            mask = torch.cat([mask, own], 1)
            following = tokens.roll(-1 - depth, 1)[:, wanted]
            features, state = self.step(depth, state, following, Context(positions + depth, mask, caches))
            found.append(features)
        return found

    def words(self, tokens: Tensor) -> Tensor:
        """Return the target's embeddings (…, D) of tokens; with a setting `unit`, as large as its hidden states."""
        found: Tensor = self.target.embedding(tokens)
        return unit(found) if self.settings.unit else found

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Return the logits (…, V) of features (…, F) of a depth; by default, features are states of the target."""
        return self.target.logits(features)

    def law(self, states: Tensor) -> Tensor:
        """Return the distributions (…, V) to learn, which follow the target's last hidden states (…, D)."""
        return self.target.logits(states).float().softmax(-1)

    def aligned(self, features: Tensor) -> Tensor:
        """Return the part (…, D) of features that the loss compares with the target's hidden states."""
        return features


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
