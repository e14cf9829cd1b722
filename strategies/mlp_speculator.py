"""MLP speculator: a state that starts as the target's hidden state takes in one drafted token after the other.

Wertheimer et al. 2024 (arXiv 2404.19124), §3. Stage i projects the state, adds an embedding, of its own, of the next
token, and predicts the token after it; weights balance both so that half of the first state is left at the last of the
`heads` stages. `top` children of each node, level by level, make all paths, and the `paths` most probable ones are
verified, common beginnings once. The paper trains on text and then on answers; here it is answers from the start.
Stages are separate, as for the paper's smaller models; `tied=true,scaled=true` are those of the larger ones.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.heads.layer import Context
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import Request, knob
from strategies.drafters.expanded import PathTree
from strategies.drafters.tree import numbers

NODES = 1024


@dataclass(frozen=True)
class MlpSpeculatorSettings:
    """`inner` numbers of a state, 0 for the target's; `tied` stages share weights; `scaled` norms the first state."""

    heads: Annotated[int, Field(ge=1, le=16)] = 3
    inner: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    tied: bool = False
    scaled: bool = False


class ShiftedNorm(nn.Module):
    """Divides by the root mean square, then scales and shifts each number."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return functional.rms_norm(x, x.shape[-1:], self.weight, 1e-6) + self.bias


class MlpSpeculatorStages(Network):
    """GELU(norm(projected state + share · embedding)); stage i predicts token t + 2 + i."""

    Settings: ClassVar[type] = MlpSpeculatorSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        inner, count = settings.inner or target.hidden, 1 if settings.tied else settings.heads
        self.emb = nn.ModuleList(nn.Embedding(target.vocab, inner) for _ in range(count))
        self.proj = nn.ModuleList(nn.Linear(inner if stage else target.hidden, inner, bias=False)
                                  for stage in range(min(2, settings.heads) if settings.tied else count))
        self.ln = nn.ModuleList(ShiftedNorm(inner) for _ in range(count))
        self.head = nn.ModuleList(nn.Linear(inner, target.vocab, bias=False) for _ in range(count))
        for module in [*self.emb, *self.proj, *self.head]:
            nn.init.normal_(module.weight, std=inner ** -0.5)
        kept = 0.5 ** (0.5 / settings.heads)
        self.share = math.sqrt((1 - kept ** 2) * inner / 2) / kept  # of the embedding, for a state of weight 1

    @property
    def depth(self) -> int:
        """One token a stage."""
        return int(self.settings.heads)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The state after `tokens`."""
        if self.settings.scaled and not depth:
            state = functional.rms_norm(state, state.shape[-1:], eps=1e-6) / math.sqrt(2)
        mixed = _of(self.proj, depth)(state) + self.share * _of(self.emb, depth)(tokens)
        state = functional.gelu(_of(self.ln, depth)(mixed))
        return state, state

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """The logits of a stage."""
        found: Tensor = _of(self.head, depth)(features)
        return found


def _of(stages: nn.ModuleList, depth: int) -> nn.Module:
    """Return the part of a stage; stages that share weights have the last one."""
    return stages[min(depth, len(stages) - 1)]


@dataclass(frozen=True)
class MlpSpeculator(Trained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    top: str = knob("5-4-3", "children of each node, level by level", sweep=("1-1-1", "5-4-3", "8-4-2"))
    paths: int = knob(5, "paths that are verified", low=1, high=256, sweep=(1, 5, 10))

    paper: ClassVar[str] = "Wertheimer et al. 2024, arXiv 2404.19124"
    network: ClassVar[type[Network]] = MlpSpeculatorStages

    def __post_init__(self) -> None:
        """Refuse children that are not a list of counts."""
        super().__post_init__()
        numbers("mlp_speculator: top", self.top, NODES)

    def drafter(self, session: Session, request: Request) -> PathTree:
        """The stages of the target's head, as deep as it was trained."""
        network = self.head(session).network
        tops = numbers("mlp_speculator: top", self.top, NODES)[:network.depth]
        return PathTree(self.steps(session), tops, NODES, self.paths)
