"""Medusa: heads on the target's last hidden state each predict one of the next tokens; their candidates form a tree.

Cai et al. 2024 (arXiv 2401.10774), §2.1 and 2.3. Head i is a residual block with an output layer of its own, which
starts as the target's (`own`; without it the target's is shared). The tree has `nodes` candidates, placed where they
were accepted most on held-out answers (§2.3.3). Heads do not see each other's tokens, so one product drafts all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.decoding.loop import Step
from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import Request, knob
from strategies.drafters.choices import Choices, best_choices


@dataclass(frozen=True)
class MedusaSettings:
    """`own`: whether each head has an output layer of its own."""

    heads: Annotated[int, Field(ge=1, le=16)] = 4
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    own: bool = True


class Residual(nn.Module):
    """x + SiLU(A x + b), which is x at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return x + functional.silu(self.linear(x))


class MedusaHeads(Network):
    """The heads; head i predicts token t + 2 + i."""

    Settings: ClassVar[type] = MedusaSettings
    recipe: ClassVar[Recipe] = Recipe(rate=1e-3, text=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.blocks = nn.ModuleList(nn.Sequential(*(Residual(target.hidden) for _ in range(settings.layers)))
                                    for _ in range(settings.heads))
        self.outputs = nn.ModuleList(self._output() for _ in range(settings.heads if settings.own else 0))

    @property
    def depth(self) -> int:
        """One token a head."""
        return len(self.blocks)

    def forward(self, hidden: Tensor, tokens: Tensor) -> list[Tensor]:
        """The output of the block of each head."""
        return [block(hidden) for block in self.blocks]

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of a head."""
        found: Tensor = self.outputs[depth](features) if self.outputs else self.target.logits(features)
        return found

    def _output(self) -> nn.Linear:
        output = nn.Linear(self.target.hidden, self.target.vocab, bias=False)
        with torch.no_grad():
            output.weight.copy_(self.target.head.weight)
        return output


class MedusaDrafter:
    """Fills the tree with the likeliest tokens of each head."""

    def __init__(self, session: Session, network: Network, choices: Choices) -> None:
        self.session, self.network, self.choices = session, network, choices

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        choices = self.choices.within(limit)
        state = self.session.memory[-1:][None]  # in place of tokens too, which these heads do not read
        logits = torch.cat([self.network.logits(depth, features[0]) for depth, features in
                            enumerate(self.network(state, state))])
        self.session.draft_work.forwards += 1
        self.session.draft_work.positions += 1
        best = logits.topk(choices.widest).indices.tolist()
        return TokenTree(tuple(best[depth][rank] for depth, rank in choices.nodes), choices.parents)


@dataclass(frozen=True)
class Medusa(Trained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(63, "candidates in the tree", low=1, high=512, sweep=(4, 10, 25, 63))

    paper: ClassVar[str] = "Cai et al. 2024, arXiv 2401.10774"
    network: ClassVar[type[Network]] = MedusaHeads

    def drafter(self, session: Session, request: Request) -> MedusaDrafter:
        """The heads of the target."""
        head = self.head(session)
        return MedusaDrafter(session, head.network, best_choices(head.card.ranks, self.nodes))
