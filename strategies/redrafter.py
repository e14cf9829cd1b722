"""ReDrafter: a small recurrent network, beside the target's hidden state, drafts with a beam search.

Zhang et al. 2024 (arXiv 2403.09919), §3. A state that starts at zero takes in the embedding of each token; the target's
hidden state and it, side by side, go through residual blocks to an output layer, the same at each depth. A beam of
`width` paths is `depth` tokens deep, and common beginnings are verified once (§3.2). The authors' code counts the
target's own token among the length of a beam, and it ranks by probabilities among the 50 likeliest tokens, here among
all. Above temperature 0 it may change the distribution; here nothing does. Embeddings are scaled to the size of hidden
states (`unit`, not in the paper), without which a small model's are too small to be seen.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.heads.blocks import Residual
from harness.heads.layer import Context
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import Request, knob
from strategies.drafters.expanded import PathTree


@dataclass(frozen=True)
class RedrafterSettings:
    """`unroll` tokens are predicted while training; `size` of the residual blocks, 0 for twice that of hidden states.

    Without `rnn`, the state is the sum of the embeddings.
    """

    unroll: Annotated[int, Field(ge=1, le=16)] = 5
    layers: Annotated[int, Field(ge=1, le=8)] = 2
    size: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    rnn: bool = True
    unit: bool = True


class RedrafterNetwork(Network):
    """s ← SiLU(U s + W e), then blocks over [hidden; s]; a state of the steps is [hidden; s]."""

    Settings: ClassVar[type] = RedrafterSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        hidden = target.hidden
        size = settings.size or 2 * hidden
        self.rnn_u = nn.Linear(hidden, hidden) if settings.rnn else None
        self.rnn_w = nn.Linear(hidden, hidden, bias=False) if settings.rnn else nn.Identity()
        self.input_proj = nn.Linear(2 * hidden, size) if size != 2 * hidden else nn.Identity()
        blocks = [Residual(size) for _ in range(settings.layers)]
        for block in blocks:
            block.linear.reset_parameters()
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(size, target.vocab, bias=False)

    @property
    def depth(self) -> int:
        """The depth of the training; drafts may be deeper."""
        return int(self.settings.unroll)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The output of the blocks after `tokens`."""
        hidden, before = state.chunk(2, -1) if depth else (state, torch.zeros_like(state))
        words = self.words(tokens)
        after = before + words if self.rnn_u is None else functional.silu(self.rnn_u(before) + self.rnn_w(words))
        state = torch.cat([hidden, after], -1)
        return self.blocks(self.input_proj(state)), state

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of the output layer."""
        found: Tensor = self.output(features)
        return found


@dataclass(frozen=True)
class Redrafter(Trained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    width: int = knob(10, "paths of the beam", low=1, high=256, sweep=(1, 5, 10, 45))
    depth: int = knob(4, "drafted tokens of a path", low=1, high=32, sweep=(3, 4, 5))

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2403.09919"
    network: ClassVar[type[Network]] = RedrafterNetwork

    def drafter(self, session: Session, request: Request) -> PathTree:
        """The head of the target, over the paths of its beam."""
        expander = self.steps(session)
        return PathTree(expander, [self.width] * self.depth, self.width, self.width)
