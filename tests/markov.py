"""A first-order Markov chain as a model: searches over it can be checked by hand."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.engine import Engine

START, A, B, END = 0, 1, 2, 3
LETTERS = {A: "a", B: "b", END: "$"}
TABLE = torch.tensor([[0.0, 0.45, 0.35, 0.20], [0.0, 0.10, 0.50, 0.40], [0.0, 0.55, 0.05, 0.40], [0.0, 0.0, 0.0, 1.0]])


class Decoder(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, ids: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(ids, self.size).float())


class Markov(nn.Module):
    """Logits depend on the last token alone; the hidden state is that token, one-hot."""

    def __init__(self, table: Tensor = TABLE) -> None:
        super().__init__()
        text = SimpleNamespace(num_hidden_layers=0, layer_types=None, vocab_size=len(table))
        self.config = SimpleNamespace(get_text_config=lambda: text, is_encoder_decoder=False)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.table, self.decoder = table.log(), Decoder(len(table))

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def forward(self, input_ids: Tensor, logits_to_keep: int, **_: object) -> Any:
        self.decoder(input_ids)
        return SimpleNamespace(logits=self.table[input_ids][:, -logits_to_keep:])


def markov() -> Engine:
    """Create an engine over the chain."""
    return Engine(Markov(), 64)


def letters(tokens: tuple[int, ...] | list[int]) -> str:
    """Return the tokens as letters."""
    return "".join(LETTERS[token] for token in tokens)
