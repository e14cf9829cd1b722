"""Hidden transfer: linear maps predict the states of the next tokens in the middle of the target, which refines them.

Wu et al. 2024 (arXiv 2404.12022). Map k turns the state after token t, at the input of layer `layer` (0 for the middle
one), into a pseudo state at t + k. The layers above compute the pseudo states as if they were of real tokens: each
attends to the sequence and to the pseudo states before it, and the target's output layer turns it into token t + 1 + k.
The paper drafts below every candidate in the forward that verifies it; here a forward of the upper layers alone drafts
after each step, and all maps start as the identity, read one layer and are trained together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.engine.hooks import Enter, replaced
from harness.engine.session import Session
from harness.engine.tree import additive
from harness.engine.windows import Windows
from harness.errors import UserError
from harness.heads.expander import Expander
from harness.heads.layer import Context
from harness.heads.network import Network, Recipe, TargetParts, product
from strategies.drafters.headed import Headed


@dataclass(frozen=True)
class TransferSettings:
    """`maps` pseudo states at the input of `layer`, numbered from 0; 0 is the middle one."""

    maps: Annotated[int, Field(ge=1, le=16)] = 3
    layer: Annotated[int, Field(ge=0)] = 0


class TransferMaps(Network):
    """The maps; the target's upper layers turn what they return into features."""

    Settings: ClassVar[type] = TransferSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0)
    free: ClassVar[bool] = True

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        self.layer = settings.layer or target.layers // 2
        if self.layer >= target.layers:
            raise UserError(f"The setting 'layer' of the head is {self.layer}, but the last layer of the model is "
                            f"{target.layers - 1}.")
        self.maps = nn.ModuleList(nn.Linear(target.hidden, target.hidden, bias=False) for _ in range(settings.maps))
        for weight in self.maps.parameters():
            nn.init.eye_(weight)

    @property
    def depth(self) -> int:
        """One token a map."""
        return len(self.maps)

    @property
    def reads(self) -> tuple[str, ...]:
        """The input of the layer."""
        return (f"hidden:{self.layer}",)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The pseudo states of a map, before the upper layers."""
        return self.maps[depth](state), state

    def forward(self, states: Tensor, tokens: Tensor, first: int = 0) -> list[Tensor]:
        """Compute the upper layers over T real rows and, behind them, the pseudo states of each map from `first` on."""
        (batch, length), target, start = tokens.shape, self.target, torch.arange(tokens.shape[1], device=tokens.device)
        rows = torch.cat([states, *(one(states[:, first:]) for one in self.maps)], 1)
        attended = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.bool, device=tokens.device)
        causal = start[:, None] >= start
        attended[:, :length] = torch.cat([causal, causal[first:].repeat(self.depth, 1)])
        before = torch.ones(self.depth, self.depth, dtype=torch.bool, device=tokens.device).tril()
        attended[length:, length:] = before.kron(torch.eye(length - first, dtype=torch.bool, device=tokens.device))
        mask = additive(attended, rows.dtype, rows.device).expand(batch, 1, -1, -1)
        places = torch.cat([start, *(start[first:] + ahead for ahead in range(1, 1 + self.depth))])
        places = places.clamp(max=target.config.max_position_embeddings - 1)  # the end of the longest sequences
        model = target.parts.model
        linear: dict[nn.Module, Callable[[Tensor], Tensor]] = {
            one: partial(product, one) for one in model.modules() if isinstance(one, nn.Linear)}
        with replaced(linear), Enter(self.layer, rows).applied_to(target.parts):
            found = model.get_decoder()(
                input_ids=tokens.new_zeros(rows.shape[:2]), attention_mask=Windows(model).masks(mask),
                position_ids=places.expand(batch, -1), use_cache=False).last_hidden_state
        return list(found[:, length:].chunk(self.depth, 1))


class TransferExpander:
    """An `Expander`: the first step drafts all depths, and leaves their logits as its state."""

    def __init__(self, session: Session, network: TransferMaps) -> None:
        self.session, self.network = session, network

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the logits (1, V) of the first depth and those (1, K, V) of all that fit into the context."""
        network, session = self.network, self.session
        state = session.states(network.reads)[-1]
        room = session.engine.max_len - len(session.tokens)
        pseudo = torch.stack([one(state) for one in network.maps])[:room]
        logits = session.draft_read([0] * len(pseudo), Enter(network.layer, pseudo[None])).logits
        return logits[:1], logits[None]

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, V) of a depth, which tokens do not change."""
        return states[:, depth], states


@dataclass(frozen=True)
class HiddenTransfer(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Wu et al. 2024, arXiv 2404.12022"
    network: ClassVar[type[Network]] = TransferMaps
    expander: ClassVar[type[Expander]] = TransferExpander
