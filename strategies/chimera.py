"""Chimera: the last three tokens and all of the target's hidden states together predict the next state.

Zeng et al. 2024 (arXiv 2402.15758), §3. A residual block and a map encode the last three tokens; in one decoder layer
the code attends to the target's states and to earlier codes. The output, beside the target's last state, goes to an
output layer of the depth. A drafted token has a code too, which attends to those drafted before it; the authors' code
hides them from each other while training, and trains three of four heads. Outputs also learn the target's next state,
a loss that the paper describes and that code computes without using it. The first two codes of a sequence, which
begins at its second token, repeat that token. Embeddings are scaled to the size of hidden states (`unit`, not in the
paper), without which a small model's are too small to be seen beside them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.blocks import Residual, output_like
from harness.heads.layer import Context, DraftLayer, Shape
from harness.heads.network import Network, Recipe, TargetParts
from strategies.drafters.headed import Headed

TOKENS = 3  # of a code


@dataclass(frozen=True)
class ChimeraSettings:
    """`heads` tokens are predicted; `attention` heads and `mlp` numbers of the layer, 0 for those of the target."""

    heads: Annotated[int, Field(ge=1, le=16)] = 4
    attention: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    unit: bool = True


class ChimeraNetwork(Network):
    """Codes of three tokens, and a layer over states and codes; features are [target's last state; layer's output].

    The caches hold what was read of hidden states, of codes, and the embeddings of the tokens.
    """

    Settings: ClassVar[type] = ChimeraSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, state=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        size = target.hidden
        self.encoder = nn.Sequential(Residual(TOKENS * size), nn.Linear(TOKENS * size, size, bias=False))
        self.layer = DraftLayer(Shape.of(target.config, settings.attention, settings.mlp))
        self.outputs = nn.ModuleList(nn.Linear(2 * size, target.vocab, bias=False) for _ in range(settings.heads))
        for output in self.outputs:
            assert isinstance(output, nn.Linear)
            output.weight.data.copy_(output_like(target).weight.repeat(1, 2))

    @property
    def depth(self) -> int:
        """One token an output layer."""
        return len(self.outputs)

    @property
    def caches(self) -> int:
        """Those of states, codes and embeddings."""
        return 3

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the states after `tokens` from their codes; the state of the steps is the target's last one."""
        codes = self._codes(tokens, context)
        x, places = self.layer.input_norm(codes), context.positions + 1
        keys, values = context.caches[1].add(*self.layer.attention.keys(x, places))
        if depth:
            read, kept = context.caches[0].held
        else:
            normed = self.layer.input_norm(state)
            read, kept = context.caches[0].add(*self.layer.attention.keys(normed, context.positions))
        mask = torch.cat([context.mask[:, :read.shape[2]], context.mask], 1)
        keys, values = torch.cat([read, keys], 2), torch.cat([kept, values], 2)
        x = codes + self.layer.attention.attend(x, places, keys, values, mask)
        return torch.cat([state, x + self.layer.mlp(self.layer.mlp_norm(x))], -1), state

    def _codes(self, tokens: Tensor, context: Context) -> Tensor:
        """Return the codes (B, Q, D) of `tokens` (B, Q), each with the two before it that its row can see."""
        words = self.words(tokens)
        seen, _ = context.caches[2].add(words[:, None], words[:, None, :, :0])
        last = last_seen(context.mask, TOKENS)
        codes: Tensor = self.encoder(seen[:, 0][:, last].flatten(2))
        return codes

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of the output layer of a depth."""
        found: Tensor = self.outputs[depth](features)
        return found

    def aligned(self, features: Tensor) -> Tensor:
        """The output of the layer."""
        return features[..., self.target.hidden:]


def last_seen(mask: Tensor, count: int) -> Tensor:
    """Return the last `count` columns (Q, `count`) where a mask (Q, T) is true, with column 0 for missing ones."""
    numbers = mask * torch.arange(1, 1 + mask.shape[1], device=mask.device)
    last = numbers.topk(min(count, mask.shape[1])).values - 1
    return functional.pad(last, (0, count - last.shape[1]), value=-1).clamp_min(0).flip(-1)


@dataclass(frozen=True)
class Chimera(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Zeng et al. 2024, arXiv 2402.15758"
    network: ClassVar[type[Network]] = ChimeraNetwork
