"""Networks that predict a block of tokens in one pass, whose rows for further tokens are masks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.errors import UserError
from harness.heads.layer import Context, DraftLayer, Shape
from harness.heads.network import Recipe, TargetParts
from harness.heads.own_output import OwnOutput
from harness.heads.taps import taps


@dataclass(frozen=True)
class BlockSettings:
    """`block` rows, of which the first is the last token; sizes of the `layers`, 0 for the target's.

    `taps` are layers of the target as in "2-5-7". With `causal`, a row does not see those behind it. Row j predicts the
    token behind its own place with `sample_from_anchor`, else the one at its own place, and row 0 nothing. `windows`
    are how many positions each layer sees, as in "64-64-0", 0 for all; with `causal_windows`, the layers that do not
    see all are causal. With `unit`, embeddings are scaled to the size of hidden states. With `draft_vocab`, an output
    layer of its own drafts so many tokens, the first ones or those that a loaded head lists.
    """

    block: Annotated[int, Field(ge=2, le=64)] = 8
    layers: Annotated[int, Field(ge=1, le=32)] = 2
    heads: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    taps: str = ""
    draft_vocab: Annotated[int, Field(ge=0)] = 0
    causal: bool = False
    windows: Annotated[str, Field(pattern=r"^(\d+(-\d+)*)?$")] = ""
    causal_windows: bool = False
    sample_from_anchor: bool = False
    unit: bool = True


class BlockNetwork(OwnOutput):
    """The drafter of DFlash: layers in which the rows of a block attend to each other and to the target's states.

    All layers make their keys and values of the same states, norm(fc(taps)), each with its own projections; these alone
    stay in the caches. The state of a step is the whole block of normed outputs, which the first step computes.
    """

    Settings: ClassVar[type] = BlockSettings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, decay=0.7788)  # e^(−1/4)
    free: ClassVar[bool] = True
    stride: ClassVar[int] = 4

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        shape, size = Shape.of(target.config, settings.heads, settings.mlp), target.hidden
        self.fc = nn.Linear(len(self.reads) * size, size, bias=False)
        self.context_norm, self.norm = nn.RMSNorm(size, shape.eps), nn.RMSNorm(size, shape.eps)
        self.layers = nn.ModuleList(self.layer(shape) for _ in range(settings.layers))
        self.mask = nn.Parameter(torch.randn(size))
        self.windows = [int(number) for number in settings.windows.split("-") if number] or [0] * settings.layers
        if len(self.windows) != settings.layers:
            raise UserError(f"The setting 'windows' of the head is '{settings.windows}', but it has {settings.layers} "
                            "layers.")
        if settings.draft_vocab:
            self.output = self.own_output()

    def layer(self, shape: Shape) -> DraftLayer:
        """Return a new layer."""
        return DraftLayer(shape, normed=True)

    @property
    def depth(self) -> int:
        """One token a row; the first row predicts none unless `sample_from_anchor`."""
        return int(self.settings.block) - (not self.settings.sample_from_anchor)

    @property
    def reads(self) -> tuple[str, ...]:
        """The taps."""
        return taps(self.target.layers, self.settings.taps)

    @property
    def caches(self) -> int:
        """One a layer."""
        return int(self.settings.layers)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The row of the block for this depth; the first step computes the block."""
        state = state if depth else self.block(state, tokens, context)
        return self.row(depth, state), state

    def row(self, depth: int, state: Tensor) -> Tensor:
        """Return the row (B, Q, D) of blocks (B, Q, rows · D, …) that predicts at a depth."""
        size = self.target.hidden
        first = (depth + (not self.settings.sample_from_anchor)) * size
        return state[..., first:first + size]

    def block(self, states: Tensor, tokens: Tensor, context: Context) -> Tensor:
        """Return the blocks (B, Q', rows · D) behind the rows wanted, and append to the caches."""
        known, rows = self.context_norm(self.fc(states)), int(self.settings.block)
        words = self.words(tokens[:, context.wanted])
        x = torch.cat([words[:, :, None], self.mask.expand(*words.shape[:2], rows - 1, -1)], 2)
        ahead = 1 + torch.arange(rows, device=tokens.device)
        positions = (context.positions[context.wanted, None] + ahead).flatten()
        masks, x = self._masks(context.mask[context.wanted], positions), x.flatten(1, 2)
        layers = cast(Iterable[DraftLayer], self.layers)
        for layer, cache, window in zip(layers, context.caches, self.windows, strict=True):
            cache.add(*layer.attention.keys(known, context.positions))
            x = layer.beside(x, positions, cache, masks[window])
        found: Tensor = self.norm(x).unflatten(1, (-1, rows)).flatten(2)
        return found

    def _masks(self, seen: Tensor, positions: Tensor) -> dict[int, Tensor]:
        """Return the mask of each window for rows at `positions` of blocks that see T positions by `seen` (Q, T)."""
        masks, rows = dict[int, Tensor](), int(self.settings.block)
        for window in set(self.windows):
            causal = self.settings.causal or bool(window and self.settings.causal_windows)
            masks[window] = block_mask(seen, rows, causal)
            if window:
                places = torch.cat([torch.arange(seen.shape[1], device=seen.device), positions])
                masks[window] &= (positions[:, None] - places).abs() < window
        return masks

    def logits(self, depth: int, features: Tensor) -> Tensor:
        """Those of the target's output layer, or of the head's own."""
        return self.spread(self.drafted(features))

    def drafted(self, features: Tensor) -> Tensor:
        """Return the logits of the tokens that are drafted."""
        row = self.aligned(features)
        found: Tensor = self.output(row) if self.settings.draft_vocab else self.target.logits(row)
        return found

    def aligned(self, features: Tensor) -> Tensor:
        """The row of the block, to which a subclass may append something else."""
        return features[..., :self.target.hidden]


def block_mask(context: Tensor, rows: int, causal: bool) -> Tensor:
    """Return the mask (Q · rows, T + Q · rows) of Q blocks, which see those of T positions that `context` (Q, T) shows.

    A row sees the rows of its own block, with `causal` those up to itself.
    """
    own = torch.ones(rows, rows, dtype=torch.bool, device=context.device)
    blocks = torch.eye(len(context), dtype=torch.bool, device=context.device)
    inside = blocks[:, None, :, None] & (own.tril() if causal else own)[None, :, None]
    return torch.cat([context.repeat_interleave(rows, 0), inside.flatten(2).flatten(0, 1)], 1)
