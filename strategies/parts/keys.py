"""States at every position of many texts, such as the keys of datastores, the input of the last MLP."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.hooks import Watch

NAME = "mlp:-1"
WATCH = Watch((NAME,))
WINDOW = 1024  # tokens of a long text in one forward pass
BATCH = 1024   # positions of one forward, including padding
NEAR = 0.1     # maximum relative distance to stored keys; other kernels and dtypes differ by less


class Passage(NamedTuple):
    """Tokens of one forward pass; the first `skipped` positions are context only."""

    tokens: Sequence[int]
    skipped: int = 0

    @property
    def positions(self) -> int:
        """Return the number of positions that have a next token and are not context."""
        return len(self.tokens) - 1 - self.skipped


def passages(tokens: Sequence[int], size: int) -> Iterator[Passage]:
    """Cut token ids into passages of at most `size` ≥ 2 tokens that overlap by half; each position counts once."""
    step, start = size // 2, 0
    while len(tokens) > 1:
        yield Passage(tokens[start:start + size], size - 1 - step if start else 0)
        if start + size >= len(tokens):
            return
        start += step


@torch.inference_mode()
def keys(engine: Engine, pieces: Sequence[Passage], name: str = NAME) -> Iterator[tuple[Passage, Tensor]]:
    """Yield each passage with its states (positions, D) in float32; passages of similar length share a batch.

    The `name` of the states is one of `Watch`. These forwards are not part of a run, so the engine does not count them.
    """
    decoder, device = engine.model.get_decoder(), engine.device
    for group in _groups(pieces):
        width = max(len(piece.tokens) for piece in group)
        tokens = [[*piece.tokens, *[0] * (width - len(piece.tokens))] for piece in group]
        with Watch((name,)).applied_to(engine.parts) as seen:
            decoder(input_ids=torch.tensor(tokens, device=device), use_cache=False)
        rows = seen[name].view(len(group), width, -1)  # some MLPs get the positions of all texts in one row
        for piece, row in zip(group, rows, strict=True):
            yield piece, row[piece.skipped:len(piece.tokens) - 1].float().cpu()


def made_by(engine: Engine, piece: Passage, stored: Tensor) -> bool:
    """Return whether the model computes the keys `stored` (positions, D) for a passage, but for small differences."""
    _, rows = next(keys(engine, [piece]))
    return stored.shape == rows.shape and bool((rows - stored).norm() <= NEAR * stored.norm())


def _groups(pieces: Sequence[Passage]) -> Iterator[list[Passage]]:
    group = list[Passage]()
    for piece in sorted(pieces, key=lambda passage: len(passage.tokens)):
        if group and (len(group) + 1) * len(piece.tokens) > BATCH:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
