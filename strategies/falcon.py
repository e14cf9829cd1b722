"""Falcon: a head that predicts blocks of tokens, each from the block before it, as EAGLE does token by token.

Gao et al. 2024 (arXiv 2412.12639). An LSTM of two layers reads states with the embeddings of the tokens that follow;
its outputs go through a decoder layer without input norm. The output at t predicts the state at t + k and token
t + 1 + k, so that the last k outputs draft k tokens at once (k is `stride`); attention within them goes both ways
("relaxed causal mask"). Tokens of a block are drafted without knowledge of each other: all nodes of a level have the
same candidates below them, until the next block starts. Glancing, which trains with some future inputs instead of true
ones, and dropout are left out; instead, `blocks` blocks are trained from predicted states.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.layer import Attention, Context, Mlp, Shape
from harness.heads.network import Network, Recipe, TargetParts
from strategies.drafters.headed import Headed

LAYERS = 2  # of the LSTM


@dataclass(frozen=True)
class FalconSettings:
    """`blocks` are predicted one from the other while training; sizes of the layer, 0 for the target's."""

    blocks: Annotated[int, Field(ge=2, le=8)] = 2
    heads: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    unit: bool = True


class FalconNetwork(Network):
    """LSTM([embedding; state]), then a decoder layer; the second cache holds the states of the LSTM at each position.

    Between steps, the state is [outputs of the block; inputs of the layer since; states of the LSTM].
    """

    Settings: ClassVar[type] = FalconSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, state=1.0, decay=0.8)
    stride: ClassVar[int] = 2

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        shape, size = Shape.of(target.config, settings.heads, settings.mlp), target.hidden
        self.cells = nn.ModuleList(nn.LSTMCell(size if layer else 2 * size, size) for layer in range(LAYERS))
        self.attention, self.mlp = Attention(shape), Mlp(shape)
        self.mlp_norm = nn.RMSNorm(size, shape.eps)

    @property
    def depth(self) -> int:
        """The depth of the training; drafts may be deeper."""
        return int(self.settings.blocks) * self.stride

    @property
    def caches(self) -> int:
        """That of the layer, and that of the LSTM."""
        return 2

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Read one more token, and predict a block at every k-th step."""
        words, place = self.words(tokens), depth % self.stride
        if depth:
            outputs, recent, memory = self._parts(state)
            before = outputs[:, :, (depth - 1) % self.stride]
            memory = self._read(torch.cat([words, before], -1), memory)
            x, mask, positions = memory[:, :, LAYERS - 1], context.mask, context.positions
            recent = torch.cat([recent, x[:, :, None]], 2)
            held = context.caches[0].add(*self.attention.keys(x, positions))
        else:
            x, recent, memory = self._start(torch.cat([words, state], -1), context)
            mask, positions = context.mask[context.wanted], context.positions[context.wanted]
            held = context.caches[0].add(*self.attention.keys(x, context.positions))
        if not place:
            outputs = torch.stack([self._layer(recent[:, :, row], positions - self.stride + 1 + row, *held, mask)
                                   for row in range(self.stride)], 2)
        following = torch.cat([outputs, recent[:, :, 1:], memory], 2).flatten(2)
        return outputs[:, :, place], following

    def _parts(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (B, Q, k, D), inputs of the layer (B, Q, k − 1, D) and the LSTM's h and c (B, Q, 2 · 2, D)."""
        rows = state.view(*state.shape[:2], -1, self.target.hidden)
        return rows[:, :, :self.stride], rows[:, :, self.stride:-2 * LAYERS], rows[:, :, -2 * LAYERS:]

    def _layer(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention.attend(x, positions, keys, values, mask)
        found: Tensor = x + self.mlp(self.mlp_norm(x))
        return found

    def _read(self, inputs: Tensor, memory: Tensor) -> Tensor:
        """Return h and c (…, 2 · 2, D) after one more input (…, 2 · D)."""
        h, c = list[Tensor](), list[Tensor]()
        x, old = inputs.flatten(0, -2), memory.flatten(0, -3)
        for layer, cell in enumerate(self.cells):
            x, inner = cell(x, (old[:, layer], old[:, LAYERS + layer]))
            h.append(x)
            c.append(inner)
        return torch.stack([*h, *c], 1).view_as(memory)

    def _start(self, inputs: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Read the sequence on: return inputs of the layer (B, T, D), and of wanted rows the last k, and h and c."""
        count, none = inputs.shape[1], inputs.new_zeros(len(inputs), LAYERS, 1, self.target.hidden)
        before = context.caches[1].add(none[:, :, :0], none[:, :, :0])
        memory = torch.cat([torch.cat([none, one], 2)[:, :, -1] for one in before], 1)
        found = list[Tensor]()
        for place in range(count):
            memory = self._read(inputs[:, place], memory)
            found.append(memory)
        known = torch.stack(found, 2)
        h, _ = context.caches[1].add(known[:, :LAYERS], known[:, LAYERS:])
        rows = functional.pad(h[:, -1], (0, 0, self.stride - 1, 0))[:, -count - self.stride + 1:]
        recent = rows.unfold(1, self.stride, 1).transpose(2, 3)[:, context.wanted]
        return h[:, -1, -count:], recent, known.transpose(1, 2)[:, context.wanted]


@dataclass(frozen=True)
class Falcon(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Gao et al. 2024, arXiv 2412.12639"
    network: ClassVar[type[Network]] = FalconNetwork
