"""What a model makes of every place of many texts: the input of its last MLP, by which datastores are searched."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.hooks import Watch

NAME = "mlp:-1"
WATCH = Watch((NAME,))
WINDOW = 1024  # tokens of a long text that are read together
BATCH = 1024   # places of one forward, padding counted


class Passage(NamedTuple):
    """Tokens that are read together; the first `skipped` places are there as context only."""

    tokens: Sequence[int]
    skipped: int = 0

    @property
    def places(self) -> int:
        """How many have a next token and are no context."""
        return len(self.tokens) - 1 - self.skipped


def passages(text: Sequence[int], size: int) -> Iterator[Passage]:
    """Cut a text into pieces of at most `size` ≥ 2 tokens that overlap by half, so that each place comes once."""
    step, start = size // 2, 0
    while len(text) > 1:
        yield Passage(text[start:start + size], size - 1 - step if start else 0)
        if start + size >= len(text):
            return
        start += step


@torch.inference_mode()
def keys(engine: Engine, found: Sequence[Passage]) -> Iterator[tuple[Passage, Tensor]]:
    """Each passage with the keys (places, D) in float32 of its places, passages of like length together.

    These forwards are no part of a run, so the engine does not count them.
    """
    decoder, device = engine.model.get_decoder(), engine.device
    for group in _groups(found):
        width = max(len(each.tokens) for each in group)
        tokens = [[*each.tokens, *[0] * (width - len(each.tokens))] for each in group]
        with WATCH.applied_to(engine.parts) as seen:
            decoder(input_ids=torch.tensor(tokens, device=device), use_cache=False)
        rows = seen[NAME].view(len(group), width, -1)  # some MLPs are given the places of all texts in one row
        for each, row in zip(group, rows, strict=True):
            yield each, row[each.skipped:len(each.tokens) - 1].float().cpu()


def _groups(found: Sequence[Passage]) -> Iterator[list[Passage]]:
    group = list[Passage]()
    for each in sorted(found, key=lambda passage: len(passage.tokens)):
        if group and (len(group) + 1) * len(each.tokens) > BATCH:
            yield group
            group = []
        group.append(each)
    if group:
        yield group
