"""An expander of trees whose distributions are known."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

VOCAB, LEVELS = 6, 3
Path = tuple[int, ...]


class Scripted:
    """An expander with a random distribution after every path; a state is its path."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(3)
        self.table = {path: 2 * torch.randn(VOCAB, generator=random) for length in range(LEVELS)
                      for path in itertools.product(range(VOCAB), repeat=length)}

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.table[()][None], torch.zeros(1, 0)

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        states = torch.cat([states, torch.tensor(tokens)[:, None].float()], 1)
        assert (ancestors.sum(1) == depth).all()
        return torch.stack([self.table[tuple(map(int, row))] for row in states.tolist()]), states

    def value(self, path: Path) -> float:
        return sum(float(torch.log_softmax(self.table[path[:at]], -1)[token]) for at, token in enumerate(path))

    def likely(self, path: Path, count: int) -> bool:
        """Whether the last token is one of the `count` most probable ones after those before it."""
        return path[-1] in self.table[path[:-1]].topk(count).indices.tolist()
